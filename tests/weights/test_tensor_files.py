import json
from pathlib import Path

import pytest
import torch
from files import cut
from safetensors.torch import load_file, save_file

from videogen_api.errors import WeightsInvalid, WeightsMissing
from videogen_runner.weights.tensor_files import (
    StoredTensor,
    TensorSpec,
    never_stop,
    read_safetensors,
    write_safetensors,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    tensors = {
        "b": torch.randn(3, 5),
        "a": torch.randn(7).to(torch.bfloat16),
        "number": torch.tensor(4, dtype=torch.int64),
        "none": torch.empty(0, 4),
    }
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    return tmp_path / "model.safetensors"


def read_bytes(tensor: StoredTensor) -> bytes:
    return b"".join(bytes(chunk) for chunk in tensor.chunks())


def test_tensors_are_found_where_the_safetensors_library_puts_them(path: Path) -> None:
    found = {tensor.name: (tensor.spec, read_bytes(tensor)) for tensor in read_safetensors(path)}
    assert found == {
        name: (
            TensorSpec({"a": "BF16", "number": "I64"}.get(name, "F32"), tuple(tensor.shape)),
            tensor.reshape(-1).view(torch.uint8).numpy().tobytes(),
        )
        for name, tensor in load_file(path).items()
    }


def test_the_safetensors_library_reads_what_is_written(path: Path, tmp_path: Path) -> None:
    tensors = {tensor.name: tensor for tensor in read_safetensors(path)}
    specs = {name: tensor.spec for name, tensor in tensors.items()}
    written = tmp_path / "written.safetensors"
    digests = write_safetensors(
        written, specs, ((name, tensor.chunks()) for name, tensor in tensors.items()), never_stop
    )
    expected, actual = load_file(path), load_file(written)
    assert set(actual) == set(expected)
    assert all(torch.equal(actual[name], expected[name]) for name in expected)
    assert digests == {name: tensor.sha256() for name, tensor in tensors.items()}


def test_too_few_values_for_a_tensor_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got 4 bytes of a, 8 of a come next"):
        write_safetensors(tmp_path / "x", {"a": TensorSpec("F32", (2,))}, [("a", [memoryview(b"1234")])], never_stop)


def test_a_file_cut_anywhere_is_refused_by_name(path: Path) -> None:
    whole = path.read_bytes()
    for left in range(len(whole)):
        path.write_bytes(whole[:left])
        with pytest.raises(
            WeightsInvalid, match=r"model\.safetensors .*(cut short|no safetensors file).*copy it again"
        ):
            read_safetensors(path)


def test_a_file_with_more_than_its_header_describes_is_refused(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(WeightsInvalid, match=r"model\.safetensors has \d+ bytes, its header describes only \d+"):
        read_safetensors(path)


def test_a_file_cut_after_it_was_opened_is_refused(path: Path) -> None:
    tensors = read_safetensors(path)
    cut(path, path.stat().st_size - 4)
    with pytest.raises(WeightsInvalid, match=r"model\.safetensors ends inside tensor"):
        [read_bytes(tensor) for tensor in tensors]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match=r"gone\.safetensors is missing"):
        read_safetensors(tmp_path / "gone.safetensors")


def entry(**change: object) -> dict[str, object]:
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **change}


@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        ({"a": entry(dtype="F99")}, "tensor a has dtype F99; only F64"),
        ({"a": entry(shape=[3])}, "gives tensor a the wrong bytes"),
        ({"a": entry(data_offsets=[4, 12])}, "gives tensor a the wrong bytes"),
        ({"a": entry(), "b": entry()}, "gives tensor b the wrong bytes"),
        ({"a": entry(shape=[-2])}, "header cannot be read"),
        ({"a": entry(shape=[2.5])}, "header cannot be read"),
        ({"a": entry(data_offsets=[0])}, "header cannot be read"),
        ({"a": 1}, "header cannot be read"),
        ([], "header cannot be read"),
        ("[" * 100_000, "header cannot be read"),
    ],
)
def test_a_header_that_cannot_be_is_refused(tmp_path: Path, header: object, complaint: str) -> None:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    (tmp_path / "x.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    with pytest.raises(WeightsInvalid, match=complaint):
        read_safetensors(tmp_path / "x.safetensors")


@pytest.mark.parametrize("content", [b"<html>not found</html>", b"\xff" * 64, b"version https://git-lfs.github.com"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(WeightsInvalid, match=r"x\.safetensors is no safetensors file"):
        read_safetensors(tmp_path / "x.safetensors")
