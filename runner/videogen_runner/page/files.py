"""Where a page finds its clips' files."""

from collections.abc import Mapping
from dataclasses import dataclass

from videogen_api.records import Manifest


@dataclass(frozen=True)
class ClipFiles:
    """Paths relative to the page: the mp4 or png, and the JSON file with everything that is known of the clip."""

    video: str
    details: str


def files_beside(manifest: Manifest) -> Mapping[str, ClipFiles]:
    """By clip: the copies under names for people, in the folder that collect writes."""
    return {
        clip.clip: ClipFiles(clip.url.rpartition("/")[2], f"{clip.clip}.json")
        for clip in manifest.clips
        if clip.url is not None and clip.sidecar is not None
    }
