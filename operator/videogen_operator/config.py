"""What a cluster's administrator decides for every resource: images, namespaces, defaults and what is allowed."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field, ValidationError

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
        """The configuration of a YAML file. Raises ConfigInvalid naming the field."""
        try:
            document = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigInvalid(f"{path}: cannot be read: {error}") from error
        except yaml.YAMLError as error:
            raise ConfigInvalid(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
        try:
            return cls.model_validate(document, strict=False)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "document"
            raise ConfigInvalid(f"{path}: {where}: {first['msg']}") from error
