"""A text encoder of full size, as a group of shard processes on this machine and as one process: memory, time, bytes.

    python -m benchmarks.shard_group WEIGHTS [--model open-sora-v1.2] [--shards 4] [--prompts 4] [--dtype bfloat16]

WEIGHTS is what `videogen weights convert` or `random` has written. Runs the real encode role, as a group of processes
that meet and pass hidden states on, and then as one process; every process computes in one thread. Ends with 1 where
the two do not publish the same bytes. The figures are in docs/benchmarks/encoder-shards.md.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.runner.role_contexts import build_variables, changed
from tests.runner.tiny_model import TinyRun, build_prompt, tiny_plan
from tests.store.store_backends import free_port

from videogen_api.architecture import ARCHITECTURES, DEFAULT_MODEL
from videogen_api.naming import Env, Stage
from videogen_api.plan import Dtype, Plan
from videogen_api.report import EncodeReport, TerminationReport

LOOK_SECONDS = 0.2


@dataclass(frozen=True)
class Ended:
    """What a process left, how long it took, and the most that it ever held, in bytes, imports included."""

    report: EncodeReport
    seconds: float
    resident_bytes: int


def build(folder: Path, weights: Path, model: str, shards: int, dtype: Dtype, prompts: int) -> Plan:
    texts = [f"A red fox runs through fresh snow between birches in low winter sun, take {n}" for n in range(prompts)]
    plan = tiny_plan(folder, weights, prompts=tuple(build_prompt(f"p{n}", text) for n, text in enumerate(texts)))
    return changed(
        plan,
        model=plan.model.model_copy(update={"name": model}),
        encoder=plan.encoder.model_copy(update={"shards": shards, "dtype": dtype}),
    )


def encode(folder: Path, plan: Plan) -> list[Ended]:
    """Runs all shards of the plan to their end. Raises SystemExit with the log of one that does not end well."""
    address = f"127.0.0.1:{free_port()}"
    processes = {}
    for shard in range(plan.encoder.shards):
        place = folder / f"shard-{shard}"
        place.mkdir(parents=True)
        environment = {
            **os.environ,
            **build_variables(place, plan, Stage.ENCODE),
            "OMP_NUM_THREADS": "1",
            Env.INDEX: str(shard),
            Env.POD: place.name,
            Env.DEVICE: "cpu",
            Env.SCRATCH: str(place),
            Env.SHARDS_ADDRESS: address,
        }
        with (place / "log").open("wb") as log:
            command = [sys.executable, "-m", "videogen_runner.main"]
            processes[place] = subprocess.Popen(command, env=environment, stderr=log)  # noqa: S603 - ours
    peaks = dict.fromkeys(processes, 0)
    while any(process.poll() is None for process in processes.values()):
        for place, process in processes.items():
            peaks[place] = max(peaks[place], most_resident(process.pid))
        time.sleep(LOOK_SECONDS)
    ended = []
    for place, process in processes.items():
        if process.returncode:
            raise SystemExit(f"{place.name} ended with {process.returncode}: {(place / 'log').read_text()}")
        report = TerminationReport.from_bytes((place / "termination.json").read_bytes())
        if report is None or report.encode is None:
            raise SystemExit(f"{place.name} left no report: {(place / 'log').read_text()}")
        ended.append(Ended(report.encode, report.seconds, peaks[place]))
    return ended


def most_resident(pid: int) -> int:
    """VmHWM in bytes; 0 of a process that is over."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except FileNotFoundError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--model", choices=sorted(ARCHITECTURES), default=DEFAULT_MODEL)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--dtype", choices=[dtype.value for dtype in Dtype], default=Dtype.BFLOAT16.value)
    arguments = parser.parse_args()
    print("| processes | shard | most held, GiB | load s | encode s | all s |\n|---|---|---|---|---|---|")
    embeddings = []
    for shards in (arguments.shards, 1):
        with tempfile.TemporaryDirectory(prefix="shard-group-") as name:
            folder = Path(name)
            plan = build(
                folder, arguments.weights.resolve(), arguments.model, shards, Dtype(arguments.dtype), arguments.prompts
            )
            TinyRun(folder, plan).preflight()
            for shard, ended in enumerate(encode(folder, plan)):
                cells = [f"{shards}", f"{shard}", f"{ended.resident_bytes / 2**30:.2f}"]
                cells += [f"{ended.report.load_seconds:.1f}", f"{ended.report.seconds:.1f}", f"{ended.seconds:.1f}"]
                print(f"| {' | '.join(cells)} |", flush=True)
            found = {
                path.name: hashlib.sha256(path.read_bytes()).hexdigest()
                for path in sorted((folder / "store").rglob("embeddings/**/*.safetensors"))
            }
            embeddings.append(found)
    print(f"\n{len(embeddings[0])} embeddings; equal bytes: {embeddings[0] == embeddings[1]}")
    return int(embeddings[0] != embeddings[1] or len(embeddings[0]) < arguments.prompts)


if __name__ == "__main__":
    sys.exit(main())
