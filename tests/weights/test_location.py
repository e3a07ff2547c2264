import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from videogen_api.errors import ConfigInvalid, WeightsInvalid, WeightsMissing
from videogen_api.naming import Env
from videogen_api.plan import WeightsDigests
from videogen_runner.store import DirectoryStore
from videogen_runner.weights import Component, open_weights
from videogen_runner.weights.digests import DIGESTS_FILE, read_recorded
from videogen_runner.weights.location import LocalWeights, StoredWeights

MODEL = "open-sora-v1.2-tiny"
UNREAD = {"tokenizer_config.json", "special_tokens_map.json"}


@pytest.fixture
def store(original: Path, tmp_path: Path) -> DirectoryStore:
    """The tiny weights, uploaded."""
    store = DirectoryStore(tmp_path / "store")
    for path in original.rglob("*"):
        if path.is_file():
            store.put_file(path.relative_to(original).as_posix(), path)
    return store


@pytest.fixture
def stored(store: DirectoryStore, tmp_path: Path) -> StoredWeights:
    return StoredWeights(store, tmp_path / "cache")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def recorded(root: Path) -> WeightsDigests:
    tables = {component: read_recorded(root / component) for component in Component}
    return WeightsDigests(**{component: table.digest for component, table in tables.items() if table})


def test_digests_of_a_directory_are_those_of_its_components(original: Path) -> None:
    assert open_weights(str(original), {}, model=MODEL).digests() == recorded(original)


def test_looking_at_weights_imports_nothing_heavy(original: Path) -> None:
    program = (
        "import sys; from videogen_runner.weights import open_weights; "
        "open_weights(sys.argv[1], {}, model='tiny').digests(); "
        "print(sorted({'torch', 'numpy', 'transformers', 'tokenizers', 'safetensors', 'boto3'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(original)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_mounted_volume_comes_before_the_plans_location(original: Path) -> None:
    env = {Env.WEIGHTS: str(original)}
    assert open_weights("pvc://claim/models", env, model=MODEL).folder(Component.VAE) == original / "vae"


@pytest.mark.parametrize(
    ("location", "complaint"),
    [
        (
            "builtin",
            "nothing is built in here; give a path or an s3:// url, or set VIDEOGEN_BUILTIN_WEIGHTS to a folder",
        ),
        ("pvc://claim/path", "pvc://claim/path is a volume; set VIDEOGEN_WEIGHTS"),
        ("https://host/path", "'https://host/path' is none of a path, s3://"),
        ("", "'' is none of a path, s3://"),
    ],
)
def test_a_location_that_this_image_cannot_use_is_refused(location: str, complaint: str) -> None:
    with pytest.raises(ConfigInvalid, match=complaint):
        open_weights(location, {}, model=MODEL)


def test_builtin_weights_lie_under_the_models_name(original: Path, tmp_path: Path) -> None:
    (tmp_path / MODEL).symlink_to(original)
    env = {Env.BUILTIN_WEIGHTS: str(tmp_path)}
    assert open_weights("builtin", env, model=MODEL).digests() == recorded(original)
    assert open_weights("builtin", env, model=MODEL).folder(Component.VAE) == tmp_path / MODEL / "vae"


def test_a_model_that_is_not_built_in_is_named_with_its_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match=rf"open-sora-v1.2 is not built in \({tmp_path}/open-sora-v1.2 does not"):
        open_weights("builtin", {Env.BUILTIN_WEIGHTS: str(tmp_path)}, model="open-sora-v1.2")


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match=r"weights .*/nowhere: no such directory"):
        LocalWeights(tmp_path / "nowhere").digests()


def test_a_file_in_place_of_the_directory_is_refused(original: Path) -> None:
    path = original / "vae" / "model.safetensors"
    with pytest.raises(WeightsInvalid, match=rf"weights {path} is not a directory"):
        LocalWeights(path).digests()


def test_a_missing_component_is_named(weights: Path) -> None:
    shutil.rmtree(weights / "vae")
    with pytest.raises(WeightsMissing, match=rf"{weights}/vae is missing"):
        LocalWeights(weights).digests()


def test_an_s3_url_is_opened_without_asking_the_network(tmp_path: Path) -> None:
    env = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", Env.SCRATCH: str(tmp_path)}
    weights = open_weights("s3://models/v1.2/", env, model=MODEL, endpoint="http://127.0.0.1:9", region="us-east-1")
    assert isinstance(weights, StoredWeights)
    assert list(tmp_path.iterdir()) == []


def test_stored_weights_have_the_digests_of_their_tables(stored: StoredWeights, original: Path, tmp_path: Path) -> None:
    assert stored.digests() == recorded(original)
    assert not (tmp_path / "cache").exists()


def test_a_stored_component_is_fetched_once_under_its_digest(
    store: DirectoryStore, stored: StoredWeights, original: Path, tmp_path: Path
) -> None:
    folder = stored.folder(Component.ENCODER)
    assert folder == tmp_path / "cache" / recorded(original).encoder
    expected = contents(original / "encoder")
    assert contents(folder) == {name: expected[name] for name in expected if name not in UNREAD}
    store.delete("encoder/model.safetensors")
    assert stored.folder(Component.ENCODER) == folder
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [folder.name]


def test_a_missing_stored_file_is_named(store: DirectoryStore, stored: StoredWeights, tmp_path: Path) -> None:
    store.delete("vae/model.safetensors")
    for look in (stored.digests, lambda: stored.folder(Component.VAE)):
        with pytest.raises(WeightsMissing, match=r"vae/model\.safetensors is missing; upload all"):
            look()
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_stored_file_of_another_size_is_named(store: DirectoryStore, stored: StoredWeights) -> None:
    store.put("denoiser/model.safetensors", b"short")
    with pytest.raises(WeightsInvalid, match=r"denoiser/model\.safetensors has 5 bytes, \d+ are recorded"):
        stored.digests()


def test_a_stored_component_that_is_damaged_is_refused_with_both_digests(
    store: DirectoryStore, stored: StoredWeights, original: Path, tmp_path: Path
) -> None:
    content = bytearray(store.get("denoiser/model.safetensors").body)
    content[-1] ^= 1
    store.put("denoiser/model.safetensors", bytes(content))
    digest = recorded(original).denoiser
    with pytest.raises(
        WeightsInvalid, match=rf"denoiser/digests\.json records digest {digest}, the files beside it have (?!{digest})"
    ):
        stored.folder(Component.DENOISER)
    assert list((tmp_path / "cache").iterdir()) == []


def test_stored_weights_without_a_table_are_refused(store: DirectoryStore, stored: StoredWeights) -> None:
    store.delete(f"encoder/{DIGESTS_FILE}")
    with pytest.raises(
        WeightsMissing, match=r"encoder/digests\.json is missing; upload all that `videogen weights convert`"
    ):
        stored.digests()
