"""Checks every case of a fixture folder: `python tests/parity/check.py DIR`.

One line per case with the measured error and its bound. Exit code 1 when a file's sha256 is not the manifest's, a case
misses its bound, fails to run, or is of a kind that nothing here knows; 2 when DIR is no fixture folder.
"""

import os
import sys
from pathlib import Path

# Before torch is imported. MKL's exp rounds the timestep's frequencies differently from processor to processor, and the
# timestep multiplies them by up to 1000: on an Intel Xeon with AVX-512 an embedding misses its 1e-6 with 2.8e-6. This
# mode is the same everywhere, and gives the bits of the processor on which the fixtures were recorded.
os.environ.setdefault("MKL_CBWR", "COMPATIBLE")

import cases_denoiser
import cases_e2e
import cases_sampler
import cases_tables
import cases_text
import cases_vae
import torch
from harness import Case, Check, Measurement, read_manifest, sha256_of

KINDS: dict[str, Check] = (
    cases_denoiser.KINDS
    | cases_e2e.KINDS
    | cases_sampler.KINDS
    | cases_tables.KINDS
    | cases_text.KINDS
    | cases_vae.KINDS
)


class CaseError(Exception):
    """A case that cannot be measured: its file is damaged, or nothing knows its kind."""


def measure(case: Case) -> list[Measurement]:
    """Runs one case. Raises CaseError for a damaged file or an unknown kind."""
    if case.kind not in KINDS:
        raise CaseError(f"unknown kind {case.kind!r}")
    if not case.path.is_file():
        raise CaseError("file is missing")
    if sha256_of(case.path) != case.sha256:
        raise CaseError("sha256 differs from manifest.json")
    measurements = KINDS[case.kind](case)
    if not measurements:
        raise CaseError("nothing was measured")
    return measurements


def describe(case: Case, measurements: list[Measurement]) -> str:
    """The line of a case: its verdict, and the measurement nearest to (or furthest over) its bound."""
    verdict = "ok  " if all(measurement.passes for measurement in measurements) else "MISS"
    values = "  ".join(f"{m.name} {m.error:.3g} <= {m.bound:.3g}" for m in measurements if not m.passes)
    if not values:
        worst = max(measurements, key=lambda m: m.error / m.bound if m.bound else 0.0)
        values = f"{worst.name} {worst.error:.3g} <= {worst.bound:.3g}  ({len(measurements)} measured)"
    return f"{verdict} {case.file:<46} {case.kind:<22} {values}"


def run_case(case: Case) -> tuple[bool, str]:
    """Whether a case passes, and its line."""
    try:
        measurements = measure(case)
    except Exception as error:  # noqa: BLE001 - a case that cannot run is a miss; the others are still checked
        return False, f"MISS {case.file:<46} {case.kind:<22} {type(error).__name__}: {error}"
    return all(measurement.passes for measurement in measurements), describe(case, measurements)


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or not (Path(arguments[0]) / "manifest.json").is_file():
        print("usage: python tests/parity/check.py DIR, where DIR holds manifest.json", file=sys.stderr)
        return 2
    # The bounds of fp32 cases leave no room for TF32.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    cases = read_manifest(Path(arguments[0]))
    passed = 0
    for case in cases:
        passes, line = run_case(case)
        passed += passes
        print(line, flush=True)
    print(f"{passed} of {len(cases)} cases pass")
    return 0 if cases and passed == len(cases) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
