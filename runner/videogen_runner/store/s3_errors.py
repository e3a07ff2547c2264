"""What boto3's errors mean here: which of our errors, and one sentence with bucket, key, action and remedy.

Codes: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html. Replies to HEAD carry no body, so their
code is the bare HTTP status.
"""

from dataclasses import dataclass

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    InvalidConfigError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
)
from botocore.exceptions import (
    ConnectionError as BotoConnectionError,
)

from videogen_api.errors import ConfigInvalid, StoreDenied, StoreUnavailable, VideogenError
from videogen_runner.store.base import ConditionsUnsupported, NotFound

BotoError = ClientError | BotoCoreError

_FORBIDDEN = {401, 403}
# Other codes with status 404 are refusals: versitygw answers so to an access key that it does not know.
_NOT_FOUND = {"NoSuchKey", "404"}
_TRANSIENT_STATUS = {408, 425, 429}
_TRANSIENT_CODES = {"RequestTimeout", "SlowDown", "NoSuchUpload", "OperationAborted", "ConditionalRequestConflict"}
_WRONG_REGION = {"AuthorizationHeaderMalformed", "PermanentRedirect", "301", "IllegalLocationConstraintException"}
_SERVER_ERROR = 500
_NOT_IMPLEMENTED = 501
_UNSETTLED_STATUS = {404, 409, 412}


@dataclass(frozen=True)
class Request:
    """What was asked, and of whom."""

    action: str
    bucket: str
    key: str
    endpoint: str

    def __str__(self) -> str:
        return f"{self.action} of {self.key!r} in bucket {self.bucket!r} at {self.endpoint}"


def status_of(error: ClientError) -> int:
    """The HTTP status of the reply; 0 where it is not known."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def is_unsettled(error: BotoError) -> bool:
    """Whether a conditional PUT that ended so may have been carried out all the same, or lost to another writer."""
    if isinstance(error, ClientError):
        return status_of(error) in _UNSETTLED_STATUS or isinstance(_translate_reply(error, ""), StoreUnavailable)
    return isinstance(error, HTTPClientError | BotoConnectionError)


def translate(error: BotoError, request: Request) -> VideogenError:
    """Our error for boto3's."""
    if isinstance(error, ClientError):
        return _translate_reply(error, str(request))
    if isinstance(error, NoCredentialsError | PartialCredentialsError | CredentialRetrievalError | ProfileNotFound):
        return StoreDenied(f"no usable credentials for {request}: {error}; set AWS_ACCESS_KEY_ID and its secret")
    if isinstance(error, ParamValidationError | InvalidConfigError):
        return ConfigInvalid(f"{request} is no valid request: {_one_line(str(error))}; correct spec.storage")
    return StoreUnavailable(f"no answer to {request}: {_one_line(str(error))}; check spec.storage.endpoint and network")


def _translate_reply(error: ClientError, what: str) -> VideogenError:
    status, code = status_of(error), str(error.response.get("Error", {}).get("Code", ""))
    said = _one_line(f"{code} {error.response.get('Error', {}).get('Message', '')}")
    if code == "NoSuchBucket":
        return StoreDenied(f"{what}: there is no such bucket; create it or correct spec.storage.url")
    if code in _TRANSIENT_CODES or status in _TRANSIENT_STATUS:
        return StoreUnavailable(f"{what}: {said}; the store is busy, run again later")
    if code in _NOT_FOUND:
        return NotFound(f"{what}: no such object")
    if code in _WRONG_REGION:
        return ConfigInvalid(f"{what}: {said}; correct spec.storage.region")
    if status in _FORBIDDEN:
        return StoreDenied(f"{what} was refused: {said}; check the credentials, their rights and the clock")
    if status == _NOT_IMPLEMENTED:
        return ConditionsUnsupported(f"{what}: {said}; this store does not offer what was asked")
    if status >= _SERVER_ERROR:
        return StoreUnavailable(f"{what}: the store failed with {status} {said}; see its log and run again")
    return StoreDenied(f"{what} was refused: {status} {said}")


def _one_line(text: str) -> str:
    return " ".join(text.split())
