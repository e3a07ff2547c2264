"""Cases of the denoiser and the sampler: STDiT3 forwards and embeddings, schedules, whole sampling runs, weights.

Shape suffixes as in models/opensora/stdit3.py.
"""

from collections.abc import Mapping
from typing import Any

import torch
from cases_vae import build_vae
from harness import Case, Check, Measurement, count_wrong_rows, count_wrong_values, dtype_of
from torch import Tensor, nn

from videogen_api.prompts import parse_mask_strategy
from videogen_runner.models.opensora.conditioning import apply_mask_strategy
from videogen_runner.models.opensora.sampler import ClipInfo, Denoiser, Noise, denoise, guide, plan_steps, timesteps
from videogen_runner.models.opensora.stdit3 import (
    STDiT3,
    STDiT3Config,
    position_table,
    rotate,
    sinusoid,
    sinusoid_frequencies,
)

STDIT3_BOUND = {torch.float32: 5e-6, torch.bfloat16: 3e-2}
EMBEDDING_BOUND = {"float32": 1e-6, "bfloat16": 1e-2}
# What the reference's scheduler takes where its configuration says nothing.
RFLOW_DEFAULTS = {
    "num_sampling_steps": 10,
    "cfg_scale": 4.0,
    "use_timestep_transform": False,
    "use_discrete_timesteps": False,
}
RFLOW_FAKE_BOUND = 5e-6
RFLOW_STDIT3_BOUND = 2e-5


def load_stdit3(case: Case, params_key: str = "params_file", dtype: torch.dtype = torch.float32) -> STDiT3:
    model = STDiT3(STDiT3Config.from_mapping(case.config["ctor"]))
    model.load_state_dict(case.params(params_key))
    return model.to(dtype).eval()


