"""A runner process from its environment to its exit code: `python -m videogen_runner.main`.

The only place that exits. A role returns its report or raises; what it raised becomes an exit code of
`videogen_api.errors` and the termination report. Every event is one line on stderr, with its time in UTC.
"""

import faulthandler
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import assert_never

from videogen_api.errors import ConfigInvalid, ExitCode, Internal, OutOfMemory, VideogenError
from videogen_api.naming import Stage
from videogen_api.plan import NUMERICS_VERSION, Plan
from videogen_api.report import CollectReport, EncodeReport, GenerateReport, PreflightReport, TerminationReport
from videogen_runner.environment import Environment, termination_log
from videogen_runner.memory import is_out_of_memory, peak_memory
from videogen_runner.progress import ProgressHolder, serve_progress
from videogen_runner.roles.context import Clock, RoleContext
from videogen_runner.store import open_store

log = logging.getLogger("videogen")

RoleReport = PreflightReport | EncodeReport | GenerateReport | CollectReport
Role = Callable[[RoleContext], RoleReport]

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def main(env: Mapping[str, str], clock: Clock) -> ExitCode:
    """Runs the role that `env` names and writes its termination report; the exit code that the process ends with."""
    started = clock.monotonic()
    with _stop_at_signals() as stop:
        try:
            environment = Environment.parse(env)
        except ConfigInvalid as error:
            # Without a stage there is no report; the kubelet shows the sentence as it is.
            log.error("%s: %s", error.reason, error)
            _write_last_words(termination_log(env), str(error).encode())
            return error.exit_code
        progress = ProgressHolder.starting(environment)
        outcome = _run_role(environment, progress, stop, clock)
        seconds = clock.monotonic() - started
        report = termination_report(environment, outcome, seconds, peak_memory(progress.snapshot().device))
        _write_last_words(environment.termination_log, report.to_bytes())
    return ExitCode(report.exit_code)


def _run_role(
    environment: Environment, progress: ProgressHolder, stop: threading.Event, clock: Clock
) -> RoleReport | VideogenError:
    try:
        with serve_progress(progress, environment) as address:
            log.info(
                "%s %s, attempt %d, serves on %s", environment.stage, environment.pod, environment.attempt, address
            )
            plan = _read_plan(environment.plan)
            storage = plan.storage
            store = open_store(storage.url, environment.credentials, endpoint=storage.endpoint, region=storage.region)
            role = role_of(environment.stage)
            report = role(RoleContext(environment, plan, store, progress, stop, clock))
            log.info("%s is complete", environment.stage)
            return report
    except Exception as error:
        failure = failure_of(error)
        log.error("%s: %s", failure.reason, failure, exc_info=error if isinstance(failure, Internal) else None)
        return failure


def _read_plan(path: Path) -> Plan:
    plan = Plan.read(path)
    if plan.numerics_version != NUMERICS_VERSION:
        raise ConfigInvalid(
            f"the plan {path} has numerics version {plan.numerics_version}, this image {NUMERICS_VERSION}; "
            "use images and operator of one version"
        )
    return plan


def role_of(stage: Stage) -> Role:
    """The role's function. Only its own module is imported: preflight and collect live in an image without torch."""
    match stage:
        case Stage.PREFLIGHT:
            from videogen_runner.roles import preflight

            return preflight.run
        case Stage.ENCODE:
            from videogen_runner.roles import encode

            return encode.run
        case Stage.GENERATE:
            from videogen_runner.roles import generate

            return generate.run
        case Stage.COLLECT:
            from videogen_runner.roles import collect

            return collect.run
        case _:
            assert_never(stage)


def failure_of(error: Exception) -> VideogenError:
    """What a role's exception means to those outside."""
    if isinstance(error, VideogenError):
        return error
    if is_out_of_memory(error):
        return OutOfMemory(f"no memory left: {_first_line(error)}; use a bigger card, more memory or a smaller video")
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "").partition(".")[0]
        return ConfigInvalid(f"this image lacks the Python package {package}; use the one made for this stage")
    return Internal(f"{type(error).__name__}: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def termination_report(
    environment: Environment, outcome: RoleReport | VideogenError, seconds: float, peak_memory_bytes: int
) -> TerminationReport:
    """The last words of a process whose role returned or raised `outcome`."""
    failure = outcome if isinstance(outcome, VideogenError) else None
    return TerminationReport(
        stage=environment.stage,
        pool=environment.pool,
        index=environment.index,
        attempt=environment.attempt,
        exit_code=failure.exit_code if failure else ExitCode.OK,
        reason=failure.reason if failure else None,
        message=str(failure) if failure else f"{environment.stage} is complete",
        seconds=seconds,
        peak_memory_bytes=peak_memory_bytes,
        preflight=outcome if isinstance(outcome, PreflightReport) else None,
        encode=outcome if isinstance(outcome, EncodeReport) else None,
        generate=outcome if isinstance(outcome, GenerateReport) else None,
        collect=outcome if isinstance(outcome, CollectReport) else None,
    )


def _write_last_words(path: Path, content: bytes) -> None:
    """In place: the kubelet mounts this file, so that nothing can be renamed over it."""
    try:
        path.write_bytes(content)
    except OSError as error:
        # The work is in the store, and the exit code says what matters.
        log.warning("cannot write the termination report %s: %s", path, error.strerror)


@contextmanager
def _stop_at_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set.

    The signal's number arrives through a socket at a thread of its own: a handler in Python would wait until the main
    thread comes back from a denoising step, and would lock itself out where it interrupts `stop.wait()`.
    """
    stop = threading.Event()
    receiver, sender = socket.socketpair()
    sender.setblocking(False)

    def watch() -> None:
        while number := receiver.recv(1):
            if number[0] in _STOP_SIGNALS:
                log.info("%s: stopping", signal.Signals(number[0]).name)
                stop.set()

    watcher = threading.Thread(target=watch, name="signals", daemon=True)
    previous_fd = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    previous = {number: signal.signal(number, _ignore) for number in _STOP_SIGNALS}
    watcher.start()
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(previous_fd)
        sender.close()
        watcher.join()
        receiver.close()


def _ignore(number: int, frame: object) -> None:
    """In place of the default action; the wake-up socket carries the news."""


def _on_one_line(record: logging.LogRecord) -> bool:
    """A prompt or an error can bring line breaks along."""
    record.msg, record.args = record.getMessage().replace("\r", "\\r").replace("\n", "\\n"), None
    return True


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_on_one_line)
    formatter = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.captureWarnings(capture=True)


if __name__ == "__main__":
    faulthandler.enable()
    _log_to_stderr()
    exit_code = main(os.environ, Clock())
    logging.shutdown()
    # At once: a thread may still be inside a denoising step, or wait for a store that does not answer.
    os._exit(exit_code)
