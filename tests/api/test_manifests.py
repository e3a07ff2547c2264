"""Manifests: what is wrong with each, in whole lines; what is read, as whole values."""

from pathlib import Path

import pytest

from videogen_api.errors import ExitCode, InvalidInput
from videogen_api.resource import ManifestInvalid, load_manifests, parse_manifests, parse_resource
from videogen_api.spec import Prompt, Video, VideoGenerationSpec, quantity_bytes

HEAD = "apiVersion: videogen.dev/v1alpha1\nkind: VideoGeneration\nmetadata: {name: fox}\n"
FOX = "prompts: [{text: a fox}]\n"


def manifest(spec: str) -> str:
    return HEAD + "spec:\n" + "".join(f"  {line}\n" for line in spec.splitlines())


def problems_of(text: str) -> tuple[str, ...]:
    with pytest.raises(ManifestInvalid) as caught:
        parse_manifests(text, "fox.yaml")
    assert caught.value.exit_code == ExitCode.INVALID_INPUT
    return caught.value.problems


BAD_SPECS = {
    'prompts: [{text: ""}]': 'prompts[0].text: "" is not allowed: want at least 1 characters',
    'prompts: [{text: "  \\n "}]': 'prompts[0].text: "  \\n " is not allowed: the prompt is empty; '
    "write what the video should show",
    "prompts: []": "prompts: 0 items are not allowed: want at least 1",
    "video: {}": "prompts: missing; it is required",
    f"{FOX}video: {{frames: 0}}": "video.frames: 0 is not allowed: want greater than or equal to 1",
    f"{FOX}video: {{frames: 2}}": "video.frames: 2 is not allowed: want 1 (an image) or at least 17; "
    "the model has no result in between",
    f"{FOX}video: {{frames: 16}}": "video.frames: 16 is not allowed: want 1 (an image) or at least 17; "
    "the model has no result in between",
    f"{FOX}video: {{resolution: 500p}}": 'video.resolution: "500p" is not allowed: want one of 144p, 240p, 360p, 480p, '
    "720p, 1080p, 2k, 4k",
    f'{FOX}video: {{aspectRatio: "5:7"}}': 'video.aspectRatio: "5:7" is not allowed: want one of 8:3, 21:9, 25:12, '
    "2:1, 17:9, 50:27, 16:9, 8:5, 3:2, 4:3, 1:1, 3:4, 2:3, 9:16, 9:17, 1:2, 27:50",
    f"{FOX}video: {{resolution: 240p, size: {{width: 64, height: 64}}}}": "video: size and resolution exclude each "
    "other; drop size, or drop resolution and aspectRatio",
    f"{FOX}video: {{size: {{width: 65, height: 64}}}}": "video.size.width: 65 is not allowed: want a multiple of 16",
    f"{FOX}video: {{conditionFrames: 20}}": "video.conditionFrames: 20 is not allowed: want a multiple of 17",
    f"{FOX}sampling: {{steps: 0}}": "sampling.steps: 0 is not allowed: want greater than or equal to 1",
    f"{FOX}sampling: {{guidance: .nan}}": "sampling.guidance: NaN is not allowed: want a finite number",
    f"{FOX}sampling: {{guidance: .inf}}": "sampling.guidance: Infinity is not allowed: want a finite number",
    f"{FOX}sampling: {{guidance: high}}": 'sampling.guidance: "high" is not allowed: want a valid number',
    f"{FOX}sampling: {{cameraMotion: a.b}}": 'sampling.cameraMotion: "a.b" is not allowed: want words such as pan left',
    "prompts:\n" + "- {text: a}\n" * 1001: "prompts: 1001 items are not allowed: want at most 1000",
    "prompts:\n" + f"- {{text: {'a' * 20_000}}}\n" * 8: "prompts: 160000 characters in all, at most 150000 allowed; "
    "use several",
    "prompts:\n" + "- {text: a, samples: 100}\n" * 101: "prompts: 10100 clips in all, at most 10000 are allowed; "
    "use several",
    "prompts: [{name: a, text: x}, {name: a, text: y}]": "prompts: two prompts are named 'a'; names must be unique",
    "prompts: [{name: p001, text: x}, {text: y}]": "prompts: two prompts are named 'p001'; names must be unique",
    f"{FOX}promts: []": "promts: unknown field; did you mean prompts?",
    f"{FOX}video: {{resolutoin: 240p}}": "video.resolutoin: unknown field; did you mean resolution?",
    "prompts: [{text: a, sed: 1}]": "prompts[0].sed: unknown field; did you mean seed?",
    f"{FOX}runners: [{{name: a, zzz: 1}}]": "runners[0].zzz: unknown field; want one of name, replicas, gpu, pod",
    "prompts: 3": "prompts: 3 is not allowed: want a list",
    "prompts: [just text]": 'prompts[0]: "just text" is not allowed: want an object',
    "prompts: [{text: 3}]": "prompts[0].text: 3 is not allowed: want a valid string",
    "prompts: [{text: a, seed: abc}]": 'prompts[0].seed: "abc" is not allowed: want a valid integer',
    "prompts: [{text: a, seed: 1.5}]": "prompts[0].seed: 1.5 is not allowed: want a valid integer",
    "prompts: [{text: a, seed: true}]": "prompts[0].seed: true is not allowed: want a valid integer",
    "prompts: [{text: a, seed: -1}]": "prompts[0].seed: -1 is not allowed: want greater than or equal to 0",
    "prompts: [{text: a, seed: 9007199254740992}]": "prompts[0].seed: 9007199254740992 is not allowed: "
    "want less than or equal to 9007199254740991",
    "prompts: [{text: a, references: [{url: x, edit: 2}]}]": "prompts[0].references[0].edit: 2 is not allowed: "
    "want less than or equal to 1",
    f'{FOX}suspend: "yes"': 'suspend: "yes" is not allowed: want a valid boolean',
    f"{FOX}schedule: {{strategy: Fast}}": "schedule.strategy: \"Fast\" is not allowed: want 'Auto', 'Sequential' or "
    "'Overlapped'",
    f"{FOX}storage: {{url: 'http://x'}}": 'storage.url: "http://x" is not allowed: want s3://bucket/path or a path',
    f"{FOX}storage: {{endpoint: minio}}": 'storage.endpoint: "minio" is not allowed: want http://host:port or '
    "https://host:port",
    f"{FOX}model: {{weights: 'http://x'}}": 'model.weights: "http://x" is not allowed: want s3://, pvc://claim/path, '
    "builtin or a path",
    f"{FOX}runners: [{{name: a}}, {{name: a}}]": "runners: two pools are named 'a'; names must be unique",
    f"{FOX}runners: [{{name: a, gpu: {{memory: lots}}}}]": 'runners[0].gpu.memory: "lots" is not allowed: want a '
    "Kubernetes quantity such as 16Gi",
    f"{FOX}runners: [{{name: a, pod: {{env: [{{name: AWS_X, value: a}}]}}}}]": "runners[0].pod.env[0]: the name AWS_X "
    "is reserved; remove it",
    f"{FOX}runners: [{{name: a, pod: {{labels: {{videogen.dev/name: x}}}}}}]": "runners[0].pod.labels: label "
    "videogen.dev/name is reserved; remove it",
}  # fmt: skip


