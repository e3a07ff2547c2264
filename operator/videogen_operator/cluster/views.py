"""Jobs and pods as values with types: what is read of the slimmed objects of the cache, checked once.

The API server vouches for the shape of its objects, but labels and annotations are anybody's: what cannot be read
raises Malformed, and its caller leaves the object out.
"""

from datetime import UTC, datetime
from typing import Annotated, Self, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError
from pydantic.alias_generators import to_camel

from videogen_api import naming
from videogen_api.naming import Stage
from videogen_operator.cluster.resources import Object
from videogen_operator.cluster.slim import INDEX_ANNOTATION

V = TypeVar("V", bound=BaseModel)


class Malformed(ValueError):
    """An object that carries our labels does not read like a child of ours; the message names object and field."""


# So that a grace period can be added to every time.
Time = Annotated[AwareDatetime, Field(lt=datetime(9000, 1, 1, tzinfo=UTC))]


class _View(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel)


class Condition(_View):
    type: str
    status: str
    reason: str = ""
    message: str = ""
    last_transition_time: Time | None = None


class Owner(_View):
    kind: str
    uid: str


class Labels(_View):
    """Which group a child belongs to."""

    run_id: Annotated[str, Field(alias=naming.LABEL_RUN)]
    stage: Annotated[Stage, Field(alias=naming.LABEL_STAGE)]
    pool: Annotated[str | None, Field(alias=naming.LABEL_POOL)] = None
    attempt: Annotated[NonNegativeInt, Field(alias=naming.LABEL_ATTEMPT)]
    round: Annotated[NonNegativeInt, Field(alias=naming.LABEL_ROUND)]
    template: Annotated[str, Field(alias=naming.LABEL_TEMPLATE)] = ""
    queue: Annotated[str | None, Field(alias=naming.QUEUE_LABEL)] = None


class Metadata(_View):
    name: str
    namespace: str
    uid: str
    creation_timestamp: Time
    deletion_timestamp: Time | None = None
    labels: Labels
    owner_references: tuple[Owner, ...] = ()


class _Conditions(_View):
    conditions: tuple[Condition, ...] = ()

    def find(self, *types: str) -> Condition | None:
        """The first of these conditions that is true."""
        return next((found for found in self.conditions if found.type in types and found.status == "True"), None)


class JobStatus(_Conditions):
    start_time: Time | None = None
    """Set anew each time that the Job is resumed."""


class JobSpec(_View):
    suspend: bool = False
    completions: int | None = None


class Job(_View):
    metadata: Metadata
    spec: JobSpec = JobSpec()
    status: JobStatus = JobStatus()

    @classmethod
    def read(cls, found: Object) -> Self:
        return _read(cls, found)


class ContainerWaiting(_View):
    reason: str = ""
    message: str = ""


class ContainerTerminated(_View):
    exit_code: int
    reason: str = ""
    message: str = ""


class ContainerState(_View):
    waiting: ContainerWaiting | None = None
    running: dict[str, object] | None = None
    terminated: ContainerTerminated | None = None


class Container(_View):
    image: str = ""
    state: ContainerState = ContainerState()


class PodStatus(_Conditions):
    phase: str = "Pending"
    reason: str = ""
    message: str = ""
    container_statuses: tuple[Container, ...] = ()


class PodSpec(_View):
    node_name: str | None = None


class Event(_View):
    """A core/v1 event; who wrote it decides which of its times are set."""

    message: str = ""
    first_timestamp: Time | None = None
    last_timestamp: Time | None = None
    event_time: Time | None = None

    @classmethod
    def read(cls, found: Object) -> Self:
        return _read(cls, found)

    @property
    def first(self) -> datetime | None:
        return self.first_timestamp or self.event_time

    @property
    def last(self) -> datetime | None:
        return self.last_timestamp or self.first


class _PodAnnotations(_View):
    index: Annotated[NonNegativeInt, Field(alias=INDEX_ANNOTATION)]


class _PodMetadata(Metadata):
    annotations: _PodAnnotations


class Pod(_View):
    metadata: _PodMetadata
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    @classmethod
    def read(cls, found: Object) -> Self:
        return _read(cls, found)

    @property
    def index(self) -> int:
        return self.metadata.annotations.index

    @property
    def job_uid(self) -> str | None:
        return next((owner.uid for owner in self.metadata.owner_references if owner.kind == "Job"), None)

    @property
    def container(self) -> Container:
        """The one that matters; before the kubelet has spoken it is in no state."""
        return self.status.container_statuses[0] if self.status.container_statuses else Container()

    @property
    def is_terminal(self) -> bool:
        """Whether nothing of it runs any more, for good."""
        return self.status.phase in ("Succeeded", "Failed") or self.container.state.terminated is not None


def _read(view: type[V], found: Object) -> V:
    try:
        return view.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        metadata = found.get("metadata")
        name = metadata.get("name") if isinstance(metadata, dict) else None
        field = ".".join(str(part) for part in first["loc"])
        raise Malformed(f"{view.__name__} {name}: {field}: {first['msg']}") from error
