"""A peer to compare with: the least that an operator written with kopf can do, one Job for each resource.

Run by operator_scale.py as `kopf run`. Nothing of it is used elsewhere.
"""

import os
from typing import Any

import kopf
from kubernetes import client, config

GROUP, VERSION, PLURAL = "videogen.dev", "v1alpha1", "videogenerations"


@kopf.on.startup()
def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
    config.load_kube_config(os.environ["KUBECONFIG"])
    settings.posting.enabled = False
    settings.scanning.disabled = True


@kopf.on.create(GROUP, VERSION, PLURAL)
def create_job(name: str, namespace: str, body: kopf.Body, **_: Any) -> None:
    container = {"name": "main", "image": "none"}
    job = {
        "metadata": {"name": name},
        "spec": {
            "completions": 1,
            "completionMode": "Indexed",
            "template": {"spec": {"restartPolicy": "Never", "containers": [container]}},
        },
    }
    kopf.adopt(job, owner=body)
    client.BatchV1Api().create_namespaced_job(namespace, job)
