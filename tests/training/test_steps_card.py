"""Steps that are captured as CUDA graphs: run on a machine with a card, skipped elsewhere.

python -m pytest tests/training/test_steps_card.py
"""

import math

import pytest
import torch
from torch import Tensor, nn
from training.steps import Trainer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")

DEVICE = "cuda"
NUM_STEPS = 24
RATE = 1e-2
TOLERANCE = 1e-4  # of weights that a run changes by about NUM_STEPS * RATE


class Learner:
    def __init__(self) -> None:
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(16, 32), nn.SiLU(), nn.Linear(32, 8)).to(DEVICE)
        self.trainer = Trainer(self.network.parameters(), weight_decay=0.01, num_losses=1, device=DEVICE)

    def losses(self, x_BC: Tensor) -> Tensor:
        return (self.network(x_BC).float() - x_BC[:, :8]).square().mean()[None]

    def weights(self) -> Tensor:
        return torch.cat([weight.detach().flatten() for weight in self.network.parameters()])


def batches() -> list[Tensor]:
    """Of two forms in turn."""
    chance = torch.Generator().manual_seed(1)
    return [torch.randn((64, 256)[number % 2], 16, generator=chance).to(DEVICE) for number in range(NUM_STEPS)]


def test_replayed_steps_of_two_forms_change_weights_as_steps_that_were_never_captured() -> None:
    replayed, eager = Learner(), Learner()
    begin = eager.weights()
    for number, x_BC in enumerate(batches()):
        rate = RATE * (number + 1) / NUM_STEPS
        replayed.trainer.step(len(x_BC), replayed.losses, [x_BC], rate)
        eager.trainer.step(number, eager.losses, [x_BC], rate)  # a form that never comes again
    assert (eager.weights() - begin).abs().max() > 100 * TOLERANCE
    assert torch.allclose(replayed.weights(), eager.weights(), atol=TOLERANCE, rtol=0)
    assert replayed.trainer.mean_losses() == pytest.approx(eager.trainer.mean_losses(), rel=1e-3)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_replayed_step_whose_gradients_are_not_finite_changes_no_weight_and_the_next_one_does(bad: float) -> None:
    learner = Learner()
    fine = torch.randn(64, 16, device=DEVICE)
    for _ in range(4):
        learner.trainer.step("form", learner.losses, [fine], RATE)
    before = learner.weights()
    learner.trainer.mean_losses()
    learner.trainer.step("form", learner.losses, [torch.full_like(fine, bad)], RATE)
    assert torch.equal(learner.weights(), before)
    assert math.isnan(*learner.trainer.mean_losses())
    learner.trainer.step("form", learner.losses, [fine], RATE)
    assert not torch.equal(learner.weights(), before)
    assert learner.weights().isfinite().all()


def test_noise_is_drawn_anew_in_every_replayed_step() -> None:
    learner = Learner()
    found = []
    for _ in range(6):
        learner.trainer.step(
            "form", lambda x_BC: learner.losses(x_BC + torch.randn_like(x_BC)), [torch.ones(64, 16, device=DEVICE)], 0.0
        )
        found += learner.trainer.mean_losses()
    assert len(set(found)) == 6
