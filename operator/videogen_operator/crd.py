"""The CustomResourceDefinition, made from the models of `videogen_api`, the only place where a bound is written."""

from videogen_api import naming
from videogen_api.spec import VideoGenerationSpec
from videogen_api.status import VideoGenerationStatus
from videogen_operator.crd_schema import Schema, model_schema

NAME = f"{naming.PLURAL}.{naming.GROUP}"

DESCRIPTION = "A text-to-video generation job: prompts become clips in an object store."

_COLUMNS = (
    ("Phase", "string", ".status.phase", "What happens now.", 0),
    ("Progress %", "integer", ".status.progress", "Share of the planned work that is done.", 0),
    ("Done", "integer", ".status.clips.succeeded", "Clips that are finished.", 0),
    ("Clips", "integer", ".status.clips.total", "Clips that are asked for.", 0),
    # A string, because kubectl prints a date that is still to come as <invalid>.
    ("ETA", "string", ".status.estimatedCompletionTime", "When the run will end if it goes on as it went so far.", 0),
    ("Age", "date", ".metadata.creationTimestamp", "Time since the object was made.", 0),
    ("Message", "string", ".status.message", "What happens, and what to do where something is wrong.", 1),
    ("GPU-seconds", "number", ".status.plan.gpuSeconds", "GPU time that the plan expects.", 1),
)


def build_crd() -> Schema:
    """The CustomResourceDefinition as plain values."""
    columns = [
        {"name": name, "type": kind, "jsonPath": path, "description": text, **({"priority": wide} if wide else {})}
        for name, kind, path, text, wide in _COLUMNS
    ]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": NAME},
        "spec": {
            "group": naming.GROUP,
            "names": {
                "kind": naming.KIND,
                "listKind": f"{naming.KIND}List",
                "plural": naming.PLURAL,
                "singular": naming.SINGULAR,
                "shortNames": [naming.SHORT_NAME],
                "categories": [naming.CATEGORY],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": naming.VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": columns,
                    "schema": {"openAPIV3Schema": _resource_schema()},
                }
            ],
        },
    }


def _resource_schema() -> Schema:
    # kstatus takes an object without status for done; this default makes a fresh one "not yet observed".
    status = {**model_schema(VideoGenerationStatus), "default": {"observedGeneration": -1}}
    return {
        "description": DESCRIPTION,
        "type": "object",
        "required": ["metadata", "spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            # Of metadata a schema may bound nothing but the names.
            "metadata": {
                "type": "object",
                "properties": {"name": {"type": "string", "maxLength": naming.MAX_NAME_LENGTH}},
            },
            "spec": model_schema(VideoGenerationSpec),
            "status": status,
        },
    }
