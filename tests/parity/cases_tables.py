"""Parity kinds of tables: sizes, prompts, masks, references, names and pixels. All but resized videos are exact."""

from collections.abc import Mapping
from dataclasses import astuple
from typing import Any

import numpy as np
import torch
from harness import Case, Check, Measurement, count_wrong_rows, count_wrong_values, dtype_of
from PIL import Image

from videogen_api.prompts import (
    MaskStrategy,
    append_scores,
    merge_segments,
    parse_mask_strategy,
    segment_of_loop,
    split_conditioning,
    split_reference_path,
    split_segments,
)
from videogen_api.video import image_size, latent_size, num_frames, overlap_frames
from videogen_runner.media import sample_path, to_uint8
from videogen_runner.models.opensora.conditioning import (
    align_start,
    apply_mask_strategy,
    continuation,
    image_to_tensor,
    video_to_tensor,
)

Row = Mapping[str, Any]

VIDEO_RESIZE_BOUND = 1e-5


def _table(function: Any) -> Check:
    """A check that counts the rows which `function` gets wrong."""

    def check(case: Case) -> list[Measurement]:
        return [Measurement("wrong rows", count_wrong_rows(case.rows, function), 0.0)]

    return check


def _image_size(row: Row) -> list[int]:
    return list(image_size(row["resolution"], row["aspect_ratio"]))


def _num_frames(row: Row) -> int:
    return num_frames(row["input"])


def check_latent_size(case: Case) -> list[Measurement]:
    def wrong(name: str, **chunk: None) -> Measurement:
        rows = [{**row, "output": row[name]} for row in case.rows]
        errors = count_wrong_rows(rows, lambda row: list(astuple(latent_size(*row["input"], **chunk))))
        return Measurement(name, errors, 0.0)

    return [wrong("micro17"), wrong("no_micro", chunk_frames=None)]


def _align_point(row: Row) -> int:
    return align_start(row["value"], row["point"], row["max_value"])


def _overlap_frames(row: Row) -> int:
    return overlap_frames(row["input"])


def _append_score(row: Row) -> str:
    return append_scores(row["prompt"], row["aes"], row["flow"], row["camera_motion"])


def _merge_prompt(row: Row) -> str:
    return merge_segments(row["segments"], row["loop_idx"])


def _prompt_for_loop(row: Row) -> str:
    return segment_of_loop(row["prompt"], row["loop"])


def _prompt_json(row: Row) -> dict[str, str]:
    # The table's header: what holds before the prompt's JSON is read.
    text, reference_path, mask_strategy = split_conditioning(row["input"], "oldref", "oldms")
    return {"prompt": text, "reference_path": reference_path, "mask_strategy": mask_strategy}


def _split_prompt(row: Row) -> list[list[str] | list[int] | None]:
    segments, loops = split_segments(row["input"])
    return [list(segments), None if loops is None else list(loops)]


def _mask_strategy(row: Row) -> list[list[float]]:
    return [list(astuple(strategy)) for strategy in parse_mask_strategy(row["input"])]


def check_reference_paths(case: Case) -> list[Measurement]:
    rows = [{**row, "output": row["read"]} for row in case.rows]
    return [
        Measurement("wrong paths", count_wrong_rows(rows, lambda row: list(split_reference_path(row["input"]))), 0.0),
        Measurement(
            "wrong counts",
            count_wrong_rows(
                [{**row, "output": row["n_refs"]} for row in case.rows],
                lambda row: len(split_reference_path(row["input"])),
            ),
            0.0,
        ),
    ]


def _append_generated(row: Row) -> dict[str, list[Any]]:
    """Every sample gets the clip before as one more reference, and the strategy that names it."""
    counts, strategies = [], []
    for num_references, before in zip(row["refs"], row["mask_strategy"], strict=True):
        counts.append(num_references + 1)
        added = continuation(
            row["loop_i"], num_references + 1, row["condition_frame_length"], row["condition_frame_edit"]
        )
        strategies.append(";".join(filter(None, [before, _write(added)])))
    return {"n_refs": counts, "mask_strategy": strategies}


def _write(strategy: MaskStrategy) -> str:
    return ",".join(str(value) for value in astuple(strategy))


def check_apply_mask_strategy(case: Case) -> list[Measurement]:
    inputs, outputs, measurements = case.inputs(), case.outputs(), []
    for name, call in case.config["cases"].items():
        for sample, text in enumerate(call["mask_strategy"]):
            count = sum(key.startswith(f"ref_{sample}_") for key in inputs)
            references = [inputs[f"ref_{sample}_{index}"] for index in range(count)]
            z_CTHW, mask_T = apply_mask_strategy(
                inputs[f"{name}_z"][sample], references, parse_mask_strategy(text), call["loop_i"], call["align"]
            )
            wrong_z = count_wrong_values(z_CTHW, outputs[f"{name}_z"][sample])
            wrong_mask = count_wrong_values(mask_T, outputs[f"{name}_mask"][sample])
            measurements.append(Measurement(f"{name}_z[{sample}]", wrong_z, 0.0))
            measurements.append(Measurement(f"{name}_mask[{sample}]", wrong_mask, 0.0))
    return measurements


def check_reference_preprocess(case: Case) -> list[Measurement]:
    inputs, outputs, measurements = case.inputs(), case.outputs(), []
    for name, call in case.config["cases"].items():
        height, width = call["target"]
        image, video = f"image_{name}", f"video_{name}"
        x_CHW = image_to_tensor(Image.fromarray(inputs[image].numpy()), height, width)
        x_TCHW = video_to_tensor(inputs[video], height, width)
        for key, actual, bound in (
            (image, x_CHW, case.bound("image_abs", 0.0)),
            (video, x_TCHW, case.bound("video_abs", VIDEO_RESIZE_BOUND)),
        ):
            # Absolute errors: the table's bounds are of values in [-1, 1].
            same_shape = actual.shape == outputs[key].shape
            error = (actual - outputs[key]).abs().max().item() if same_shape else float("inf")
            measurements.append(Measurement(key, error, bound))
    return measurements


def _save_path(row: Row) -> str:
    arguments = dict(row["args"])
    index = arguments.pop("sample_idx")
    return str(sample_path("OUT", index, **arguments))


def check_save_uint8(case: Case) -> list[Measurement]:
    x_CTHW, measurements = case.inputs()["video"], []
    for name, expected in case.outputs().items():
        kind, dtype = name.split("_")
        frames_THWC = to_uint8(x_CTHW.to(dtype_of(dtype)))
        actual = frames_THWC[0] if kind == "image" else frames_THWC
        wrong = count_wrong_values(torch.from_numpy(np.array(actual)), expected)
        measurements.append(Measurement(name, wrong, 0.0))
    return measurements


KINDS: dict[str, Check] = {
    "align_point": _table(_align_point),
    "append_generated": _table(_append_generated),
    "append_score": _table(_append_score),
    "apply_mask_strategy": check_apply_mask_strategy,
    "condition latents -> overlapping frames to drop": _table(_overlap_frames),
    "image_size": _table(_image_size),
    "latent_size": check_latent_size,
    "mask_strategy": _table(_mask_strategy),
    "merge_prompt": _table(_merge_prompt),
    "num_frames": _table(_num_frames),
    "prompt_for_loop": _table(_prompt_for_loop),
    "prompt_json": _table(_prompt_json),
    "reference_paths": check_reference_paths,
    "reference_preprocess": check_reference_preprocess,
    "save_path": _table(_save_path),
    "save_uint8": check_save_uint8,
    "split_prompt": _table(_split_prompt),
}
