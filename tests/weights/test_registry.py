import pytest
import torch

from videogen_api.architecture import ARCHITECTURES
from videogen_runner.models.registry import FAMILIES, blueprint_of
from videogen_runner.weights.components import Component

MODELS = list(ARCHITECTURES)


def count(model: str, component: Component) -> tuple[int, int]:
    """Tensors and values that a checkpoint of this component holds."""
    blueprint = blueprint_of(model, component)
    shapes = blueprint.shapes(blueprint.config_of(ARCHITECTURES[model]))
    return len(shapes), sum(torch.Size(shape).numel() for shape in shapes.values())


def test_every_model_has_a_family() -> None:
    assert set(FAMILIES) == set(ARCHITECTURES)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("component", Component)
def test_a_config_made_from_an_architecture_has_its_sizes(model: str, component: Component) -> None:
    blueprint, architecture = blueprint_of(model, component), ARCHITECTURES[model]
    assert blueprint.sizes(blueprint.config_of(architecture)) == blueprint.sizes_of(architecture)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("component", Component)
def test_expected_shapes_are_those_of_the_module(model: str, component: Component) -> None:
    blueprint = blueprint_of(model, component)
    config = blueprint.config_of(ARCHITECTURES[model])
    state = blueprint.build(config).state_dict()
    assert blueprint.shapes(config) == {
        name: tuple(tensor.shape) for name, tensor in state.items() if name not in blueprint.aliases
    }
    assert {tensor.device.type for tensor in state.values()} == {"meta"}


@pytest.mark.parametrize("model", MODELS)
def test_the_planner_counts_the_parameters_that_the_modules_have(model: str) -> None:
    architecture = ARCHITECTURES[model]
    assert count(model, Component.ENCODER)[1] == architecture.encoder.parameters
    assert count(model, Component.DENOISER)[1] == architecture.denoiser.parameters


def test_open_sora_has_the_published_numbers_of_parameters() -> None:
    """973 tensors and 1.21e9 values as the reference's STDiT3-XL/2 has; 4,762,310,656 as T5 v1.1 XXL's encoder has."""
    assert count("open-sora-v1.2", Component.DENOISER) == (973, 1_208_872_772)
    assert count("open-sora-v1.2", Component.ENCODER) == (219, 4_762_310_656)


def test_a_vae_without_a_config_has_the_factory_sizes() -> None:
    blueprint = blueprint_of("open-sora-v1.2", Component.VAE)
    public = {
        "model_type": "VideoAutoencoderPipeline",
        "micro_frame_size": None,
        "vae_2d": {"type": "VideoAutoencoderKL", "subfolder": "vae"},
        "vae_temporal": {"type": "VAE_Temporal_SD"},
    }
    expected = blueprint.sizes_of(ARCHITECTURES["open-sora-v1.2"])
    assert blueprint.sizes({}) == blueprint.sizes(public) == expected