@pytest.mark.parametrize(("spec", "problem"), BAD_SPECS.items(), ids=[line[:40] for line in BAD_SPECS.values()])
def test_a_bad_spec_is_refused_with_one_line_that_names_the_field_the_value_and_what_is_allowed(
    spec: str, problem: str
) -> None:
    assert problems_of(manifest(spec)) == (f"fox.yaml: spec.{problem}",)


BAD_DOCUMENTS = {
    "": "fox.yaml: holds no document; write a VideoGeneration",
    "# nothing\n---\n": "fox.yaml: holds no document; write a VideoGeneration",
    "- 1\n": "fox.yaml: want a VideoGeneration, found [1]",
    "apiVersion: v1\nkind: Pod\n": 'fox.yaml: apiVersion: "v1" is not allowed: want videogen.dev/v1alpha1',
    "a: 1\n": "fox.yaml: apiVersion: nothing is not allowed: want videogen.dev/v1alpha1",
    HEAD: "fox.yaml: spec: missing; it is required",
    HEAD + "spec:\n": "fox.yaml: spec: null is not allowed: want an object",
    HEAD + "spec: {prompts: [": "fox.yaml: not valid YAML: line 4, column 18: expected the node content, "
    "but found '<stream end>'",
    HEAD + "spec:\n\tprompts: 1\n": "fox.yaml: not valid YAML: line 5, column 1: found character '\\t' that cannot "
    "start any token",
    manifest("prompts: [{text: a, text: b}]"): "fox.yaml: not valid YAML: line 5, column 23: the key "
    "'text' stands twice",
    manifest("prompts: !!python/object:os.system []"): "fox.yaml: not valid YAML: line 5, column 12: could not "
    "determine a constructor for the tag 'tag:yaml.org,2002:python/object:os.system'",
    manifest("prompts: &a [*a]"): "fox.yaml: holds a value that JSON cannot carry: Circular reference detected",
    manifest(FOX).replace("{name: fox}", "{}"): "fox.yaml: metadata.name: missing; it is required",
    manifest(FOX).replace("name: fox", "name: Fox_1"): 'fox.yaml: metadata.name: "Fox_1" is not allowed: want '
    "lower-case letters, digits, dashes and dots, as in my-clip",
    manifest(FOX) + "---\n" + manifest(FOX): "fox.yaml: two documents are named default/fox; names must be unique",
}  # fmt: skip


