import os

import pytest
import torch

from videogen_api.errors import ConfigInvalid
from videogen_api.plan import Device, Dtype
from videogen_runner.device import check_bf16, check_dtypes, set_up_device


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "CUBLAS_WORKSPACE_CONFIG"):
        monkeypatch.setenv(key, "")
        monkeypatch.delenv(key)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.mark.parametrize("capability", [(8, 0), (8, 6), (9, 0), (12, 0)])
def test_cards_that_multiply_in_bf16_may(capability: tuple[int, int]) -> None:
    check_bf16("a card", capability)


@pytest.mark.parametrize(
    ("card", "capability", "version"), [("Tesla T4", (7, 5), r"7\.5"), ("Tesla V100-SXM2-16GB", (7, 0), r"7\.0")]
)
def test_a_card_that_emulates_bf16_is_refused_with_its_name_and_the_remedy(
    card: str, capability: tuple[int, int], version: str
) -> None:
    remedy = rf"{card} has compute capability {version}, which lacks it; set gpu\.product to Tesla-T4 .* 8\.0 or later"
    with pytest.raises(ConfigInvalid, match=remedy):
        check_bf16(card, capability)


def test_a_cpu_computes_in_every_format() -> None:
    check_dtypes(torch.device("cpu"), *Dtype)


def test_a_card_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigInvalid, match="device cuda:99 is not there"):
        set_up_device("cuda:99", Device.CUDA)


def test_the_first_card_has_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert set_up_device(None, Device.CUDA) == torch.device("cuda:0")
    assert set_up_device("cuda:1", Device.CUDA) == torch.device("cuda:1")


def test_the_allocator_takes_segments_that_grow_unless_someone_has_said_otherwise() -> None:
    assert set_up_device(None, Device.CPU) == torch.device("cpu")
    assert os.environ["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"


def test_what_someone_has_said_of_the_allocator_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:64")
    set_up_device(None, Device.CPU)
    assert os.environ["PYTORCH_CUDA_ALLOC_CONF"] == "max_split_size_mb:64"
    assert "PYTORCH_ALLOC_CONF" not in os.environ