def tile(x: Tensor, batch: int) -> Tensor:
    """Rows a, b of n samples as a, b, a, b for a batch of 2n."""
    return x.repeat(batch // len(x), *[1] * (x.ndim - 1))


def kept_tokens(y_B1LX: Tensor, mask_NL: Tensor | None) -> list[Tensor]:
    """Each sample's tokens whose mask is not 0; a mask of fewer rows is tiled over the batch."""
    if mask_NL is None:
        return [y_1LX[0] for y_1LX in y_B1LX]
    mask_BL = tile(mask_NL, len(y_B1LX))
    return [y_1LX[0][mask_L != 0] for y_1LX, mask_L in zip(y_B1LX, mask_BL, strict=True)]


@torch.no_grad()
def check_forward(case: Case) -> list[Measurement]:
    dtype = dtype_of(case.config["dtype"])
    model = load_stdit3(case, dtype=dtype)
    inputs = case.inputs()
    x_BCTHW, tokens_LX = inputs["x"], kept_tokens(inputs["y"], inputs.get("mask"))
    calls = record_calls(model)
    conditioning = model.prepare(
        tokens_LX,
        tile(inputs["fps"], len(x_BCTHW)),
        (inputs["height"][0].item(), inputs["width"][0].item()),
        (x_BCTHW.shape[2], x_BCTHW.shape[3], x_BCTHW.shape[4]),
    )
    x_mask_BT = inputs["x_mask"].bool() if "x_mask" in inputs else None
    pred_BKTHW = model(x_BCTHW, inputs["timestep"], conditioning, x_mask_BT)

    # The reference embeds t and then t = 0, its "2nd" call; here t = 0 belongs to `prepare` and comes first.
    results = {name: outputs[-1] for name, outputs in calls.items()}
    results |= {f"{name}_2nd": outputs[0] for name, outputs in calls.items() if name in {"t_embedder", "t_block"}}
    results |= {
        "pos_embed": conditioning.position_SD[None],
        "y_embedder": model.y_embedder(inputs["y"].to(dtype)),
        "y_packed": model.y_embedder(torch.cat(tokens_LX).to(dtype))[None],
        "y_lens": torch.tensor([len(y_LX) for y_LX in tokens_LX]),
    }
    bound = case.bound("max_over_refmax", STDIT3_BOUND[dtype])
    return [
        case.measure("pred", pred_BKTHW, case.outputs()["pred"], bound),
        *(
            case.measure(name, results[name].reshape(expected.shape), expected, bound)
            for name, expected in case.intermediates().items()
            if name in results
        ),
    ]


def record_calls(model: STDiT3) -> dict[str, list[Tensor]]:
    """What every submodule returns from now on, by its name, in the order of its calls."""
    calls: dict[str, list[Tensor]] = {}
    for name, module in model.named_modules():

        def record(_module: nn.Module, _args: object, output: object, name: str = name) -> None:
            if isinstance(output, Tensor):
                calls.setdefault(name, []).append(output)

        module.register_forward_hook(record)
    return calls


@torch.no_grad()
def check_embeddings(case: Case) -> list[Measurement]:
    inputs, outputs = case.inputs(), case.outputs()
    frequencies_A = sinusoid_frequencies()
    results = {"sinusoid": sinusoid(inputs["t"], frequencies_A)}
    for name in EMBEDDING_BOUND:
        dtype = dtype_of(name)
        model = load_stdit3(case, dtype=dtype)
        q_BTGE = inputs["q"].to(dtype).transpose(1, 2)
        rope = model.rope(q_BTGE.shape[1])
        results[f"t_embed_{name}"] = model.t_embedder(inputs["t"], frequencies_A)
        results[f"fps_embed_{name}"] = model.fps_embedder(inputs["t"], frequencies_A)
        results[f"rope_{name}"] = rotate(q_BTGE, rope).transpose(1, 2)
        results[f"q_norm_rope_{name}"] = rotate(model.temporal_blocks[0].attn.q_norm(q_BTGE), rope).transpose(1, 2)
        for i, grid in enumerate(case.config["pos_cases"]):
            table_SD = position_table(
                model.config.hidden_size, grid["h"], grid["w"], grid["scale"], grid["base_size"], dtype
            )
            results[f"pos_{i}_{name}"] = table_SD[None]
    return [
        case.measure(name, results[name], expected, embedding_bound(case, name)) for name, expected in outputs.items()
    ]


def embedding_bound(case: Case, output_name: str) -> float:
    dtype = "bfloat16" if output_name.endswith("bfloat16") else "float32"
    return case.bound(dtype, EMBEDDING_BOUND[dtype])


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


def load_model(config: Mapping[str, Any], params: dict[str, Tensor]) -> nn.Module:
    """The module that a weights file is for, with its weights."""
    if config["model"] == "STDiT3":
        model: nn.Module = STDiT3(STDiT3Config.from_mapping(config["ctor"]))
        model.load_state_dict(params)
    elif config["model"] == "T5EncoderModel":
        from transformers import T5Config, T5EncoderModel

        model = T5EncoderModel(T5Config(**config["ctor"]))
        # The input embedding is tied to `shared.weight`, and stored once.
        model.load_state_dict(params | {"encoder.embed_tokens.weight": params["shared.weight"]})
    elif "vae_2d" in config:
        model = build_vae(dict(config), params)
    else:
        raise ValueError(f"no module is known for weights of {config['model']!r}")
    return model


def check_weights(case: Case) -> list[Measurement]:
    """Every recorded tensor loads strictly into the module it is for, and comes back as it was."""
    params = case.params()
    loaded = load_model(case.config, params).state_dict()
    wrong = sum(count_wrong_values(loaded[name], value) for name, value in params.items())
    return [Measurement("values", float(wrong), 0.0)]


KINDS: dict[str, Check] = {
    "stdit3_forward": check_forward,
    "embeddings": check_embeddings,
    "rflow_sample": check_rflow,
    "timesteps": check_timesteps,
    "model_args": check_model_args,
    "weights": check_weights,
}
