"""A whole VideoGeneration, and how one is read from YAML with errors that name the field.

`load_manifests` reads a file of one or many documents. Every problem of every document is reported at once, one line
each: the field's path, the value found, and what is allowed.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic.alias_generators import to_camel

from videogen_api import naming
from videogen_api.bounds import DNS_LABEL, Pattern
from videogen_api.documents import Unreadable, describe_problems, parse_documents, read_text, show, to_json
from videogen_api.errors import InvalidInput
from videogen_api.spec import Model, VideoGenerationSpec
from videogen_api.status import VideoGenerationStatus


class Metadata(BaseModel):
    """The part of ObjectMeta that decisions look at; the rest of it is Kubernetes' own and passes unread."""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True)

    name: Annotated[
        str,
        StringConstraints(
            min_length=1,
            max_length=naming.MAX_NAME_LENGTH,
        ),
        Pattern(rf"{DNS_LABEL}(\.{DNS_LABEL})*", "lower-case letters, digits, dashes and dots, as in my-clip"),
    ]
    namespace: str = "default"
    uid: str = ""
    resource_version: str = ""
    """The state of the object that decisions were made on: a status is written only while it still holds."""
    generation: int = 1
    deletion_timestamp: str | None = None


class VideoGeneration(Model):
    """One resource: what is asked for, and what is known of it."""

    api_version: Literal["videogen.dev/v1alpha1"] = Field(default="videogen.dev/v1alpha1")
    kind: Literal["VideoGeneration"] = Field(default="VideoGeneration")
    metadata: Metadata
    spec: VideoGenerationSpec
    status: VideoGenerationStatus = VideoGenerationStatus()


class StatusUnreadable(Exception):
    """The status of an object is not what this version writes, unknown fields apart: what it remembers is not known."""


class ManifestInvalid(InvalidInput):
    """A manifest cannot be used; `problems` has one line for each thing that is wrong with it."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def load_manifests(path: Path) -> tuple[VideoGeneration, ...]:
    """Every VideoGeneration of a file.

    Raises ManifestInvalid when the file cannot be read, does not parse, or holds anything that is not allowed.
    """
    try:
        text = read_text(path)
    except Unreadable as error:
        raise ManifestInvalid((f"{path}: {error}",)) from error
    return parse_manifests(text, str(path))


def parse_manifests(text: str, source: str) -> tuple[VideoGeneration, ...]:
    """Every VideoGeneration of a YAML text; `source` names it in errors."""
    try:
        documents = parse_documents(text)
    except Unreadable as error:
        raise ManifestInvalid((f"{source}: {error}",)) from error
    if not documents:
        raise ManifestInvalid((f"{source}: holds no document; write a VideoGeneration",))
    resources: list[VideoGeneration] = []
    problems: list[str] = []
    for position, document in enumerate(documents):
        where = f"{source}: " if len(documents) == 1 else f"{source}, document {position + 1}: "
        try:
            resources.append(parse_resource(document))
        except ManifestInvalid as error:
            problems += [f"{where}{problem}" for problem in error.problems]
    identities = [(resource.metadata.namespace, resource.metadata.name) for resource in resources]
    problems += [
        f"{source}: two documents are named {namespace}/{name}; names must be unique"
        for namespace, name in sorted({identity for identity in identities if identities.count(identity) > 1})
    ]
    if problems:
        raise ManifestInvalid(tuple(problems))
    return tuple(resources)


def parse_resource(document: object) -> VideoGeneration:
    """One resource from plain values, as YAML gives them. Raises ManifestInvalid."""
    if not isinstance(document, Mapping):
        raise ManifestInvalid((f"want a VideoGeneration, found {show(document)}",))
    for key, want in (("apiVersion", naming.API_VERSION), ("kind", naming.KIND)):
        if document.get(key) != want:
            found = show(document[key]) if key in document else "nothing"
            raise ManifestInvalid((f"{key}: {found} is not allowed: want {want}",))
    try:
        # Through JSON, because that is what the API server will see; bare NaN survives the way and is refused here.
        return VideoGeneration.model_validate_json(to_json(document))
    except ValidationError as error:
        raise ManifestInvalid(tuple(describe_problems(error, VideoGeneration))) from error
    except Unreadable as error:
        raise ManifestInvalid((str(error),)) from error


def parse_live_resource(document: Mapping[str, Any]) -> VideoGeneration:
    """One resource as the API server holds it, its status perhaps written by another version of the operator.

    Raises ManifestInvalid, and StatusUnreadable as `parse_status` does.
    """
    asked = parse_resource({key: value for key, value in document.items() if key != "status"})
    return asked.model_copy(update={"status": parse_status(document)})


def parse_status(document: Mapping[str, Any]) -> VideoGenerationStatus:
    """The status of an object; fields that this version does not know are passed over, as a newer one may have them.

    Raises StatusUnreadable where a field that it does know has a value that cannot be.
    """
    try:
        return VideoGenerationStatus.model_validate_json(to_json(document.get("status") or {}), extra="ignore")
    except (ValidationError, Unreadable) as error:
        raise StatusUnreadable(
            f"its status cannot be read ({str(error).splitlines()[0]}); run the version of the operator that wrote it, "
            "or delete the resource and apply it again"
        ) from error
