from pathlib import Path

import pytest
import torch
from benchmarks.reference_step import PaddedText, ReferenceStep, run_block
from tests.parity.harness import Case, dtype_of, read_manifest, relative_error
from torch import Tensor

from videogen_api.architecture import architecture_of
from videogen_runner.models.opensora.stdit3 import STDiT3, STDiT3Config

FIXTURES = Path(__file__).parents[1] / "parity" / "fixtures" / "opensora-v1.2"
FORWARDS = [case for case in read_manifest(FIXTURES) if case.kind == "stdit3_forward"]
BOUND = 5e-6
IMAGE_SIZE = (64.0, 88.0)


def repeated(x: Tensor, batch: int) -> Tensor:
    return x.repeat(batch // len(x), *[1] * (x.ndim - 1))


@pytest.mark.parametrize("case", FORWARDS, ids=lambda case: case.file)
@torch.no_grad()
def test_the_reference_step_meets_every_recorded_forward(case: Case) -> None:
    model = STDiT3(STDiT3Config.from_mapping(case.config["ctor"]))
    model.load_state_dict(case.params("params_file"))
    inputs = case.inputs()
    batch, y_BLX = len(inputs["x"]), inputs["y"][:, 0]
    mask_BL = repeated(inputs["mask"], batch) if "mask" in inputs else torch.ones(y_BLX.shape[:2])
    pred_BKTHW = ReferenceStep(model.to(dtype_of(case.config["dtype"])).eval())(
        inputs["x"],
        inputs["timestep"],
        PaddedText(y_BLX, mask_BL),
        repeated(inputs["fps"], batch),
        (inputs["height"][0].item(), inputs["width"][0].item()),
        inputs["x_mask"].bool() if "x_mask" in inputs else None,
    )
    assert relative_error(pred_BKTHW, case.outputs()["pred"]) <= case.bound("max_over_refmax", BOUND)


@pytest.fixture(scope="module")
def tiny() -> STDiT3:
    torch.manual_seed(0)
    shape = architecture_of("open-sora-v1.2-tiny").denoiser
    model = STDiT3(
        STDiT3Config(
            hidden_size=shape.hidden_size,
            depth=shape.depth,
            num_heads=shape.num_heads,
            caption_channels=shape.caption_channels,
        )
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def build_text(model: STDiT3, lengths: list[int], padded: int = 12) -> PaddedText:
    y_BLX = torch.randn(len(lengths), padded, model.config.caption_channels, generator=torch.Generator().manual_seed(2))
    return PaddedText(y_BLX, torch.tensor([[i < length for i in range(padded)] for length in lengths]))


GIVEN = torch.tensor([[False, True, True, False, True], [True] * 5])


@pytest.mark.parametrize(
    ("asked", "x_mask_BT"), [(None, None), (None, torch.ones(2, 5, dtype=torch.bool)), (GIVEN, GIVEN)]
)
@torch.no_grad()
def test_the_reference_step_is_the_plain_model_with_and_without_given_frames(
    tiny: STDiT3, asked: Tensor | None, x_mask_BT: Tensor | None
) -> None:
    z_BCTHW = torch.randn(2, 4, 5, 8, 11, generator=torch.Generator().manual_seed(1))
    t_B, fps_B = torch.tensor([900.0, 310.0]), torch.full((2,), 24.0)
    text = build_text(tiny, [4, 7])
    conditioning = tiny.prepare(text.real_tokens(), fps_B, IMAGE_SIZE, (5, 8, 11))
    expected = tiny(z_BCTHW, t_B, conditioning, asked)
    pred_BKTHW = ReferenceStep(tiny)(z_BCTHW, t_B, text, fps_B, IMAGE_SIZE, x_mask_BT)
    assert relative_error(pred_BKTHW, expected) <= BOUND


@torch.no_grad()
def test_all_blocks_of_a_kind_are_compiled_once_and_whole(tiny: STDiT3) -> None:
    graphs = []

    def count(graph: torch.fx.GraphModule, _: list[Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    compiled = torch.compile(run_block, backend=count, fullgraph=True, dynamic=False)
    z_BCTHW = torch.randn(2, 4, 5, 4, 4, generator=torch.Generator().manual_seed(1))
    rest = (torch.tensor([900.0, 900.0]), build_text(tiny, [4, 4]), torch.full((2,), 24.0), IMAGE_SIZE, None)
    steps = [ReferenceStep(tiny, run)(z_BCTHW, *rest) for run in (run_block, compiled, compiled)]
    assert [relative_error(step, steps[0]) <= BOUND for step in steps] == [True] * 3
    assert len(graphs) == 2
