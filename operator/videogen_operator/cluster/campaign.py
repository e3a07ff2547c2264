"""Taking part in the election of a leader, from a thread of its own, for as long as the process lives."""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from videogen_api.errors import ConfigInvalid
from videogen_operator.cluster.api_errors import ApiError
from videogen_operator.cluster.client import KubernetesClient
from videogen_operator.cluster.election import Elector
from videogen_operator.cluster.metrics import OperatorMetrics

log = logging.getLogger("videogen")

_LEASE_CALL_SECONDS = 4.0


def make_elector(environment: Mapping[str, str], identity: str, metrics: OperatorMetrics) -> Elector:
    """Raises ConfigInvalid where nobody says in which namespace the Lease is."""
    namespace = environment.get("POD_NAMESPACE")
    if not namespace:
        raise ConfigInvalid(
            "environment key POD_NAMESPACE: left out; set it to where the Lease is to lie, or use --no-leader-election"
        )
    # Of its own: a slow call elsewhere must not hold up a renewal, and it writes without leading.
    client = KubernetesClient.connect(
        environment, threads=1, record_call=metrics.record_call, timeout_seconds=_LEASE_CALL_SECONDS
    )
    return Elector(client, namespace, identity)


@contextmanager
def campaign(elector: Elector, have_passes_ended: Callable[[], bool]) -> Iterator[None]:
    """Takes part while the block lasts, and gives the lease back after it if no pass can write any more."""
    stop = threading.Event()
    thread = threading.Thread(target=_renew, args=(elector, stop), name="election", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(2 * _LEASE_CALL_SECONDS)
        if not thread.is_alive() and have_passes_ended():
            try:
                elector.release()
            except ApiError as error:
                log.warning("the lease could not be given back, others wait for its end: %s", error)


def _renew(elector: Elector, stop: threading.Event) -> None:
    seconds = 0.0
    while not stop.wait(seconds) and not elector.lost:
        seconds = elector.step()
