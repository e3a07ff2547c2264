"""Groups of shards as real processes, forked from one that has imported torch already."""

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from tests.runner.role_contexts import build_variables, changed
from tests.runner.tiny_model import TinyRun
from torch import Tensor

from videogen_api.naming import Env, Stage
from videogen_api.report import TerminationReport
from videogen_runner import main as runner
from videogen_runner.roles import encode_shards
from videogen_runner.roles.context import Clock
from videogen_runner.shards.rendezvous import Meeting
from videogen_runner.weights.loading import EncoderShard

DEADLINE = 600.0
"""For what must happen, on a machine with other work."""

STUCK = "stuck"
HANGING_TEXT = 2


def fork_server() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "transformers.models.t5.modeling_t5"])
    return context


class HangingShard:
    """Comes to a stop in the middle of one text's blocks, having left a file that says so."""

    def __init__(self, shard: EncoderShard, told: Path) -> None:
        self._shard = shard
        self._told = told
        self._num_texts = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._shard, name)

    def run_blocks(self, x_LC: Tensor) -> Tensor:
        self._num_texts += 1
        if self._num_texts == HANGING_TEXT:
            self._told.touch()
            multiprocessing.Event().wait()
        return self._shard.run_blocks(x_LC)


def run_shard(
    variables: Mapping[str, str], listener: socket.socket | None, log: Path, hangs: Path | None, stops: bool
) -> None:
    """A process from here on, as `python -m videogen_runner.main` is."""
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT), 2)
    runner._log_to_stderr()
    if listener is not None:
        variables = {**variables, Env.SHARDS_LISTENER: str(listener.detach())}
    if hangs is not None:
        load, told = encode_shards.load_encoder_shard, hangs
        encode_shards.load_encoder_shard = lambda *arguments, **options: HangingShard(load(*arguments, **options), told)
    if stops:
        join = encode_shards.join_shards

        def join_and_stop(*arguments: Any) -> Meeting:
            meeting = join(*arguments)
            os.kill(os.getpid(), signal.SIGSTOP)
            return meeting

        encode_shards.join_shards = join_and_stop
    os._exit(runner.main(variables, Clock()))


class Group:
    """The shards of one attempt; ends them all when the test is over."""

    def __init__(
        self,
        context: ForkServerContext,
        run: TinyRun,
        shards: int,
        *,
        attempt: int = 1,
        hanging: int | None = None,
        stopping: int | None = None,
    ) -> None:
        """`hanging` is a shard that hangs in the middle of a text; `stopping` one that SIGSTOP reaches right after the
        meeting."""
        self.plan = changed(run.plan, encoder=run.plan.encoder.model_copy(update={"shards": shards}))
        self.folder = run.folder / f"group-{shards}-{attempt}"
        self.shards = range(shards)
        self._context = context
        self._hanging = hanging
        self._stopping = stopping
        self._attempt = attempt
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._processes: dict[int, ForkServerProcess] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._listener.close()
        for process in self._processes.values():
            process.kill()
            process.join()

    def start(
        self, *shards: int, deadline_seconds: int = 600, variables: Mapping[str, str] = MappingProxyType({})
    ) -> "Group":
        """These shards, or all; `variables` come on top of the usual ones."""
        host, port = self._listener.getsockname()
        for shard in shards or self.shards:
            folder = self.folder / str(shard)
            folder.mkdir(parents=True)
            environment = {
                **build_variables(folder, self.plan, Stage.ENCODE),
                Env.INDEX: str(shard),
                Env.ATTEMPT: str(self._attempt),
                Env.POD: f"shard-{shard}",
                Env.DEVICE: "cpu",
                Env.SCRATCH: str(folder),
                Env.SHARDS_ADDRESS: f"{host}:{port}",
                Env.START_DEADLINE: str(deadline_seconds),
                **variables,
            }
            self._processes[shard] = self._context.Process(
                target=run_shard,
                args=(
                    environment,
                    self._listener if shard == 0 else None,
                    folder / "log",
                    self.folder / STUCK if shard == self._hanging else None,
                    shard == self._stopping,
                ),
            )
            self._processes[shard].start()
        return self

    def wait_until(self, is_so: Callable[[], bool]) -> None:
        """Returns when it is; the end of a shard, or too long a time, fail the test."""
        deadline = time.monotonic() + DEADLINE
        while not is_so():
            assert time.monotonic() < deadline, "the group did not come to where the test wants it"
            for shard, process in self._processes.items():
                process.join(0.02)
                assert process.exitcode is None, f"shard {shard} ended: {self.log(shard)}"

    @property
    def is_stuck(self) -> bool:
        """Whether the hanging shard hangs."""
        return (self.folder / STUCK).exists()

    def is_stopped(self, shard: int) -> bool:
        """Whether SIGSTOP has reached it."""
        status = Path(f"/proc/{self._processes[shard].pid}/status").read_text()
        return any(line.startswith("State:\tT") for line in status.splitlines())

    def signal(self, shard: int, number: int) -> None:
        pid = self._processes[shard].pid
        assert pid is not None
        os.kill(pid, number)

    def codes(self, *shards: int) -> dict[int, int | None]:
        """Exit codes of these shards, or of all, when they have ended."""
        deadline = time.monotonic() + DEADLINE
        codes: dict[int, int | None] = {}
        for shard in shards or self.shards:
            self._processes[shard].join(max(0.0, deadline - time.monotonic()))
            codes[shard] = self._processes[shard].exitcode
        return codes

    def report(self, shard: int) -> TerminationReport:
        report = TerminationReport.from_bytes((self.folder / str(shard) / "termination.json").read_bytes())
        assert report is not None
        return report

    def log(self, shard: int) -> str:
        return (self.folder / str(shard) / "log").read_text()
