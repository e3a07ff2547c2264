"""A child's name may be taken by an object of somebody else: that one is never touched."""

from videogen_api.resource import VideoGeneration
from videogen_operator.cluster.resources import Object, Resource


class NameTaken(Exception):
    """An object of a child's name exists, and is not the resource's."""


def check_owner(resource: VideoGeneration, kind: Resource, found: Object) -> None:
    """Raises NameTaken unless the resource, this very one, controls the object."""
    metadata = found["metadata"]
    owners = {owner["uid"] for owner in metadata.get("ownerReferences", ()) if owner.get("controller")}
    if resource.metadata.uid not in owners:
        raise NameTaken(
            f"{kind.kind} {metadata['name']} exists and belongs to somebody else; delete or rename it, or give this "
            "VideoGeneration another name"
        )
