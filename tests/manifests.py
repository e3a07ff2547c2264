"""One good manifest, and what may be wrong with one: the API server and `parse_resource` refuse the same.

Paths are those of error messages: spec.prompts[0].text.
"""

import copy
import re
from dataclasses import dataclass
from typing import Any

REMOVED = object()
"""Instead of a value: the field is left out."""

GOOD: dict[str, Any] = {
    "apiVersion": "videogen.dev/v1alpha1",
    "kind": "VideoGeneration",
    "metadata": {"name": "fox"},
    "spec": {
        "prompts": [
            {
                "name": "snow",
                "text": "A red fox runs through fresh snow",
                "seed": 42,
                "samples": 2,
                "references": [
                    {
                        "url": "s3://in/fox.png",
                        "sha256": "ab" * 32,
                        "loop": 0,
                        "start": -1,
                        "at": 0,
                        "length": 1,
                        "edit": 0.5,
                    }
                ],
            },
            {"text": "Boats leave a harbour"},
        ],
        "video": {
            "resolution": "480p",
            "aspectRatio": "16:9",
            "frames": 51,
            "fps": 24,
            "loops": 2,
            "conditionFrames": 17,
        },
        "sampling": {
            "steps": 30,
            "guidance": 7.5,
            "aestheticScore": 6.5,
            "motionScore": 5,
            "cameraMotion": "pan left",
        },
        "model": {"name": "open-sora-v1.2", "weights": "s3://models/open-sora-v1.2/", "precision": "exact"},
        "storage": {
            "url": "s3://videos/team-a/",
            "endpoint": "http://minio.storage:9000",
            "region": "us-east-1",
            "credentialsSecret": "s3",
        },
        "encoder": {"shards": 2, "gpu": {"count": 1}, "pod": {"labels": {"team": "a"}}},
        "runners": [
            {
                "name": "t4",
                "replicas": 4,
                "gpu": {"resource": "nvidia.com/gpu", "count": 1, "memory": "16Gi", "product": "Tesla-T4"},
                "pod": {
                    "nodeSelector": {"kubernetes.io/arch": "amd64"},
                    "tolerations": [
                        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
                        {
                            "key": "spot",
                            "operator": "Equal",
                            "value": "yes",
                            "effect": "NoExecute",
                            "tolerationSeconds": 60,
                        },
                    ],
                    "resources": {"requests": {"cpu": 4, "memory": "8Gi"}, "limits": {"cpu": "4500m"}},
                    "priorityClassName": "low",
                    "imagePullSecrets": [{"name": "registry.example"}],
                    "serviceAccountName": "video",
                    "labels": {"example.com/team": "a", "cost-centre": ""},
                    "env": [{"name": "HF_HUB_OFFLINE", "value": "$(HOME)"}],
                },
            },
            {"name": "a100", "replicas": 0},
        ],
        "schedule": {
            "strategy": "Auto",
            "queue": "team-a",
            "startDeadlineSeconds": 1800,
            "activeDeadlineSeconds": 86400,
        },
        "retries": 3,
        "suspend": False,
        "retry": "1",
        "ttlSecondsAfterFinished": 86400,
    },
}


@dataclass(frozen=True)
class Bad:
    """A change to the good manifest, and how each side refuses it: the field, and words of the message."""

    changes: dict[str, Any]
    field: str
    api_server: str
    python: str

    def manifest(self) -> dict[str, Any]:
        return changed(GOOD, self.changes)


