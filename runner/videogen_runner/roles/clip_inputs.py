"""What a clip is made from, as the generator takes it: the plan's numbers, and the pixels of its references.

Shape suffixes: C channels, F frames, H W rows and columns.
"""

from collections.abc import Mapping

from einops import rearrange
from PIL import Image
from torch import Tensor, from_numpy

from videogen_api.plan import Inputs, Plan, PlannedPrompt
from videogen_api.prompts import MaskStrategy
from videogen_runner.media import Reference, read_reference
from videogen_runner.models.opensora.conditioning import image_to_tensor, video_to_tensor
from videogen_runner.models.opensora.generation import ClipRequest
from videogen_runner.references import fetch_reference


def build_request(plan: Plan, prompt: PlannedPrompt) -> ClipRequest:
    """The generator's request for any clip of the prompt."""
    video, sampling = plan.video, plan.sampling
    number_of_url = {url: number for number, url in enumerate(_urls(prompt))}
    return ClipRequest(
        image_size=(video.height, video.width),
        num_frames=video.frames,
        fps=video.fps,
        num_steps=sampling.steps,
        guidance=sampling.guidance,
        num_loops=video.loops,
        strategies=tuple(
            MaskStrategy(
                loop=reference.loop,
                reference=number_of_url[reference.url],
                reference_start=reference.start,
                target_start=reference.at,
                length=reference.length,
                edit_ratio=reference.edit,
            )
            for reference in prompt.references
        ),
        condition_latents=video.condition_latents,
    )


def load_references(plan: Plan, prompt: PlannedPrompt, inputs: Inputs, credentials: Mapping[str, str]) -> list[Tensor]:
    """The pixels of the prompt's references, x_CFHW in [-1, 1] at the clip's size, numbered as in its request.

    Raises InvalidInput for a reference that is gone, has changed since preflight, or cannot be decoded.
    """
    references = []
    for url in _urls(prompt):
        content = fetch_reference(url, plan.storage, credentials, inputs.references[url])
        references.append(_to_tensor(read_reference(content, url), plan.video.height, plan.video.width))
    return references


def _urls(prompt: PlannedPrompt) -> list[str]:
    """Each reference once, in the order of first use: two placements of one picture are of the same latents."""
    return list(dict.fromkeys(reference.url for reference in prompt.references))


def _to_tensor(reference: Reference, height: int, width: int) -> Tensor:
    if reference.is_video:
        frames_FCHW = rearrange(from_numpy(reference.frames_THWC), "f h w c -> f c h w")
        return rearrange(video_to_tensor(frames_FCHW, height, width), "f c h w -> c f h w")
    x_CHW = image_to_tensor(Image.fromarray(reference.frames_THWC[0]), height, width)
    return rearrange(x_CHW, "c h w -> c 1 h w")
