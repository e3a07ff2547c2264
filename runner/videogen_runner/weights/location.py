"""Where weights are: a directory, a mounted volume, or an object store from which they are fetched once. Torch-free."""

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from videogen_api.errors import ConfigInvalid, WeightsInvalid, WeightsMissing
from videogen_api.naming import Env
from videogen_api.plan import WeightsDigests
from videogen_runner.store import NotFound, Store, open_store
from videogen_runner.store.files import file_errors
from videogen_runner.weights.components import Component, ComponentFiles, check_directory, find_files, is_pickle
from videogen_runner.weights.digests import DIGESTS_FILE, ComponentDigests, digests_of, measure
from videogen_runner.weights.folders import appearing_folder
from videogen_runner.weights.stored_files import StoredFile


class Weights(Protocol):
    """A model's weights, wherever they are. All methods raise WeightsMissing or WeightsInvalid."""

    def digests(self) -> WeightsDigests:
        """What they are. Every file is looked at; tensors are read through only where no digests.json vouches."""
        ...

    def folder(self, component: Component) -> Path:
        """The local folder of one component, for `loading`; fetched first where it is far."""
        ...

    def files(self, component: Component) -> ComponentFiles:
        """The files of one component for reading parts of it: tensors stay where they are."""
        ...


def open_weights(
    location: str, env: Mapping[str, str], *, model: str, endpoint: str | None = None, region: str | None = None
) -> Weights:
    """The weights at `plan.model.weights`: a path, s3://bucket/prefix, pvc://claim/path or builtin.

    A path in VIDEOGEN_WEIGHTS, at which a pod has its volume mounted, comes before all of these. `model` is the name
    under which VIDEOGEN_BUILTIN_WEIGHTS has a folder; `endpoint` and `region` are those of the plan's storage, `env`
    has its credentials. Raises ConfigInvalid for a location that this image cannot use, and what `open_store` raises.
    """
    mounted = env.get(Env.WEIGHTS)
    if mounted:
        return LocalWeights(Path(mounted))
    if location == "builtin":
        return LocalWeights(_builtin_folder(model, env))
    if location.startswith("pvc://"):
        raise ConfigInvalid(f"model.weights: {location} is a volume; set {Env.WEIGHTS} to where it is mounted")
    if location.startswith("s3://"):
        scratch = Path(env.get(Env.SCRATCH) or tempfile.gettempdir())
        return StoredWeights(open_store(location, env, endpoint=endpoint, region=region), scratch / "weights")
    if "://" in location or not location:
        raise ConfigInvalid(f"model.weights: {location!r} is none of a path, s3://, pvc:// and builtin")
    return LocalWeights(Path(location))


def _builtin_folder(model: str, env: Mapping[str, str]) -> Path:
    root = env.get(Env.BUILTIN_WEIGHTS)
    if not root:
        raise ConfigInvalid(
            "model.weights: nothing is built in here; give a path or an s3:// url, or set "
            f"{Env.BUILTIN_WEIGHTS} to a folder that has one folder for each model"
        )
    folder = Path(root) / model
    if not folder.is_dir():
        raise ConfigInvalid(
            f"model.weights: {model} is not built in ({folder} does not exist); give a path or s3:// url"
        )
    return folder


class LocalWeights:
    """A directory with the three folders."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def digests(self) -> WeightsDigests:
        check_directory(self._root)
        files = {component: find_files(self._root / component, component) for component in Component}
        return WeightsDigests(**{component: digests_of(files[component]).digest for component in Component})

    def folder(self, component: Component) -> Path:
        check_directory(self._root)
        return self._root / component

    def files(self, component: Component) -> ComponentFiles:
        return find_files(self.folder(component), component)


class StoredWeights:
    """Weights under a prefix of an object store, with the digests.json that convert has written; cached by digest."""

    def __init__(self, store: Store, cache: Path) -> None:
        self._store = store
        self._cache = cache

    def digests(self) -> WeightsDigests:
        tables = {component: self._table(component) for component in Component}
        for component, table in tables.items():
            for name, size in table.tensor_files.items():
                self._check_size(f"{component}/{name}", size)
        return WeightsDigests(**{component: table.digest for component, table in tables.items()})

    def folder(self, component: Component) -> Path:
        table = self._table(component)
        folder = self._cache / table.digest
        if not folder.is_dir():
            with appearing_folder(folder) as unfinished:
                self._fetch(component, table, unfinished)
        return folder

    def files(self, component: Component) -> ComponentFiles:
        """Config and tokenizer are fetched, tensors are not, unless `folder` has fetched all, or they are pickles."""
        table = self._table(component)
        tensor_files = tuple(
            StoredFile(self._store, f"{component}/{name}", size) for name, size in table.tensor_files.items()
        )
        if (self._cache / table.digest).is_dir() or any(map(is_pickle, tensor_files)):
            return find_files(self.folder(component), component)
        folder = self._cache / f"{table.digest}-texts"
        if not folder.is_dir():
            with appearing_folder(folder) as unfinished:
                self._fetch_files(component, table.texts, table, unfinished)
                self._write_table(table, unfinished)
        return ComponentFiles(component, folder, tensor_files, tuple(folder / name for name in table.texts), {})

    def _fetch(self, component: Component, table: ComponentDigests, folder: Path) -> None:
        self._fetch_files(component, [*table.tensor_files, *table.texts], table, folder)
        actual = measure(find_files(folder, component))
        if actual.digest != table.digest:
            raise WeightsInvalid(
                f"{self._store.url(f'{component}/{DIGESTS_FILE}')} records digest {table.digest}, the files beside it "
                f"have {actual.digest}; upload them again"
            )
        self._write_table(table, folder)

    def _fetch_files(self, component: Component, names: Iterable[str], table: ComponentDigests, folder: Path) -> None:
        for name in names:
            key = f"{component}/{name}"
            with self._naming(key):
                self._store.get_file(key, folder / name, table.texts.get(name))

    def _write_table(self, table: ComponentDigests, folder: Path) -> None:
        with file_errors("write", str(folder)):
            (folder / DIGESTS_FILE).write_text(table.to_json())

    def _table(self, component: Component) -> ComponentDigests:
        key = f"{component}/{DIGESTS_FILE}"
        with self._naming(key):
            return ComponentDigests.parse(self._store.get(key).body, self._store.url(key))

    def _check_size(self, key: str, expected: int) -> None:
        with self._naming(key):
            size = self._store.head(key).size
        if size != expected:
            raise WeightsInvalid(f"{self._store.url(key)} has {size} bytes, {expected} are recorded; upload it again")

    @contextmanager
    def _naming(self, key: str) -> Iterator[None]:
        try:
            yield
        except NotFound as error:
            raise WeightsMissing(
                f"{self._store.url(key)} is missing; upload all that `videogen weights convert` has written"
            ) from error
