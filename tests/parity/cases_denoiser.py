"""Cases of the denoiser: STDiT3 forwards with their intermediate results, its embeddings, and weights of all models.

Shape suffixes as in models/opensora/stdit3.py.
"""

from collections.abc import Mapping
from typing import Any

import torch
from cases_vae import build_vae
from harness import Case, Check, Measurement, count_wrong_values, dtype_of
from torch import Tensor, nn

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
    "weights": check_weights,
}
