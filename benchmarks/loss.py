"""Runner processes that are killed, stopped and lied to, hundreds of times: is any clip lost, doubled or different?

    python -m benchmarks.loss --store directory|moto|versitygw [--runs 180] [--tiny 20] [--first-seed 0]

Each run has three runners and four clips; tests/loss/ says what happens to them. Prints a line for each run with a
problem, and at the end the figures of docs/benchmarks/loss.md.
"""

import argparse
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.loss.play import Contents, Outcome, Workload, play, problems, stand_in_workload, tiny_workload
from tests.loss.runner_process import unreliable_proxy
from tests.store import store_backends, versitygw
from tests.store.store_backends import Backend
from tests.store.store_proxy import Proxy

from videogen_runner.roles.generate import Times
from videogen_runner.weights.random_weights import PRESETS, write_random

STORE_ERRORS = 0.01
LEASES = {"directory": 1.0, "moto": 2.0, "versitygw": 2.0}


@contextmanager
def serve(kind: str, folder: Path) -> Iterator[Backend]:
    """A store of that kind."""
    if kind == "directory":
        with store_backends.directory(folder / "store") as backend:
            yield backend
    elif kind == "moto":
        with store_backends.moto() as backend:
            yield backend
    else:
        program = versitygw.build()
        if program is None:
            sys.exit("versitygw needs Go: https://go.dev/dl")
        with store_backends.real_s3(program) as backend:
            yield backend


def play_once(
    folder: Path, backend: Backend, workload: Workload, seed: int, times: Times, *, disturbed: bool = True
) -> Outcome:
    """One run in a fresh place: a folder's errors are raised by its client, those of a server happen on the way."""
    place = backend.elsewhere()
    if place.endpoint is None or not disturbed:
        errors = STORE_ERRORS if disturbed else 0.0
        return play(folder, place, workload, seed=seed, times=times, store_errors=errors, disturbed=disturbed)
    with Proxy(int(place.endpoint.rpartition(":")[2])) as proxy:
        unreliable_proxy(proxy, STORE_ERRORS, seed)
        through = Backend(place.kind, place.url, proxy.endpoint)
        return play(folder, place, workload, seed=seed, times=times, through=through)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--store", choices=sorted(LEASES), required=True)
    parser.add_argument("--runs", type=int, default=180, help="with a stand-in for the networks")
    parser.add_argument("--tiny", type=int, default=20, help="with the tiny networks")
    parser.add_argument("--first-seed", type=int, default=0)
    arguments = parser.parse_args()
    lease = LEASES[arguments.store]
    times = Times(lease=lease, heartbeat=lease / 5, poll=lease / 10)
    outcomes: list[Outcome] = []
    found: list[str] = []
    with ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="loss-")))
        backend = running.enter_context(serve(arguments.store, folder))
        workloads = [("stand-in", stand_in_workload(), arguments.runs)]
        if arguments.tiny:
            write_random(PRESETS["tiny"], folder / "weights", seed=0)
            workloads.append(("tiny", tiny_workload(folder / "prepared", folder / "weights"), arguments.tiny))
        for name, workload, runs in workloads:
            undisturbed: Contents = play_once(
                folder / f"{name}-undisturbed", backend, workload, 0, times, disturbed=False
            ).contents
            for seed in range(arguments.first_seed, arguments.first_seed + runs):
                outcome = play_once(folder / f"{name}-{seed}", backend, workload, seed, times)
                outcomes.append(outcome)
                for problem in problems(outcome, undisturbed, times):
                    found.append(f"{name} {seed}: {problem}")
                    print(found[-1], flush=True)
                if len(outcomes) % 20 == 0:
                    print(render(arguments.store, outcomes, found, lease), flush=True)
    print(render(arguments.store, outcomes, found, lease))
    return 1 if found else 0


def render(store: str, outcomes: list[Outcome], found: list[str], lease: float) -> str:
    """The figures of all runs as lines of Markdown."""
    codes = sum((outcome.exit_codes for outcome in outcomes), Counter[int]())
    redone = [seconds for outcome in outcomes for seconds, _ in outcome.redone if seconds]
    idle = [seconds for outcome in outcomes for seconds, _ in outcome.idle]
    return "\n".join(
        [
            f"store {store}, lease {lease:.1f} s, {len(outcomes)} runs, {len(found)} problems",
            f"processes {sum(outcome.processes for outcome in outcomes)}, exit codes {dict(sorted(codes.items()))}",
            f"attempts beyond the first {sum(outcome.attempts - 1 for outcome in outcomes)}",
            f"clips taken over {sum(len(outcome.redone) for outcome in outcomes)}, with work redone {len(redone)}",
            f"work redone: median {statistics.median(redone or [0.0]):.3f} s, most {max(redone, default=0.0):.3f} s",
            f"waits for a take-over {len(idle)}",
            f"waited: median {statistics.median(idle or [0.0]):.3f} s, most {max(idle, default=0.0):.3f} s",
            f"seconds a run: median {statistics.median(outcome.seconds for outcome in outcomes):.1f}",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
