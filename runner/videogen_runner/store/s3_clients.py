"""The two boto3 clients of an S3 store: one that repeats requests, and one that sends each once."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config

from videogen_api.errors import ConfigInvalid, StoreDenied

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

# Names under which AWS's own SDKs find credentials that are not written in the environment itself.
_CREDENTIAL_SOURCES = (
    "AWS_PROFILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)


@dataclass(frozen=True)
class Limits:
    """How long one request may wait, and how often it is sent before the store counts as unavailable."""

    connect_seconds: float = 5.0
    read_seconds: float = 60.0
    attempts: int = 5


@dataclass(frozen=True)
class Clients:
    """`repeating` sends a request up to `attempts` times, with back-off; `once` is for conditional PUTs."""

    repeating: "S3Client"
    once: "S3Client"
    attempts: int


def connect(env: Mapping[str, str], endpoint: str | None, region: str | None, limits: Limits) -> Clients:
    """Clients with the credentials of `env`; nothing is sent yet.

    Keys in `env` win over the sources that boto3 reads from the process's own environment (profile, web identity,
    container). Raises StoreDenied where there are none of them, ConfigInvalid for an endpoint that is no url.
    """
    key_id, secret = env.get("AWS_ACCESS_KEY_ID"), env.get("AWS_SECRET_ACCESS_KEY")
    if not (key_id and secret) and not any(env.get(name) for name in _CREDENTIAL_SOURCES):
        raise StoreDenied(
            "the store needs credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY "
            "(in a cluster: spec.storage.credentialsSecret)"
        )
    session = boto3.Session(
        aws_access_key_id=key_id or None,
        aws_secret_access_key=secret or None,
        aws_session_token=env.get("AWS_SESSION_TOKEN") or None,
        region_name=region or env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION") or "us-east-1",
    )
    endpoint = endpoint or env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL") or None
    return Clients(
        repeating=_build(session, endpoint, limits, limits.attempts),
        once=_build(session, endpoint, limits, 1),
        attempts=limits.attempts,
    )


def _build(session: boto3.Session, endpoint: str | None, limits: Limits, attempts: int) -> "S3Client":
    config = Config(
        connect_timeout=limits.connect_seconds,
        read_timeout=limits.read_seconds,
        retries={"mode": "standard", "total_max_attempts": attempts},
        max_pool_connections=32,
        # Services behind an endpoint of their own seldom have a name per bucket, or AWS's trailing checksums.
        s3={"addressing_style": "path" if endpoint else "auto"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    try:
        return session.client("s3", endpoint_url=endpoint, config=config)
    except ValueError as error:
        raise ConfigInvalid(f"storage endpoint {endpoint!r} is not a url such as http://minio.storage:9000") from error
