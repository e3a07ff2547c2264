"""Cases of the sampler: timesteps, conditioning scalars, and whole runs with an analytic model or the STDiT3.

Shape suffixes as in models/opensora/sampler.py and stdit3.py.
"""

from collections.abc import Mapping
from typing import Any

import torch
from cases_denoiser import kept_tokens, load_stdit3, tile
from harness import Case, Check, Measurement, count_wrong_rows, count_wrong_values, dtype_of
from torch import Tensor

from videogen_api.prompts import parse_mask_strategy
from videogen_runner.models.opensora.conditioning import apply_mask_strategy
from videogen_runner.models.opensora.sampler import ClipInfo, Denoiser, Noise, denoise, guide, plan_steps, timesteps

RFLOW_FAKE_BOUND = 5e-6
RFLOW_STDIT3_BOUND = 2e-5
# What the reference's scheduler takes where its configuration says nothing.
RFLOW_DEFAULTS = {
    "num_sampling_steps": 10,
    "cfg_scale": 4.0,
    "use_timestep_transform": False,
    "use_discrete_timesteps": False,
}


def build_info(inputs: Mapping[str, Tensor], dtype: torch.dtype) -> ClipInfo:
    """The recorded conditioning scalars; fixtures store them as fp32."""
    return ClipInfo(*(inputs[f"arg_{name}"].to(dtype) for name in ("height", "width", "num_frames", "fps")))


def fake_denoiser(y_BLX: Tensor, *, has_mask: bool) -> Denoiser:
    """The analytic model of the sampler fixtures, as `config.model` writes it.

    Unlike a real model it tells a mask of ones from no mask. The reference passes one at every step of a masked run,
    so there `None`, which stands for "all frames are free", is turned back into ones.
    """
    c_B1111 = y_BLX.flatten(1).mean(dim=1)[:, None, None, None, None]

    def predict(z_BCTHW: Tensor, t_B: Tensor, x_mask_BT: Tensor | None) -> Tensor:
        u_B1111 = t_B[:, None, None, None, None] / 1000
        v_BCTHW = torch.sin(3 * z_BCTHW) * (0.25 + u_B1111) + 0.1 * c_B1111 - 0.2 * z_BCTHW
        if x_mask_BT is not None:
            v_BCTHW = v_BCTHW + 0.05 * x_mask_BT[:, None, :, None, None]
        elif has_mask:
            v_BCTHW = v_BCTHW + 0.05
        return torch.cat([v_BCTHW, torch.full_like(v_BCTHW, 7.0)], dim=1)

    return predict


def stdit3_denoiser(case: Case, inputs: Mapping[str, Tensor], y_B1LX: Tensor, info: ClipInfo) -> Denoiser:
    model = load_stdit3(case, dtype=info.height_B.dtype)
    conditioning = model.prepare(
        kept_tokens(y_B1LX, inputs.get("text_mask")),
        tile(info.fps_B, len(y_B1LX)),
        (info.height_B[0].item(), info.width_B[0].item()),
        (inputs["z"].shape[2], inputs["z"].shape[3], inputs["z"].shape[4]),
    )

    def predict(z_BCTHW: Tensor, t_B: Tensor, x_mask_BT: Tensor | None) -> Tensor:
        return model(z_BCTHW, t_B, conditioning, x_mask_BT)

    return predict