def changed(manifest: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy with some fields set, or left out where the value is REMOVED."""
    document = copy.deepcopy(manifest)
    for path, value in changes.items():
        *parents, last = [int(part) if part.isdecimal() else part for part in re.findall(r"[^.\[\]]+", path)]
        target: Any = document
        for part in parents:
            target = target[part]
        if value is REMOVED:
            del target[last]
        elif isinstance(target, list) and last == len(target):
            target.append(value)
        else:
            target[last] = value
    return document


POOL = "spec.runners[0]"
POD = f"{POOL}.pod"
BAD: dict[str, Bad] = {
    "a name of 64 characters": Bad(
        {"metadata.name": "a" * 64},
        "metadata.name",
        "Too long: may not be more than 63 bytes",
        "want at most 63 characters",
    ),
    "a name with an empty part": Bad(
        {"metadata.name": "a..b"},
        "metadata.name",
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters",
        "want lower-case letters, digits, dashes and dots, as in my-clip",
    ),
    "a name in capitals": Bad(
        {"metadata.name": "Fox"},
        "metadata.name",
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters",
        "want lower-case letters, digits, dashes and dots, as in my-clip",
    ),
    "no spec": Bad({"spec": REMOVED}, "spec", "Required value", "missing; it is required"),
    "no prompts": Bad({"spec.prompts": REMOVED}, "spec.prompts", "Required value", "missing; it is required"),
    "an empty list of prompts": Bad(
        {"spec.prompts": []}, "spec.prompts", "in body should have at least 1 items", "want at least 1"
    ),
    "prompts that are no list": Bad(
        {"spec.prompts": "a fox"}, "spec.prompts", "in body must be of type array", "want a list"
    ),
    "too many prompts": Bad(
        {"spec.prompts": [{"text": "a"}] * 1001},
        "spec.prompts",
        "Too many: 1001: must have at most 1000 items",
        "want at most 1000",
    ),
    "two prompts of one name": Bad(
        {"spec.prompts[1].name": "snow"},
        "spec.prompts",
        "insert failed: key snow already exists evaluating rule: names of prompts must be unique; rename one",
        "two prompts are named 'snow'; names must be unique",
    ),
    "a prompt named as another's position": Bad(
        {"spec.prompts[0].name": "p001"},
        "spec.prompts",
        "a prompt without a name is called by its position, p000, p001 and so on, and another one has that name",
        "two prompts are named 'p001'; names must be unique",
    ),
    "too many characters in all": Bad(
        {"spec.prompts": [{"text": "a" * 20_000}] * 8},
        "spec.prompts",
        "at most 150000 characters in all are allowed; use several VideoGenerations",
        "160000 characters in all, at most 150000 allowed; use several",
    ),
    "too many clips in all": Bad(
        {"spec.prompts": [{"text": "a", "samples": 100}] * 101},
        "spec.prompts",
        "at most 10000 clips in all are allowed; use several VideoGenerations",
        "10100 clips in all, at most 10000 are allowed; use several",
    ),
    "a prompt without text": Bad(
        {"spec.prompts[0].text": REMOVED}, "spec.prompts[0].text", "Required value", "missing; it is required"
    ),
    "an empty prompt": Bad(
        {"spec.prompts[0].text": ""},
        "spec.prompts[0].text",
        "the prompt is empty; write what the video should show",
        "want at least 1 characters",
    ),
    "a prompt of blanks": Bad(
        {"spec.prompts[0].text": " \n\u2003"},
        "spec.prompts[0].text",
        "the prompt is empty; write what the video should show",
        "the prompt is empty; write what the video should show",
    ),
    "a prompt that is too long": Bad(
        {"spec.prompts[0].text": "a" * 20_001},
        "spec.prompts[0].text",
        "Too long: may not be more than 20000 bytes",
        "want at most 20000 characters",
    ),
    "a prompt's name in capitals": Bad(
        {"spec.prompts[0].name": "Snow"},
        "spec.prompts[0].name",
        "want lower-case letters, digits and dashes, a letter or digit at both ends",
        "want lower-case letters, digits and dashes, a letter or digit at both ends",
    ),
    "a prompt's name with a dash at its end": Bad(
        {"spec.prompts[0].name": "snow-"},
        "spec.prompts[0].name",
        "want lower-case letters, digits and dashes, a letter or digit at both ends",
        "want lower-case letters, digits and dashes, a letter or digit at both ends",
    ),
    "a prompt's name with a line break": Bad(
        {"spec.prompts[0].name": "snow\n"},
        "spec.prompts[0].name",
        "want lower-case letters, digits and dashes, a letter or digit at both ends",
        "want lower-case letters, digits and dashes, a letter or digit at both ends",
    ),
    "a negative seed": Bad(
        {"spec.prompts[0].seed": -1},
        "spec.prompts[0].seed",
        "in body should be greater than or equal to 0",
        "want greater than or equal to 0",
    ),
    "a seed that JSON rounds": Bad(
        {"spec.prompts[0].seed": 2**53},
        "spec.prompts[0].seed",
        "in body should be less than or equal to 9007199254740991",
        "want less than or equal to 9007199254740991",
    ),
    "a seed that is a word": Bad(
        {"spec.prompts[0].seed": "one"},
        "spec.prompts[0].seed",
        "in body must be of type integer",
        "want a valid integer",
    ),
    "a seed with a fraction": Bad(
        {"spec.prompts[0].seed": 1.5},
        "spec.prompts[0].seed",
        'in body must be of type int64: "float64"',
        "want a valid integer",
    ),
    "no samples": Bad(
        {"spec.prompts[0].samples": 0},
        "spec.prompts[0].samples",
        "in body should be greater than or equal to 1",
        "want greater than or equal to 1",
    ),
    "too many samples": Bad(
        {"spec.prompts[0].samples": 101},
        "spec.prompts[0].samples",
        "in body should be less than or equal to 100",
        "want less than or equal to 100",
    ),
    "a reference of another scheme": Bad(
        {"spec.prompts[0].references[0].url": "http://in/fox.png"},
        "spec.prompts[0].references[0].url",
        "in body should match '^(s3://[^/\\s\\v]+(/[^\\s\\v]*)?|file:///[^\\s\\v]*|[^:/\\s\\v]*(/[^\\s\\v]*)?)$'",
        "want s3://bucket/path or a path",
    ),
    "a digest in capitals": Bad(
        {"spec.prompts[0].references[0].sha256": "AB" * 32},
        "spec.prompts[0].references[0].sha256",
        "want 64 hexadecimal digits",
        "want 64 hexadecimal digits",
    ),
    "an edit ratio above 1": Bad(
        {"spec.prompts[0].references[0].edit": 1.5},
        "spec.prompts[0].references[0].edit",
        "in body should be less than or equal to 1",
        "want less than or equal to 1",
    ),
    "a reference of no length": Bad(
        {"spec.prompts[0].references[0].length": 0},
        "spec.prompts[0].references[0].length",
        "in body should be greater than or equal to 1",
        "want greater than or equal to 1",
    ),
    "an unknown resolution": Bad(
        {"spec.video.resolution": "500p"},
        "spec.video.resolution",
        'Unsupported value: "500p": supported values: "144p", "240p", "360p", "480p", "720p", "1080p", "2k", "4k"',
        "want one of 144p, 240p, 360p, 480p, 720p, 1080p, 2k, 4k",
    ),
    "an unknown aspect ratio": Bad(
        {"spec.video.aspectRatio": "5:7"},
        "spec.video.aspectRatio",
        'Unsupported value: "5:7": supported values: "8:3", "21:9", "25:12", "2:1", "17:9", "50:27", "16:9", "8:5", ',
        "want one of 8:3, 21:9, 25:12, 2:1, 17:9, 50:27, 16:9, 8:5, 3:2, 4:3, 1:1, 3:4, 2:3, 9:16, 9:17, 1:2, 27:50",
    ),
    "size and resolution": Bad(
        {"spec.video.size": {"width": 64, "height": 64}},
        "spec.video.size",
        "size and resolution exclude each other; drop size, or drop resolution and aspectRatio",
        "size and resolution exclude each other; drop size, or drop resolution and aspectRatio",
    ),
    "a width between patches": Bad(
        {"spec.video": {"size": {"width": 65, "height": 64}}},
        "spec.video.size.width",
        "in body should be a multiple of 16",
        "want a multiple of 16",
    ),
    "a size without a height": Bad(
        {"spec.video": {"size": {"width": 64}}}, "spec.video.size.height", "Required value", "missing; it is required"
    ),
    "two frames": Bad(
        {"spec.video.frames": 2},
        "spec.video.frames",
        "2: want 1 (an image) or at least 17; the model has no result in between",
        "want 1 (an image) or at least 17; the model has no result in between",
    ),
    "no frames": Bad(
        {"spec.video.frames": 0},
        "spec.video.frames",
        "0: want 1 (an image) or at least 17; the model has no result in between",
        "want greater than or equal to 1",
    ),
    "frames of no whole chunk to go on from": Bad(
        {"spec.video.conditionFrames": 20},
        "spec.video.conditionFrames",
        "in body should be a multiple of 17",
        "want a multiple of 17",
    ),
    "a loop with nothing of its own": Bad(
        {"spec.video.conditionFrames": 51},
        "spec.video.conditionFrames",
        "conditionFrames must be less than frames, or a loop would have nothing of its own; lower it, raise frames, or",
        "51 of 51 frames would leave a loop nothing of its own; lower it, raise frames, or set loops to 1",
    ),
    "no frames a second": Bad(
        {"spec.video.fps": 0},
        "spec.video.fps",
        "in body should be greater than or equal to 1",
        "want greater than or equal to 1",
    ),
    "no steps": Bad(
        {"spec.sampling.steps": 0},
        "spec.sampling.steps",
        "in body should be greater than or equal to 1",
        "want greater than or equal to 1",
    ),
    "guidance in words": Bad(
        {"spec.sampling.guidance": "high"},
        "spec.sampling.guidance",
        "in body must be of type number",
        "want a valid number",
    ),
    "too much guidance": Bad(
        {"spec.sampling.guidance": 100.5},
        "spec.sampling.guidance",
        "in body should be less than or equal to 100",
        "want less than or equal to 100",
    ),
    "a camera motion with a full stop": Bad(
        {"spec.sampling.cameraMotion": "pan left."},
        "spec.sampling.cameraMotion",
        "want words such as pan left",
        "want words such as pan left",
    ),
    "weights of another scheme": Bad(
        {"spec.model.weights": "hf://fox/model"},
        "spec.model.weights",
        "want s3://, pvc://claim/path, builtin or a path",
        "want s3://, pvc://claim/path, builtin or a path",
    ),
    "an unknown precision": Bad(
        {"spec.model.precision": "rough"},
        "spec.model.precision",
        'Unsupported value: "rough": supported values: "exact"',
        "want 'exact'",
    ),
    "storage of another scheme": Bad(
        {"spec.storage.url": "gs://videos"},
        "spec.storage.url",
        "want s3://bucket/path or a path",
        "want s3://bucket/path or a path",
    ),
    "storage with a blank": Bad(
        {"spec.storage.url": "s3://videos/team a"},
        "spec.storage.url",
        "want s3://bucket/path or a path",
        "want s3://bucket/path or a path",
    ),
    "an endpoint without a scheme": Bad(
        {"spec.storage.endpoint": "minio:9000"},
        "spec.storage.endpoint",
        "want http://host:port or https://host:port",
        "want http://host:port or https://host:port",
    ),
    "an endpoint with a path": Bad(
        {"spec.storage.endpoint": "http://minio/s3"},
        "spec.storage.endpoint",
        "want http://host:port or https://host:port",
        "want http://host:port or https://host:port",
    ),
    "an empty region": Bad(
        {"spec.storage.region": ""},
        "spec.storage.region",
        "in body should be at least 1 chars long",
        "want at least 1 characters",
    ),
    "a secret's name in capitals": Bad(
        {"spec.storage.credentialsSecret": "S3"},
        "spec.storage.credentialsSecret",
        "want lower-case letters, digits and dashes, a letter or digit at both ends",
        "want lower-case letters, digits and dashes, a letter or digit at both ends",
    ),
    "no shards": Bad(
        {"spec.encoder.shards": 0},
        "spec.encoder.shards",
        "in body should be greater than or equal to 1",
        "want greater than or equal to 1",
    ),
    "two pools of one name": Bad(
        {"spec.runners[1].name": "t4"},
        "spec.runners[1]",
        'Duplicate value: {"name":"t4"}',
        "two pools are named 't4'; names must be unique",
    ),
    "a pool without a name": Bad(
        {"spec.runners[1].name": REMOVED}, "spec.runners[1].name", "Required value", "missing; it is required"
    ),
    "pools without a replica": Bad(
        {f"{POOL}.replicas": 0},
        "spec.runners",
        "no pool has a replica, so nothing would run; raise replicas, or set spec.suspend to pause",
        "no pool has a replica, so nothing would run; raise replicas, or set spec.suspend to pause",
    ),
    "fewer than no replicas": Bad(
        {f"{POOL}.replicas": -1},
        f"{POOL}.replicas",
        "in body should be greater than or equal to 0",
        "want greater than or equal to 0",
    ),
    "a resource that is no extended one": Bad(
        {f"{POOL}.gpu.resource": "gpu"},
        f"{POOL}.gpu.resource",
        "want a resource name such as nvidia.com/gpu",
        "want a resource name such as nvidia.com/gpu",
    ),
    "too many cards": Bad(
        {f"{POOL}.gpu.count": 17},
        f"{POOL}.gpu.count",
        "in body should be less than or equal to 16",
        "want less than or equal to 16",
    ),
    "memory in words": Bad(
        {f"{POOL}.gpu.memory": "lots"},
        f"{POOL}.gpu.memory",
        "want a Kubernetes quantity such as 16Gi",
        "want a Kubernetes quantity such as 16Gi",
    ),
    "a negative number of processors": Bad(
        {f"{POD}.resources.requests.cpu": -1},
        f"{POD}.resources.requests.cpu",
        "in body should be greater than or equal to 0",
        "want a Kubernetes quantity such as 4, 500m or 16Gi",
    ),
    "processors in words": Bad(
        {f"{POD}.resources.requests.cpu": "many"},
        f"{POD}.resources.requests.cpu",
        "want a Kubernetes quantity such as 4, 500m or 16Gi",
        "want a Kubernetes quantity such as 4, 500m or 16Gi",
    ),
    "a label of this project": Bad(
        {f"{POD}.labels": {"videogen.dev/name": "x"}},
        f"{POD}.labels",
        "label videogen.dev/name is reserved; remove it",
        "label videogen.dev/name is reserved; remove it",
    ),
    "a label of a domain below a reserved one": Bad(
        {f"{POD}.labels": {"app.kubernetes.io/name": "x"}},
        f"{POD}.labels",
        "label app.kubernetes.io/name is reserved; remove it",
        "label app.kubernetes.io/name is reserved; remove it",
    ),
    "a label's key with a blank": Bad(
        {f"{POD}.labels": {"my team": "x"}},
        f"{POD}.labels",
        "key my team is not allowed: want a label's key such as example.com/team",
        "want a label's key such as example.com/team",
    ),
    "a label's value with a blank": Bad(
        {f"{POD}.labels": {"team": "a b"}},
        f"{POD}.labels.team",
        "want letters, digits, dashes, underscores and dots, a letter or digit at both ends",
        "want letters, digits, dashes, underscores and dots, a letter or digit at both ends",
    ),
    "a label's value that is too long": Bad(
        {f"{POD}.labels": {"team": "a" * 64}},
        f"{POD}.labels.team",
        "Too long: may not be more than 63 bytes",
        "want at most 63 characters",
    ),
    "too many labels": Bad(
        {f"{POD}.labels": {f"l{n}": "" for n in range(33)}},
        f"{POD}.labels",
        "Too many: 33: must have at most 32 items",
        "want at most 32",
    ),
    "a node selector that is a number": Bad(
        {f"{POD}.nodeSelector": {"zone": 1}},
        f"{POD}.nodeSelector.zone",
        "in body must be of type string",
        "want a valid string",
    ),
    "a taint's effect that there is not": Bad(
        {f"{POD}.tolerations[0].effect": "Never"},
        f"{POD}.tolerations[0].effect",
        'Unsupported value: "Never": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute"',
        "want one of NoSchedule, PreferNoSchedule, NoExecute",
    ),
    "a toleration of every value and one": Bad(
        {f"{POD}.tolerations[0].value": "a"},
        f"{POD}.tolerations[0].value",
        "operator Exists takes any value; drop value, or use Equal",
        "operator Exists takes any value; drop value, or use Equal",
    ),
    "a toleration of no key": Bad(
        {f"{POD}.tolerations[1].key": REMOVED},
        f"{POD}.tolerations[1]",
        "without a key every taint is tolerated, which only operator Exists may say; add one",
        "without a key every taint is tolerated, which only operator Exists may say; add one",
    ),
    "seconds of a taint that evicts nobody": Bad(
        {f"{POD}.tolerations[0].tolerationSeconds": 1},
        f"{POD}.tolerations[0].tolerationSeconds",
        "only a NoExecute taint evicts; drop tolerationSeconds, or set effect to NoExecute",
        "only a NoExecute taint evicts; drop tolerationSeconds, or set effect to NoExecute",
    ),
    "a request above its limit": Bad(
        {f"{POD}.resources.requests.cpu": "4501m"},
        f"{POD}.resources.requests",
        "cpu: the request is more than its limit; lower it, or raise the limit",
        "cpu: 4501m is more than its limit, 4500m; lower it, or raise the limit",
    ),
    "credentials in the environment": Bad(
        {f"{POD}.env[0].name": "AWS_ACCESS_KEY_ID"},
        f"{POD}.env[0].name",
        "the name AWS_ACCESS_KEY_ID is reserved; remove it",
        "the name AWS_ACCESS_KEY_ID is reserved; remove it",
    ),
    "a proxy in the environment, in small letters": Bad(
        {f"{POD}.env[0].name": "https_proxy"},
        f"{POD}.env[0].name",
        "the name https_proxy is reserved; remove it",
        "the name https_proxy is reserved; remove it",
    ),
    "a library for OpenMP to load": Bad(
        {f"{POD}.env[0].name": "OMP_TOOL_LIBRARIES"},
        f"{POD}.env[0].name",
        "the name OMP_TOOL_LIBRARIES is reserved; remove it",
        "the name OMP_TOOL_LIBRARIES is reserved; remove it",
    ),
    "a variable with a dash": Bad(
        {f"{POD}.env[0].name": "A-B"}, f"{POD}.env[0].name", "want an environment name", "want an environment name"
    ),
    "a variable without a value": Bad(
        {f"{POD}.env[0].value": REMOVED}, f"{POD}.env[0].value", "Required value", "missing; it is required"
    ),
    "a service account's name in capitals": Bad(
        {f"{POD}.serviceAccountName": "Video"},
        f"{POD}.serviceAccountName",
        "want lower-case letters, digits, dashes and dots, as in my-object.v1",
        "want lower-case letters, digits, dashes and dots, as in my-object.v1",
    ),
    "an unknown strategy": Bad(
        {"spec.schedule.strategy": "Fast"},
        "spec.schedule.strategy",
        'Unsupported value: "Fast": supported values: "Auto", "Sequential", "Overlapped"',
        "want 'Auto', 'Sequential' or 'Overlapped'",
    ),
    "a deadline of nothing": Bad(
        {"spec.schedule.startDeadlineSeconds": 0},
        "spec.schedule.startDeadlineSeconds",
        "in body should be greater than or equal to 1",
        "want greater than or equal to 1",
    ),
    "too many retries": Bad(
        {"spec.retries": 101},
        "spec.retries",
        "in body should be less than or equal to 100",
        "want less than or equal to 100",
    ),
    "suspend in words": Bad(
        {"spec.suspend": "yes"}, "spec.suspend", "in body must be of type boolean", "want a valid boolean"
    ),
    "retry as a number": Bad({"spec.retry": 1}, "spec.retry", "in body must be of type string", "want a valid string"),
    "a negative time to live": Bad(
        {"spec.ttlSecondsAfterFinished": -1},
        "spec.ttlSecondsAfterFinished",
        "in body should be greater than or equal to 0",
        "want greater than or equal to 0",
    ),
    "a field that there is not": Bad(
        {"spec.promts": []}, "spec.promts", 'unknown field "spec.promts"', "unknown field; did you mean prompts?"
    ),
    "a pod template": Bad(
        {f"{POD}.hostNetwork": True},
        f"{POD}.hostNetwork",
        'unknown field "spec.runners[0].pod.hostNetwork"',
        "unknown field; want one of nodeSelector, tolerations, resources, priorityClassName, imagePullSecrets, ",
    ),
}
