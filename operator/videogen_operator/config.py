"""What a cluster's administrator decides for every resource: images, namespaces, defaults and what is allowed."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from videogen_api.documents import Unreadable, describe_problems, parse_documents, read_text, to_json
from videogen_api.errors import ConfigInvalid
from videogen_api.spec import Endpoint, Model, Slug, Text
from videogen_operator.core.defaults import Defaults


class PullPolicy(StrEnum):
    ALWAYS = "Always"
    IF_NOT_PRESENT = "IfNotPresent"
    NEVER = "Never"


class Images(Model):
    """The two images; both of the operator's own version."""

    operator: Text
    """Operator, preflight and collect."""
    runner: Text
    """Encode and generate."""
    pull_policy: PullPolicy = PullPolicy.IF_NOT_PRESENT


class Allowed(Model):
    """What a resource may name; nothing is allowed that is not listed, but for the endpoint of the defaults."""

    service_accounts: tuple[Text, ...] = ()
    priority_classes: tuple[Text, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()


class OperatorConfig(Model):
    """The whole of operator.yaml."""

    images: Images
    namespaces: Annotated[tuple[Slug, ...], Field(min_length=1)] | None = None
    """Namespaces to watch; left out: all of them, which needs cluster-wide rights."""
    defaults: Defaults = Defaults()
    allowed: Allowed = Allowed()

    @classmethod
    def read(cls, path: Path) -> "OperatorConfig":
        """The configuration of a YAML file. Raises ConfigInvalid with a line for each field that is wrong."""
        try:
            documents = parse_documents(read_text(path))
            if len(documents) != 1:
                raise ConfigInvalid(f"{path}: holds {len(documents)} documents; want one")
            return cls.model_validate_json(to_json(documents[0]))
        except Unreadable as error:
            raise ConfigInvalid(f"{path}: {error}") from error
        except ValidationError as error:
            problems = (f"{path}: {problem}" for problem in describe_problems(error, cls))
            raise ConfigInvalid("\n".join(problems)) from error