class Recorder:
    """A denoiser that keeps, step by step, what it was given and what it answered, as the fixtures record them."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []
        self.x_masks: list[Tensor] = []

    def __call__(self, z_BCTHW: Tensor, t_B: Tensor, x_mask_BT: Tensor | None) -> Tensor:
        pred_BKTHW = self.denoiser(z_BCTHW, t_B, x_mask_BT)
        batch, num_frames = z_BCTHW.shape[0], z_BCTHW.shape[2]
        self.inputs.append(z_BCTHW[: batch // 2])
        self.outputs.append(pred_BKTHW)
        self.x_masks.append(torch.ones(batch, num_frames, dtype=torch.bool) if x_mask_BT is None else x_mask_BT)
        return pred_BKTHW


@torch.no_grad()
def check_rflow(case: Case) -> list[Measurement]:
    config, inputs = case.config, case.inputs()
    info = build_info(inputs, dtype_of(config.get("dtype", "float32")))
    scheduler = RFLOW_DEFAULTS | config["scheduler"]
    t_IB = timesteps(
        scheduler["num_sampling_steps"],
        info,
        transform=scheduler["use_timestep_transform"],
        discrete=scheduler["use_discrete_timesteps"],
    )
    guidance = scheduler["cfg_scale"] if config.get("guidance_scale") is None else config["guidance_scale"]

    z_BCTHW = inputs["z"]
    y_B1LX = torch.cat([inputs["y"], inputs["y_null"].expand_as(inputs["y"])])
    if config["model"] == "STDiT3":
        recorder, bound = Recorder(stdit3_denoiser(case, inputs, y_B1LX, info)), RFLOW_STDIT3_BOUND
    else:
        recorder, bound = Recorder(fake_denoiser(y_B1LX, has_mask="mask" in inputs)), RFLOW_FAKE_BOUND
    bound = case.bound("max_over_refmax", bound)
    steps = plan_steps(t_IB, inputs.get("mask"))
    z_IBCTHW = [z_BCTHW, *(z for _, z in denoise(z_BCTHW, steps, guide(recorder, guidance), step_noise(inputs)))]

    measured = {
        "latent_before_step": torch.stack(z_IBCTHW[:-1]),
        "model_in": torch.stack(recorder.inputs),
        "model_out": torch.stack(recorder.outputs),
        "result": z_IBCTHW[-1],
    }
    counted = {"timesteps": t_IB, "x_mask": torch.stack(recorder.x_masks)}
    return check_references(config, inputs) + [
        case.measure(name, measured[name], expected, bound)
        if name in measured
        else Measurement(name, count_wrong_values(counted[name], expected), 0.0)
        for name, expected in case.outputs().items()
    ]


def check_references(config: Mapping[str, Any], inputs: Mapping[str, Tensor]) -> list[Measurement]:
    """Start noise and mask of a case with references, made from its raw noise."""
    if "z_raw" not in inputs:
        return []
    wrong_z = wrong_mask = 0.0
    for sample, strategies in enumerate(config["mask_strategy"]):
        names = [name for name in inputs if name.startswith(f"ref_{sample}_")]
        references = [inputs[name] for name in sorted(names, key=lambda name: int(name.rsplit("_", 1)[1]))]
        z_CTHW, mask_T = apply_mask_strategy(
            inputs["z_raw"][sample], references, parse_mask_strategy(strategies), config["loop_i"], config["align"]
        )
        wrong_z += count_wrong_values(z_CTHW, inputs["z"][sample])
        wrong_mask += count_wrong_values(mask_T, inputs["mask"][sample])
    return [Measurement("z", wrong_z, 0.0), Measurement("mask", wrong_mask, 0.0)]


def step_noise(inputs: Mapping[str, Tensor]) -> Noise:
    return lambda step: inputs["step_noise"][step]


def check_timesteps(case: Case) -> list[Measurement]:
    wrong = {"timesteps": 0.0, "untransformed": 0.0, "info": 0.0}
    for row in case.rows:
        num_frames = row["num_frames"]
        info = ClipInfo.build(tuple(row["image_size"]), num_frames, row["fps"], dtype_of(row["info_dtype"]))
        sizes = torch.stack([info.height_B, info.width_B, info.num_frames_B])[:, 0].float()
        recorded = torch.tensor([row["info_height"], row["info_width"], row["info_num_frames"]])
        wrong["info"] += count_wrong_values(sizes, recorded)
        for name, key in (("timesteps", "timesteps"), ("untransformed", "untransformed_float32")):
            t_I = timesteps(row["steps"], info, transform=name == "timesteps")[:, 0]
            wrong[name] += count_wrong_values(t_I, torch.tensor(row[key], dtype=torch.float32))
    return [Measurement(name, count, 0.0) for name, count in wrong.items()]


def check_model_args(case: Case) -> list[Measurement]:
    return [Measurement("rows", count_wrong_rows(case.rows, model_args), 0.0)]


def model_args(row: Mapping[str, Any]) -> dict[str, list[float]]:
    dtype, batch = dtype_of(row["dtype"]), row["batch"]
    height, width = row["image_size"]
    info = ClipInfo.build((height, width), row["num_frames"], row["fps"], dtype, batch)
    # The reference also hands over the aspect ratio, which STDiT3 never reads; the project has no such value.
    ar_B = torch.full((batch,), height / width, dtype=dtype)
    values = {
        "height": info.height_B,
        "width": info.width_B,
        "num_frames": info.num_frames_B,
        "ar": ar_B,
        "fps": info.fps_B,
    }
    return {name: value.tolist() for name, value in values.items()}


KINDS: dict[str, Check] = {
    "rflow_sample": check_rflow,
    "timesteps": check_timesteps,
    "model_args": check_model_args,
}
