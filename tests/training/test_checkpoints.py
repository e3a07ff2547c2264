from pathlib import Path

import pytest
import torch
from training import checkpoints
from training.checkpoints import load_weights, save_weights

TENSORS = {f"layer.{i}.weight": torch.randn(8, 4, generator=torch.Generator().manual_seed(i)) for i in range(5)}


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "MAX_PART_BYTES", 2 * 8 * 4 * 4)


def test_what_was_saved_is_loaded_in_fp32_from_parts_of_a_bounded_size(tmp_path: Path) -> None:
    save_weights(tmp_path / "run", "vae", {**TENSORS, "half": torch.ones(3, dtype=torch.bfloat16)}, step=7)
    loaded = load_weights(tmp_path / "run", "vae")
    assert loaded.keys() == {*TENSORS, "half"}
    assert all(torch.equal(loaded[name], tensor) for name, tensor in TENSORS.items())
    assert torch.equal(loaded["half"], torch.ones(3))
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [f"vae-{i}.safetensors" for i in range(3)]


def test_saving_again_replaces_the_last_weights(tmp_path: Path) -> None:
    save_weights(tmp_path, "vae", TENSORS, step=1)
    save_weights(tmp_path, "vae", {name: tensor + 1 for name, tensor in TENSORS.items()}, step=2)
    assert torch.equal(load_weights(tmp_path, "vae")["layer.0.weight"], TENSORS["layer.0.weight"] + 1)


def test_parts_of_two_steps_are_refused(tmp_path: Path) -> None:
    save_weights(tmp_path, "vae", TENSORS, step=1)
    old = (tmp_path / "vae-1.safetensors").read_bytes()
    save_weights(tmp_path, "vae", TENSORS, step=2)
    (tmp_path / "vae-1.safetensors").write_bytes(old)
    with pytest.raises(ValueError, match="holds no complete vae weights"):
        load_weights(tmp_path, "vae")


@pytest.mark.parametrize("missing", [0, 2])
def test_a_missing_part_is_noticed(tmp_path: Path, missing: int) -> None:
    save_weights(tmp_path, "vae", TENSORS, step=1)
    (tmp_path / f"vae-{missing}.safetensors").unlink()
    with pytest.raises(ValueError, match="holds no complete vae weights"):
        load_weights(tmp_path, "vae")
