"""What a shard of the text encoder costs to load: bytes read, counted at an S3 server, and memory of its process.

    python benchmarks/shard_load.py WEIGHTS [--dtype bfloat16] [--shards 2 4 8] [--tokens 8]

WEIGHTS holds an `encoder` folder that `videogen weights convert` or `random` has written. Each shard is a process of
its own that reads through a counting proxy from versitygw (tests/store/versitygw.py builds it), takes hidden states of
TOKENS tokens through its blocks, and says what it held. Ends with 1 where a bound does not hold:

- bytes read: at most a part of 1/n of the checkpoint and 5 % of that, replies and their heads included;
- memory: at most 115 % of the shard's weights above what the process held after its imports.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from videogen_api.architecture import DEFAULT_MODEL, TextEncoderShape, architecture_of
from videogen_api.naming import Env
from videogen_runner.models.opensora.t5 import build_on_meta, t5_config
from videogen_runner.models.registry import blueprint_of
from videogen_runner.weights import Component, open_weights
from videogen_runner.weights.loading import load_encoder_shard

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "store"))

BUCKET = "weights"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "correct-horse"}
READ_BOUND = 1.05
MEMORY_BOUND = 1.15


class CountingProxy:
    """Passes connections on to `port`, and counts the bytes that come back."""

    def __init__(self, port: int) -> None:
        self._upstream = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self.bytes_back = 0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            server = socket.create_connection(self._upstream)
            threading.Thread(target=self._pass_on, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self._pass_on, args=(server, client, True), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        try:
            while data := source.recv(1 << 20):
                if counted:
                    with self._lock:
                        self.bytes_back += len(data)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:  # the other side is gone
            source.close()


@contextmanager
def served(weights: Path) -> Iterator[int]:
    """The port of an S3 server whose bucket holds this folder; nothing is copied."""
    import versitygw
    from store_backends import free_port

    program = versitygw.build()
    if program is None:
        raise SystemExit("versitygw needs Go: https://go.dev/dl")
    folder, port = Path(tempfile.mkdtemp(prefix="shard-load-", dir=weights.parent)), free_port()
    (folder / BUCKET / "encoder").mkdir(parents=True)
    for path in (weights / "encoder").iterdir():
        os.link(path, folder / BUCKET / "encoder" / path.name)
        os.setxattr(path, "user.etag", path.name.encode())  # where versitygw looks for what it would have made of a PUT
    address = ["--port", f"127.0.0.1:{port}", "--quiet"]
    keys = ["--access", CREDENTIALS["AWS_ACCESS_KEY_ID"], "--secret", CREDENTIALS["AWS_SECRET_ACCESS_KEY"]]
    server = subprocess.Popen([program, *keys, *address, "posix", folder], stdout=subprocess.DEVNULL)  # noqa: S603 - ours
    try:
        while socket.socket().connect_ex(("127.0.0.1", port)):
            time.sleep(0.05)
        yield port
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(folder)


def resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def measure(
    endpoint: str, shard: int, shards: int, dtype_name: str, tokens: int, shape: TextEncoderShape
) -> dict[str, Any]:
    """Loads and runs one shard in this process."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    architecture, dtype = replace(architecture_of(DEFAULT_MODEL), encoder=shape), getattr(torch, dtype_name)
    with tempfile.TemporaryDirectory() as scratch:
        env = {**CREDENTIALS, Env.SCRATCH: scratch}
        weights = open_weights(f"s3://{BUCKET}", env, model=DEFAULT_MODEL, endpoint=endpoint)
        build_on_meta(t5_config(shape))  # imports transformers
        weights.files(Component.ENCODER)
        imported, started = resident("VmRSS"), time.monotonic()
        part = load_encoder_shard(weights, architecture, shard, shards, torch.device("cpu"), dtype)
        loaded, load_peak = time.monotonic(), resident("VmHWM")
        x_LC = torch.randn(tokens, shape.d_model).to(part.hidden_dtype)
        if part.is_first:
            x_LC = part.embed([37 * index % shape.vocab_size for index in range(tokens)])
        part.run_blocks(x_LC)
        return {
            "weights": sum(parameter.nbytes for parameter in part.stack.parameters()),
            "imported": imported,
            "load_peak": load_peak - imported,
            "peak": resident("VmHWM") - imported,
            "process": resident("VmHWM"),
            "load_seconds": loaded - started,
            "run_seconds": time.monotonic() - loaded,
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--shards", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--measure", nargs=3, metavar=("ENDPOINT", "SHARD", "SHARDS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    folder: Path = arguments.weights / "encoder"
    shape = blueprint_of(DEFAULT_MODEL, Component.ENCODER).sizes(json.loads((folder / "config.json").read_text()))
    if arguments.measure:
        endpoint, shard, shards = arguments.measure
        print(json.dumps(measure(endpoint, int(shard), int(shards), arguments.dtype, arguments.tokens, shape)))
        return 0
    checkpoint = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    print(f"checkpoint {checkpoint:,} bytes; computing in {arguments.dtype}, {arguments.tokens} tokens\n")
    columns = ["shards", "shard", "read MB", "of 1/n", "weights MiB", "load MiB", "load and run MiB", "of weights"]
    columns += ["whole process MiB", "load s", "run s"]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    failed = False
    with served(arguments.weights) as port:
        for shards in arguments.shards:
            for shard in range(shards):
                proxy = CountingProxy(port)
                command = [sys.executable, __file__, *sys.argv[1:]]
                command += ["--measure", proxy.endpoint, str(shard), str(shards)]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603 - ours
                found = json.loads(done.stdout.splitlines()[-1])
                read_part = proxy.bytes_back * shards / checkpoint
                memory_part = found["peak"] / found["weights"]
                failed |= read_part > READ_BOUND or memory_part > MEMORY_BOUND
                mib = {name: f"{found[name] / 2**20:,.0f}" for name in ("weights", "load_peak", "peak", "process")}
                cells = [f"{shards}", f"{shard}", f"{proxy.bytes_back / 1e6:,.1f}", f"{read_part:.3f}"]
                cells += [mib["weights"], mib["load_peak"], mib["peak"], f"{memory_part:.3f}", mib["process"]]
                cells += [f"{found['load_seconds']:.1f}", f"{found['run_seconds']:.1f}"]
                print(f"| {' | '.join(cells)} |", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
