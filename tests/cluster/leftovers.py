"""What of a cluster still runs."""

import threading
from pathlib import Path


def processes_naming(folder: Path) -> list[str]:
    """Command lines that hold the folder's path, of every process that runs."""
    commands = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_text().replace("\0", " ")
        except (FileNotFoundError, ProcessLookupError):  # it ended while we looked
            continue
        if str(folder) in command:
            commands.append(command)
    return commands


def wait_until_ended(folder: Path, seconds: float = 10.0) -> list[str]:
    """The processes that still name the folder when time is up: empty as soon as there are none."""
    pause = threading.Event()
    for _ in range(int(seconds / 0.05)):
        if not processes_naming(folder):
            return []
        pause.wait(0.05)
    return processes_naming(folder)
