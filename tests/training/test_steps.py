import copy
import math

import pytest
import torch
from torch import Tensor, nn
from training.steps import Trainer

Weights = dict[str, Tensor]


def build_line() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def build_trainer(network: nn.Module, *, num_losses: int = 1, weight_decay: float = 0.0) -> Trainer:
    return Trainer(network.parameters(), weight_decay=weight_decay, num_losses=num_losses, device="cpu")


def batches(count: int) -> list[Tensor]:
    """Of very different sizes, so that gradients are cut in some steps and not in others."""
    chance = torch.Generator().manual_seed(1)
    return [torch.randn(4, 3, generator=chance) * 10 ** (number % 3 - 1) for number in range(count)]


def kept(network: nn.Module) -> Weights:
    return copy.deepcopy(network.state_dict())


def equal(first: Weights, second: Weights) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first.keys() | second.keys())


def squares(line: nn.Linear):  # type: ignore[no-untyped-def]
    return lambda x_BC: line(x_BC).square().mean()[None]


def test_weights_change_as_adamw_says_by_gradients_that_are_cut_at_norm_1() -> None:
    line, other = build_line(), build_line()
    trainer = build_trainer(line, weight_decay=0.1)
    groups = [{"params": [other.weight], "weight_decay": 0.1}, {"params": [other.bias], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), foreach=False)
    for number, x_BC in enumerate(batches(6), start=1):
        rate = 0.01 * number
        trainer.step("form", squares(line), [x_BC], rate)
        optimizer.zero_grad()
        other(x_BC).square().mean().backward()
        nn.utils.clip_grad_norm_(other.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
    assert trainer.num_steps == 6
    assert torch.allclose(line.weight, other.weight, atol=1e-6)
    assert torch.allclose(line.bias, other.bias, atol=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_step_whose_gradients_are_not_finite_leaves_no_trace_but_its_number(bad: float) -> None:
    line, other = build_line(), build_line()
    trainer, spared = build_trainer(line), build_trainer(other)
    first, second = batches(2)
    trainer.step("form", squares(line), [first], 0.1)
    before = kept(line)
    trainer.step("form", squares(line), [torch.full((4, 3), bad)], 0.1)
    assert equal(kept(line), before)
    trainer.step("form", squares(line), [second], 0.1)

    spared.step("form", squares(other), [first], 0.1)
    spared.step("form", squares(other), [second], 0.1)
    assert equal(kept(line), kept(other))
    assert trainer.mean_losses() == spared.mean_losses()
    assert (trainer.num_steps, spared.num_steps) == (3, 2)


def test_losses_are_means_of_the_steps_since_they_were_asked_for_last() -> None:
    line = build_line()
    trainer = build_trainer(line)
    for value in (1.0, 4.0):
        trainer.step("form", lambda x: (line.weight.sum() * 0 + x)[None], [torch.tensor(value)], 0.0)
    assert trainer.mean_losses() == [2.5]
    assert math.isnan(*trainer.mean_losses())


def test_the_first_loss_is_minimised_and_the_others_are_only_reported() -> None:
    pair = nn.ParameterDict({"minimised": nn.Parameter(torch.ones(1)), "reported": nn.Parameter(torch.ones(1))})
    trainer = build_trainer(pair, num_losses=2)

    def losses(factor: Tensor) -> Tensor:
        return torch.cat([pair["minimised"].square(), factor * pair["reported"]])

    trainer.step("form", losses, [torch.tensor(3.0)], 0.25)
    assert trainer.mean_losses() == [1.0, 3.0]
    assert pair["minimised"].item() == pytest.approx(0.75)  # the first step of Adam is as long as the rate
    assert pair["reported"].item() == 1.0


def test_matrices_decay_and_biases_and_norms_do_not() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.Conv1d(2, 2, 1))
    with torch.no_grad():
        for weight in network.parameters():
            weight.fill_(1.0)
    trainer = build_trainer(network, weight_decay=0.5)
    trainer.step("form", lambda: sum(0 * weight.sum() for weight in network.parameters())[None], [], 0.1)
    assert {name: weight.unique().tolist() for name, weight in network.named_parameters()} == {
        "0.weight": [pytest.approx(0.95)],
        "0.bias": [1.0],
        "1.weight": [1.0],
        "1.bias": [1.0],
        "2.weight": [pytest.approx(0.95)],
        "2.bias": [1.0],
    }


def test_weights_that_are_kept_from_learning_do_not_even_decay() -> None:
    line = build_line()
    line.weight.requires_grad_(False)
    before = kept(line)
    build_trainer(line, weight_decay=0.5).step("form", squares(line), [torch.ones(4, 3)], 0.1)
    assert torch.equal(line.weight, before["weight"])
    assert not torch.equal(line.bias, before["bias"])
