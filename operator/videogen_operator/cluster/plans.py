"""Plans as immutable ConfigMaps: frozen when a run starts, read back ever after."""

from dataclasses import dataclass

from pydantic import ValidationError

from videogen_api import naming
from videogen_api.errors import ConfigInvalid
from videogen_api.plan import Plan
from videogen_api.resource import VideoGeneration
from videogen_operator.cluster.api_errors import AlreadyExists, NotFound
from videogen_operator.cluster.client import KubernetesClient
from videogen_operator.cluster.ownership import check_owner
from videogen_operator.cluster.render import render_plan
from videogen_operator.cluster.resources import CONFIG_MAPS, Key, Object
from videogen_operator.core.defaults import Defaults


@dataclass(frozen=True)
class FrozenPlan:
    """One placement of a run, and the cluster's defaults that it was made with."""

    plan: Plan
    revision: int
    defaults: Defaults


class PlanBook:
    """Keeps the plans that are in use in memory: an immutable object need not be read twice."""

    def __init__(self, client: KubernetesClient) -> None:
        self._client = client
        self._known: dict[Key, FrozenPlan] = {}

    def read(self, resource: VideoGeneration) -> FrozenPlan | None:
        """The plan that the resource's ledger names; None where somebody has deleted it."""
        status, key = resource.status, _key(resource)
        if status.run_id is None:
            return None
        known = self._known.get(key)
        if known is not None and (known.plan.run_id, known.revision) == (status.run_id, status.plan_revision):
            return known
        name = naming.plan_name(_prefix(resource, status.run_id), status.plan_revision)
        try:
            found = self._client.get(CONFIG_MAPS, key.namespace, name)
        except NotFound:
            return None
        check_owner(resource, CONFIG_MAPS, found)
        self._known[key] = _thaw(found, status.plan_revision)
        return self._known[key]

    def freeze(self, resource: VideoGeneration, frozen: FrozenPlan) -> None:
        """Writes a plan down before the ledger names it. Raises NameTaken where the name is somebody else's."""
        manifest = render_plan(resource, frozen.plan, frozen.revision, frozen.defaults)
        namespace, name = resource.metadata.namespace, manifest["metadata"]["name"]
        try:
            self._client.create(CONFIG_MAPS, namespace, manifest)
        except AlreadyExists:
            found = self._client.get(CONFIG_MAPS, namespace, name)
            check_owner(resource, CONFIG_MAPS, found)
            if found["data"] != manifest["data"]:
                # Of a pass that was cut off before its ledger: no pod has ever seen it.
                self._client.delete(CONFIG_MAPS, namespace, name, found["metadata"]["uid"])
                self._client.create(CONFIG_MAPS, namespace, manifest)
        self._known[_key(resource)] = frozen

    def delete_others(self, resource: VideoGeneration, keep_run: str | None) -> None:
        """Deletes every plan of the resource but those of one run: its pods may yet be started with any of them."""
        namespace, name = _key(resource)
        selector = f"{naming.LABEL_NAME}={name}"
        for found in self._client.list(CONFIG_MAPS, namespace, label_selector=selector).items:
            metadata = found["metadata"]
            owners = {owner["uid"] for owner in metadata.get("ownerReferences", ())}
            if resource.metadata.uid in owners and metadata["labels"].get(naming.LABEL_RUN) != keep_run:
                self._client.delete(CONFIG_MAPS, namespace, metadata["name"], metadata["uid"])

    def forget(self, key: Key) -> None:
        """The resource is finished or gone."""
        self._known.pop(key, None)


def _thaw(found: Object, revision: int) -> FrozenPlan:
    data = found["data"]
    try:
        defaults = Defaults.model_validate_json(data[naming.DEFAULTS_FILE])
    except ValidationError as error:
        raise ConfigInvalid(
            f"ConfigMap {found['metadata']['name']}: {naming.DEFAULTS_FILE} is of another version of the operator"
        ) from error
    return FrozenPlan(Plan.from_bytes(data[naming.PLAN_FILE].encode()), revision, defaults)


def _key(resource: VideoGeneration) -> Key:
    return Key(resource.metadata.namespace, resource.metadata.name)


def _prefix(resource: VideoGeneration, run_id: str) -> str:
    metadata = resource.metadata
    return naming.child_prefix(metadata.namespace, metadata.name, metadata.uid, run_id)