@pytest.mark.parametrize(("text", "problem"), BAD_DOCUMENTS.items(), ids=[line[:40] for line in BAD_DOCUMENTS.values()])
def test_a_bad_document_is_refused_with_one_line(text: str, problem: str) -> None:
    assert problems_of(text) == (problem,)


def test_every_problem_of_every_document_is_reported_at_once() -> None:
    text = manifest("prompts: [{text: a, seed: -1}]\nvideo: {fps: 0}\nmodle: {}") + "---\n" + manifest("prompts: []")

    assert problems_of(text) == (
        "fox.yaml, document 1: spec.prompts[0].seed: -1 is not allowed: want greater than or equal to 0",
        "fox.yaml, document 1: spec.video.fps: 0 is not allowed: want greater than or equal to 1",
        "fox.yaml, document 1: spec.modle: unknown field; did you mean model?",
        "fox.yaml, document 2: spec.prompts: 0 items are not allowed: want at least 1",
    )


def test_a_file_that_cannot_be_read_is_refused_with_its_name(tmp_path: Path) -> None:
    binary = tmp_path / "video.mp4"
    binary.write_bytes(b"\xff\xfe\x00")

    for path, problem in (
        (tmp_path / "none.yaml", "cannot be read: No such file or directory"),
        (tmp_path, "cannot be read: Is a directory"),
        (binary, "cannot be read: it is not UTF-8 text"),
    ):
        with pytest.raises(InvalidInput) as caught:
            load_manifests(path)
        assert str(caught.value) == f"{path}: {problem}"


def test_several_documents_are_read_in_their_order() -> None:
    second = manifest(FOX).replace("name: fox", "name: hen")

    resources = parse_manifests(manifest(FOX) + "---\n" + second, "fox.yaml")

    assert [resource.metadata.name for resource in resources] == ["fox", "hen"]


def test_yaml_is_read_as_the_api_server_reads_it() -> None:
    # YAML 1.1 would make 16:9 a number in base 60 and 2026-01-01 a date.
    resource = parse_manifests(manifest("prompts: [{text: 2026-01-01}]\nvideo: {aspectRatio: 16:9}"), "fox.yaml")[0]

    assert resource.spec == VideoGenerationSpec(prompts=(Prompt(text="2026-01-01"),), video=Video(aspect_ratio="16:9"))


def test_what_is_left_out_stays_left_out() -> None:
    spec = parse_manifests(manifest(FOX), "fox.yaml")[0].spec

    assert spec.model_dump(exclude_none=True) == {"prompts": ({"text": "a fox"},)}


def test_a_resource_as_the_api_server_gives_it_is_read_with_its_status() -> None:
    document = {
        "apiVersion": "videogen.dev/v1alpha1",
        "kind": "VideoGeneration",
        "metadata": {"name": "fox", "namespace": "team-a", "uid": "u1", "generation": 3, "managedFields": [{}]},
        "spec": {"prompts": [{"text": "a fox"}]},
        "status": {"observedGeneration": 2, "phase": "Generating", "startTime": "2026-11-24T10:00:00Z"},
    }

    resource = parse_resource(document)

    assert (resource.metadata.namespace, resource.metadata.generation) == ("team-a", 3)
    assert resource.status.model_dump(mode="json", by_alias=True, exclude_unset=True) == document["status"]


@pytest.mark.parametrize(
    ("quantity", "expected"),
    [("16Gi", 16 * 2**30), ("1.5G", 1_500_000_000), ("100", 100), ("2k", 2000), ("512Mi", 2**29), ("1Ti", 2**40)],
)
def test_a_kubernetes_quantity_is_so_many_bytes(quantity: str, expected: int) -> None:
    assert quantity_bytes(quantity) == expected
