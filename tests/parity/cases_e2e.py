"""The reference's inference script, run whole: prompts in, uint8 frames out, with its recorded random draws.

The reference denoises a batch of prompts together; here every prompt is a clip of its own, as in production, and gets
its row of each recorded draw. Calls of the reference's sampler are numbered through all batches and loops.

Shape suffixes: B prompts of a batch, C channels, T latent frames, F frames, H W rows and columns, L text tokens,
X caption channels.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from cases_denoiser import load_stdit3
from cases_sampler import build_info
from cases_text import build_text_encoder
from cases_vae import build_vae
from einops import rearrange
from harness import Case, Check, Measurement, count_wrong_values, dtype_of
from PIL import Image
from recorded_draws import draws_in_order, take_draws
from torch import Tensor

from videogen_api import prompts as grammar
from videogen_api.video import num_frames
from videogen_runner.media import to_uint8
from videogen_runner.models.opensora.conditioning import image_to_tensor, video_to_tensor
from videogen_runner.models.opensora.generation import ClipGenerator, ClipRequest, ClipState, Placement
from videogen_runner.models.opensora.sampler import ClipInfo, timesteps
from videogen_runner.models.opensora.text import clean_caption

BOUNDS: Mapping[torch.dtype, Mapping[str, float]] = {
    torch.float32: {"latents": 1e-4, "clip": 3e-4, "uint8_max": 1, "uint8_mean": 1},
    torch.bfloat16: {"latents": 5e-2, "clip": 1e-1, "uint8_max": 30, "uint8_mean": 2.5},
}


@dataclass(frozen=True)
class Prompt:
    """A prompt as the script reads it."""

    text_of_loop: list[str]
    references_CFHW: list[Tensor]
    strategies: tuple[grammar.MaskStrategy, ...]


def read_prompts(config: Mapping[str, Any], inputs: Mapping[str, Tensor]) -> list[Prompt]:
    texts = config["prompts"]
    paths = config.get("reference_path") or [""] * len(texts)
    strategies = config.get("mask_strategy") or [""] * len(texts)
    return [
        read_prompt(text, path, strategy, config, inputs)
        for text, path, strategy in zip(texts, paths, strategies, strict=True)
    ]


def read_prompt(
    prompt: str, path: str, strategy: str, config: Mapping[str, Any], inputs: Mapping[str, Tensor]
) -> Prompt:
    text, path, strategy = grammar.split_conditioning(prompt, path, strategy)
    segments, loops = grammar.split_segments(text)
    cleaned = [
        clean_caption(
            grammar.append_scores(segment, config.get("aes"), config.get("flow"), config.get("camera_motion"))
        )
        for segment in segments
    ]
    merged = grammar.merge_segments(cleaned, loops)
    height, width = config["image_size"]
    return Prompt(
        [grammar.segment_of_loop(merged, loop) for loop in range(config["loop"])],
        [read_reference(inputs, name, height, width) for name in grammar.split_reference_path(path)],
        grammar.parse_mask_strategy(strategy),
    )


def read_reference(inputs: Mapping[str, Tensor], path: str, height: int, width: int) -> Tensor:
    """The pixels x_CFHW of a recorded reference: an image [H, W, 3] or a video [F, 3, H, W], uint8."""
    stem = path.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    pixels = next(value for name, value in inputs.items() if name.startswith("ref") and name.endswith(f"_{stem}"))
    if pixels.ndim == 3:
        return image_to_tensor(Image.fromarray(pixels.numpy()), height, width)[:, None]
    return rearrange(video_to_tensor(pixels, height, width), "f c h w -> c f h w")


@dataclass(frozen=True)
class ClipResult:
    """What one prompt gave: the states before and after each loop, the decoded loops, and the clip."""

    begun: list[ClipState]
    ended: list[ClipState]
    pieces_CFHW: list[Tensor]
    clip_CFHW: Tensor


def make_clip(generator: ClipGenerator, prompt: Prompt) -> ClipResult:
    first = generator.start(prompt.references_CFHW)
    states = list(generator.states(first))
    return ClipResult(
        begun=[first, *(state for state in states if state.next_step == 0)],
        ended=[state for state in states if state.next_step == generator.request.num_steps],
        pieces_CFHW=generator.pieces(states[-1]),
        clip_CFHW=generator.frames(states[-1]),
    )


def make_clips(case: Case) -> tuple[list[list[Prompt]], list[list[ClipResult]], int]:
    """Runs the whole script; returns prompts and results by batch, and how many recorded draws were never used."""
    config, dtype = case.config, dtype_of(case.config["dtype"])
    denoiser = load_stdit3(case, "stdit3_params_file", dtype)
    vae = build_vae(config, case.params("vae_params_file")).to(dtype)
    encode_text = build_text_encoder(case)
    request = ClipRequest(
        image_size=tuple(config["image_size"]),
        num_frames=num_frames(config["num_frames"]),
        fps=config["fps"],
        num_steps=config["num_sampling_steps"],
        guidance=config["cfg_scale"],
        num_loops=config["loop"],
        condition_latents=config.get("condition_frame_length", 5),
        condition_edit=config.get("condition_frame_edit", 0.0),
        alignment=config.get("align"),
    )
    placement = Placement(encode_batch_frames=config["micro_batch_size"])
    prompts = read_prompts(config, case.inputs())
    size = config.get("batch_size", 1)
    batches = [prompts[first : first + size] for first in range(0, len(prompts), size)]
    draws, results = draws_in_order(case.inputs()), []
    for batch in batches:
        reference_frames = [[x_CFHW.shape[1] for x_CFHW in prompt.references_CFHW] for prompt in batch]
        rows = take_draws(draws, reference_frames, request, vae.micro_frame_size)
        results.append(
            [
                make_clip(
                    ClipGenerator(
                        denoiser,
                        vae,
                        replace(request, strategies=prompt.strategies),
                        [encode_text(text) for text in prompt.text_of_loop],
                        row,
                        placement,
                    ),
                    prompt,
                )
                for prompt, row in zip(batch, rows, strict=True)
            ]
        )
    return batches, results, len(list(draws))


def encoded_videos(batch: list[ClipResult]) -> Iterator[Tensor]:
    """The latents of every encoding of a batch, in the script's order: reference by reference, then loop by loop."""
    for clip in batch:
        yield from (z_CTHW[None] for z_CTHW in clip.begun[0].references)
    for loop in range(1, len(batch[0].begun)):
        yield torch.stack([clip.begun[loop].references[-1] for clip in batch])


