"""The CRD in the control plane, and plain requests to it: faster than kubectl where there are hundreds."""

import http.client
import json
import ssl
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pytest
from tests.cluster.control_plane import ControlPlane

from videogen_api import naming

STRICT = "fieldValidation=Strict"
DRY_RUN = f"dryRun=All&{STRICT}"


class Refused(Exception):
    """The API server said no; `causes` are (field, message)."""

    def __init__(self, status: dict[str, Any]) -> None:
        super().__init__(status["message"])
        causes = status.get("details", {}).get("causes", ())
        self.causes = [(cause["field"], cause["message"]) for cause in causes]


@dataclass(frozen=True)
class Api:
    """VideoGenerations of one namespace."""

    plane: ControlPlane
    namespace: str

    def create(self, document: dict[str, Any], options: str = DRY_RUN) -> dict[str, Any]:
        return self.request("POST", "", document, options)

    def request(
        self, method: str, path: str, body: object = None, options: str = "", content_type: str = "application/json"
    ) -> dict[str, Any]:
        """The answer to a request for `path` below the collection, such as `/fox/status`. Raises Refused."""
        context = ssl.create_default_context(cafile=self.plane.ca_file)
        address = self.plane.server.removeprefix("https://")
        url = f"/apis/{naming.API_VERSION}/namespaces/{self.namespace}/{naming.PLURAL}{path}?{options}"
        headers = {"Authorization": f"Bearer {self.plane.token}", "Content-Type": content_type}
        with closing(http.client.HTTPSConnection(address, context=context, timeout=300)) as connection:
            connection.request(method, url, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            answer: dict[str, Any] = json.load(response)
        if response.status >= 400:
            raise Refused(answer)
        return answer


@pytest.fixture(scope="module")
def api(control_plane: ControlPlane, request: pytest.FixtureRequest) -> Iterator[Api]:
    """A namespace of the module's own."""
    namespace = request.module.__name__.rsplit(".", 1)[-1].replace("_", "-")
    control_plane.install_crd()
    control_plane.kubectl("create", "namespace", namespace)
    yield Api(control_plane, namespace)
    control_plane.kubectl("delete", "namespace", namespace, "--wait=false")
