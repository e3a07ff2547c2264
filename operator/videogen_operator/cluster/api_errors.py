"""What the API server can answer instead of what was asked for.

ApiError
+-- NotFound          404
+-- AlreadyExists     409 on create
+-- Conflict          409 otherwise: the object has changed, or is not the one that was meant
+-- Forbidden         401, 403: rights, quota, Pod Security
|   +-- NamespaceTerminating   nothing new may be created there, because all that there is is being deleted
+-- Gone              410: a list took so long that its start is forgotten
+-- Invalid           any other 4xx: the request as it is will never be accepted
+-- TooManyRequests   429
+-- Unavailable       5xx, and no answer at all: nobody knows whether the request was carried out
"""

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

_MAX_SHOWN_BODY = 200


class ApiError(Exception):
    """`code` is the HTTP status, 0 where there was no answer; the text carries the server's own message."""

    def __init__(self, message: str, *, code: int, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after = retry_after
        """Seconds that the server asks to wait; None where it does not say."""


class NotFound(ApiError):
    pass


class AlreadyExists(ApiError):
    pass


class Conflict(ApiError):
    pass


class Forbidden(ApiError):
    pass


class NamespaceTerminating(Forbidden):
    pass


class Invalid(ApiError):
    pass


class Gone(ApiError):
    pass


class TooManyRequests(ApiError):
    pass


class Unavailable(ApiError):
    pass


class NotLeader(ApiError):
    pass


def error_of_reply(request: str, code: int, headers: Mapping[str, str], body: bytes) -> ApiError:
    """The error of a reply whose status is not 2xx; `request` names verb and path in its message."""
    status = _read_status(body)
    detail = status.get("message") or body[:_MAX_SHOWN_BODY].decode(errors="replace") or "no message"
    return _class_of(code, status)(
        f"{request}: {code}: {detail}", code=code, retry_after=_read_seconds(headers.get("Retry-After"))
    )


def _class_of(code: int, status: Mapping[str, Any]) -> type[ApiError]:
    if code == HTTPStatus.CONFLICT:
        return AlreadyExists if status.get("reason") == "AlreadyExists" else Conflict
    causes = (status.get("details") or {}).get("causes") or ()
    if code == HTTPStatus.FORBIDDEN and any(cause.get("reason") == "NamespaceTerminating" for cause in causes):
        return NamespaceTerminating
    if code >= HTTPStatus.INTERNAL_SERVER_ERROR or code < HTTPStatus.BAD_REQUEST:
        return Unavailable
    return _CLASS_OF_CODE.get(code, Invalid)


_CLASS_OF_CODE: dict[int, type[ApiError]] = {
    HTTPStatus.UNAUTHORIZED: Forbidden,
    HTTPStatus.FORBIDDEN: Forbidden,
    HTTPStatus.NOT_FOUND: NotFound,
    HTTPStatus.GONE: Gone,
    HTTPStatus.TOO_MANY_REQUESTS: TooManyRequests,
}


def _read_status(body: bytes) -> dict[str, Any]:
    """The `Status` object of the API server; proxies on the way answer with something else."""
    try:
        status = json.loads(body)
    except ValueError:
        return {}
    return status if isinstance(status, dict) else {}


def _read_seconds(header: str | None) -> float | None:
    return float(header) if header is not None and header.isascii() and header.isdigit() else None