def check_end_to_end(case: Case) -> list[Measurement]:
    config, inputs, expected = case.config, case.inputs(), case.outputs()
    dtype, num_loops = dtype_of(config["dtype"]), config["loop"]
    batches, results, unused_draws = make_clips(case)

    names = ("latents", "clip", "uint8_max", "uint8_mean")
    bound = {name: case.bound(name, BOUNDS[dtype][name]) for name in names}
    measurements = [
        Measurement("prompts", count_wrong_prompts(config["processed_prompts"], batches, num_loops), 0.0),
        Measurement("unused draws", float(unused_draws), 0.0),
        *check_timesteps(config, inputs, expected, dtype),
    ]
    loops = [(batch, loop) for batch in results for loop in range(num_loops)]
    for call, (batch, loop) in enumerate(loops):
        mask_BT = torch.cat([clip.begun[loop].mask_BT for clip in batch])
        start_BCTHW = torch.cat([clip.begun[loop].z_BCTHW for clip in batch])
        end_BCTHW = torch.cat([clip.ended[loop].z_BCTHW for clip in batch])
        piece_BCFHW = torch.stack([clip.pieces_CFHW[loop] for clip in batch])
        measurements += [
            Measurement(f"mask_{call}", count_wrong_values(mask_BT, expected[f"mask_{call}"]), 0.0),
            case.measure(f"z_start_{call}", start_BCTHW, expected[f"z_start_{call}"], bound["latents"]),
            case.measure(f"latents_{call}", end_BCTHW, expected[f"latents_{call}"], bound["latents"]),
            case.measure(f"clip_{call}", piece_BCFHW, expected[f"clip_{call}"], bound["clip"]),
        ]
    encoded = [z_BCTHW for batch in results for z_BCTHW in encoded_videos(batch)]
    for index, z_BCTHW in enumerate(encoded):
        name = f"vae_encoded_{index}"
        measurements.append(case.measure(name, z_BCTHW, expected[name], bound["clip"]))
    for index, clip in enumerate(clip for batch in results for clip in batch):
        name = f"frames_uint8_{index}"
        frames_FHWC = torch.as_tensor(to_uint8(clip.clip_CFHW)).float()
        if frames_FHWC.shape != expected[name].shape:
            measurements.append(Measurement(name, math.inf, bound["uint8_max"]))
            continue
        difference = (frames_FHWC - expected[name].float()).abs()
        measurements.append(Measurement(f"{name} max", difference.max().item(), bound["uint8_max"]))
        measurements.append(Measurement(f"{name} mean", difference.mean().item(), bound["uint8_mean"]))
    return measurements


def count_wrong_prompts(processed: list[list[str]], batches: list[list[Prompt]], num_loops: int) -> float:
    """Texts that the encoder would get, against those recorded for each call."""
    texts = [[prompt.text_of_loop[loop] for prompt in batch] for batch in batches for loop in range(num_loops)]
    return float(sum(a != b for a, b in zip(texts, processed, strict=True)))


def check_timesteps(
    config: Mapping[str, Any], inputs: Mapping[str, Tensor], expected: Mapping[str, Tensor], dtype: torch.dtype
) -> list[Measurement]:
    """Timesteps and conditioning scalars of one call, exact."""
    batch = len(inputs["arg_height"])
    frames = num_frames(config["num_frames"])
    info = ClipInfo.build(tuple(config["image_size"]), frames, config["fps"], dtype, batch)
    recorded = build_info(inputs, dtype)
    wrong = sum(count_wrong_values(vars(info)[name], value) for name, value in vars(recorded).items())
    t_IB = timesteps(config["num_sampling_steps"], info)
    return [
        Measurement("info", wrong, 0.0),
        Measurement("timesteps", count_wrong_values(t_IB, expected["timesteps"]), 0.0),
    ]


KINDS: dict[str, Check] = {"end_to_end": check_end_to_end}
