"""`videogen weights inspect`: what a weights directory holds, what is wrong with it, and its digests, written down."""

from pathlib import Path

from videogen_api.architecture import DEFAULT_MODEL, Architecture
from videogen_api.errors import StoreDenied, VideogenError
from videogen_api.spec import Model
from videogen_runner.models.opensora.tokenizer import load_tokenizer
from videogen_runner.models.registry import blueprint_of
from videogen_runner.store.files import file_errors
from videogen_runner.weights.checking import canonical_names, check_config, check_tensors
from videogen_runner.weights.components import Component, ComponentFiles, check_directory, find_files, list_tensors
from videogen_runner.weights.digests import DIGESTS_FILE, disagreement, measure, read_recorded
from videogen_runner.weights.tensor_files import StoredTensor


class ComponentReport(Model):
    """One component; `problems` is empty where it can be used, one sentence each where it cannot."""

    component: Component
    folder: str
    files: tuple[str, ...] = ()
    tensors: int = 0
    parameters: int = 0
    bytes: int = 0
    dtypes: tuple[str, ...] = ()
    digest: str | None = None
    """None where there are problems."""
    note: str | None = None
    problems: tuple[str, ...] = ()


def inspect(root: Path, architecture: Architecture | None = None) -> list[ComponentReport]:
    """Looks at every file and reads every tensor through; writes digests.json where there is none and that is allowed.

    Sizes are those of each config.json, and with `architecture` also that model's. Raises WeightsMissing or
    WeightsInvalid where `root` is no directory; everything else is in the reports.
    """
    check_directory(root)
    return [_inspect(root / component, component, architecture) for component in Component]


def _inspect(folder: Path, component: Component, architecture: Architecture | None) -> ComponentReport:
    report = ComponentReport(component=component, folder=str(folder))
    try:
        files = find_files(folder, component)
        tensors = list_tensors(files)
        report = _describe(report, files, tensors)
        problems = _compare(files, tensors, architecture)
        if not problems:
            return _with_digest(report, files)
    except VideogenError as error:
        problems = [error]
    return report.model_copy(update={"problems": tuple(str(problem) for problem in problems)})


def _describe(report: ComponentReport, files: ComponentFiles, tensors: dict[str, StoredTensor]) -> ComponentReport:
    specs = [tensor.spec for tensor in tensors.values()]
    return report.model_copy(
        update={
            "files": tuple(path.name for path in files.tensor_files),
            "tensors": len(specs),
            "parameters": sum(spec.num_values for spec in specs),
            "bytes": sum(spec.nbytes for spec in specs),
            "dtypes": tuple(sorted({spec.dtype for spec in specs})),
        }
    )


def _compare(
    files: ComponentFiles, tensors: dict[str, StoredTensor], architecture: Architecture | None
) -> list[VideogenError]:
    blueprint = blueprint_of(architecture.name if architecture else DEFAULT_MODEL, files.component)
    if files.component is Component.ENCODER:
        load_tokenizer(files.folder)
    return check_tensors(files, canonical_names(tensors, blueprint), check_config(files, blueprint, architecture))


def _with_digest(report: ComponentReport, files: ComponentFiles) -> ComponentReport:
    """Raises WeightsInvalid where digests.json is there and not of these tensors."""
    recorded, actual = read_recorded(files.folder), measure(files)
    if recorded is not None and recorded.digest != actual.digest:
        raise disagreement(files, recorded, actual)
    note = None
    if recorded != actual:
        path = files.folder / DIGESTS_FILE
        try:
            with file_errors("write", str(path)):
                unfinished = path.with_name(f".{DIGESTS_FILE}.unfinished")
                unfinished.write_text(actual.to_json())
                unfinished.replace(path)
            note = f"{DIGESTS_FILE} written"
        except StoreDenied as error:
            note = str(error)
    return report.model_copy(update={"digest": actual.digest, "note": note})
