"""Folders that appear whole or not at all."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from videogen_runner.store.files import file_errors


@contextmanager
def appearing_folder(folder: Path) -> Iterator[Path]:
    """An unfinished folder beside it, which takes its name at the end; after an error nothing is left.

    Where another process has finished the same folder meanwhile, that one stays. Raises StoreDenied or
    StoreUnavailable for a place that cannot be written to, or has no room left.
    """
    with file_errors("write", str(folder)):
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=folder.parent))
        try:
            yield unfinished
            # mkdtemp keeps others out; weights are for every user that may enter the directory.
            unfinished.chmod(0o755)
            try:
                unfinished.rename(folder)
            except OSError:
                if not folder.is_dir():
                    raise
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
