import pytest
import torch
from torch import nn
from training.bank import BUCKETS
from training.denoiser import Averages, Networks, chosen_buckets

from videogen_api.architecture import ARCHITECTURES
from videogen_runner.models.registry import blueprint_of
from videogen_runner.weights.components import Component


@pytest.fixture(scope="module")
def networks() -> Networks:
    torch.manual_seed(0)
    return Networks()


def test_checkpoints_hold_exactly_the_tensors_of_the_model(networks: Networks) -> None:
    for component, weights in (
        (Component.ENCODER, networks.encoder_weights()),
        (Component.DENOISER, networks.denoiser.weights()),
    ):
        blueprint = blueprint_of("shapes", component)
        expected = blueprint.shapes(blueprint.config_of(ARCHITECTURES["shapes"]))
        assert {name: tuple(tensor.shape) for name, tensor in weights.items()} == expected


def test_averages_follow_the_weights_and_change_places_with_them() -> None:
    line = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        line.weight.fill_(0.0)
        averages = Averages(line)
        line.weight.fill_(1.0)
    averages.update()  # young averages keep one part in eleven
    averages.swap()
    assert line.weight.item() == pytest.approx(10 / 11)
    averages.swap()
    assert line.weight.item() == 1.0
    for _ in range(200):
        averages.update()
    averages.swap()
    assert line.weight.item() == pytest.approx(1.0, abs=1e-3)


def test_weights_that_do_not_learn_are_not_averaged() -> None:
    line = nn.Linear(2, 2)
    line.weight.requires_grad_(False)
    averages = Averages(line)
    with torch.no_grad():
        line.weight.fill_(3.0)
        line.bias.fill_(3.0)
    averages.swap()
    assert torch.equal(line.weight, torch.full((2, 2), 3.0))
    assert not torch.equal(line.bias, torch.full((2,), 3.0))


def test_buckets_are_chosen_by_size_and_length() -> None:
    assert chosen_buckets((), ()) == list(BUCKETS)
    chosen = chosen_buckets(["64x64"], [1, 17])
    assert [(bucket.num_frames, bucket.height, bucket.width) for bucket in chosen] == [(1, 64, 64), (17, 64, 64)]
    with pytest.raises(ValueError, match="leave them out for all"):
        chosen_buckets(["65x65"], ())
