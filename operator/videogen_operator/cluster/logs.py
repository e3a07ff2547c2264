"""Log lines as JSON objects, one a line; while a worker looks at a resource, each of its lines names it."""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

from videogen_operator.cluster.resources import Key

_current: ContextVar[Key | None] = ContextVar("key", default=None)


@contextmanager
def about(key: Key) -> Iterator[None]:
    """Every line that this thread logs within the block is about the resource."""
    token = _current.set(key)
    try:
        yield
    finally:
        _current.reset(token)


class JsonFormatter(logging.Formatter):
    """Time (RFC 3339, UTC), level, logger, message; resource and exception where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        key = _current.get()
        if key is not None:
            line["resource"] = f"{key.namespace}/{key.name}"
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def log_as_json() -> None:
    """Sends the whole process's log to stderr as JSON lines of level INFO and above; libraries only warn."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("videogen").setLevel(logging.INFO)
    # It warns that it cannot handle signals outside of the main thread, which is where they are handled.
    logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)
