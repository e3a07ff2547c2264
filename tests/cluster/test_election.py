"""Electors against an API server in memory, in a time that only the test moves; requests are slow, lost or refused."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cluster.control_plane import ControlPlane

from videogen_api import naming
from videogen_operator.cluster.api_errors import AlreadyExists, ApiError, Conflict, NotFound, Unavailable
from videogen_operator.cluster.client import KubernetesClient
from videogen_operator.cluster.election import Action, Elector, LeaseRecord, Timing, decide
from videogen_operator.cluster.resources import LEASES, Object, Resource

TIMING = Timing()
NAMESPACE = "videogen-system"
START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Trip:
    """What one request meets: seconds on the way there and back, and whether either way loses it."""

    there: float = 0.0
    back: float = 0.0
    loses_request: bool = False
    loses_reply: bool = False


@dataclass
class World:
    """True time, one Lease, and replicas that step when it is their time, also while another one waits for a reply."""

    now: float = 1000.0
    lease: Object | None = None
    version: int = 0
    replicas: list["Replica"] = field(default_factory=list)

    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        while (replica := self._next_due()) is not None and replica.due < end:
            self.now = max(self.now, replica.due)
            replica.step()
        self.now = max(self.now, end)

    def leaders(self) -> list[str]:
        return [replica.name for replica in self.replicas if replica.elector.may_write()]

    def _next_due(self) -> "Replica | None":
        idle = [replica for replica in self.replicas if replica.alive and not replica.busy]
        return min(idle, key=lambda replica: replica.due, default=None)

    def read(self) -> Object:
        if self.lease is None:
            raise NotFound("no such lease", code=404)
        return self.lease

    def create(self, manifest: Object) -> Object:
        if self.lease is not None:
            raise AlreadyExists("there is a lease", code=409)
        return self.store(manifest)

    def replace(self, manifest: Object) -> Object:
        if self.read()["metadata"]["resourceVersion"] != manifest["metadata"]["resourceVersion"]:
            raise Conflict("the lease has changed", code=409)
        return self.store(manifest)

    def store(self, manifest: Object) -> Object:
        self.version += 1
        metadata: Object = {**manifest["metadata"], "resourceVersion": str(self.version)}
        self.lease = {**manifest, "metadata": metadata}
        return metadata


@dataclass
class Replica:
    """One process: its clock starts anywhere and runs a little wrong, its wall clock is wrong by hours.

    It is its elector's API too, because each has its own way to the server; `trips` come first, then always `weather`.
    """

    world: World
    name: str
    weather: Trip = field(default_factory=Trip)
    trips: list[Trip] = field(default_factory=list)
    start: float = 0.0
    rate: float = 1.0
    wall_error: timedelta = timedelta()
    busy: bool = False
    alive: bool = True

    def __post_init__(self) -> None:
        self.elector = Elector(
            self,
            NAMESPACE,
            self.name,
            clock=lambda: self.start + self.rate * self.world.now,
            wall_clock=lambda: START + self.wall_error + timedelta(seconds=self.world.now),
        )
        self.due = self.world.now
        self.world.replicas.append(self)

    def step(self) -> None:
        self.busy = True
        seconds = self.elector.step()
        self.busy = False
        self.due = self.world.now + seconds / self.rate
        self.alive = self.alive and not self.elector.lost
        leaders = self.world.leaders()
        assert len(leaders) <= 1, leaders

    def crash(self) -> None:
        """It steps no more; what it holds it holds until its deadline."""
        self.alive = False

    def get(self, resource: Resource, namespace: str, name: str) -> Object:
        assert (resource, namespace, name) == (LEASES, NAMESPACE, naming.LEASE_NAME)
        return self._request(self.world.read)

    def create(self, resource: Resource, namespace: str, manifest: Object) -> Object:
        assert (resource, namespace) == (LEASES, NAMESPACE)
        return self._request(lambda: self.world.create(manifest))

    def replace(self, resource: Resource, namespace: str, name: str, manifest: Object) -> Object:
        assert (resource, namespace, name) == (LEASES, NAMESPACE, naming.LEASE_NAME)
        return self._request(lambda: self.world.replace(manifest))

    def _request(self, carry_out: Callable[[], Object]) -> Object:
        trip = self.trips.pop(0) if self.trips else self.weather
        self.world.pass_time(trip.there)
        if trip.loses_request:
            raise Unavailable("connection refused", code=0)
        error, reply = None, {}
        try:
            reply = carry_out()
        except ApiError as raised:
            error = raised
        self.world.pass_time(trip.back)
        if trip.loses_reply:
            raise Unavailable("connection reset", code=0)
        if error is not None:
            raise error
        return reply


def test_the_first_replica_leads_at_once_and_the_others_wait() -> None:
    world = World()
    replicas = [Replica(world, name) for name in ("a", "b", "c")]

    world.pass_time(60)

    assert world.leaders() == ["a"]
    assert [replica.elector.lost for replica in replicas] == [False, False, False]
    assert world.lease is not None
    assert world.lease["spec"] == {
        "holderIdentity": "a",
        "leaseDurationSeconds": 15,
        "leaseTransitions": 0,
        "acquireTime": "2026-01-01T00:16:40.000000Z",
        "renewTime": "2026-01-01T00:17:38.000000Z",
    }


def test_a_leader_costs_one_request_at_each_renewal() -> None:
    world = World()
    Replica(world, "a")
    world.pass_time(0.1)
    before = world.version

    world.pass_time(20)

    assert world.version - before == 10


def test_a_lease_that_was_given_back_is_taken_at_the_next_look() -> None:
    world = World()
    first, _ = Replica(world, "a"), Replica(world, "b")
    world.pass_time(5)

    first.crash()
    first.elector.release()
    assert world.leaders() == []
    world.pass_time(TIMING.retry + 0.1)

    assert world.leaders() == ["b"]
    assert not first.elector.lost
    assert world.lease is not None
    assert (world.lease["spec"]["holderIdentity"], world.lease["spec"]["leaseTransitions"]) == ("b", 1)


def test_a_candidate_has_nothing_to_give_back() -> None:
    world = World()
    _, second = Replica(world, "a"), Replica(world, "b")
    world.pass_time(5)
    before = world.version

    second.elector.release()

    assert world.version == before
    assert world.leaders() == ["a"]


@pytest.mark.parametrize("crashes_after", [0.0, 0.1, 1.9, 2.0, 5.3])
def test_a_crashed_leader_is_replaced_within_its_lease_and_one_look(crashes_after: float) -> None:
    world = World()
    first = Replica(world, "a", Trip(0.05, 0.05))
    world.pass_time(1)
    Replica(world, "b", Trip(0.05, 0.05), start=-500.0)
    world.pass_time(10 + crashes_after)
    assert world.leaders() == ["a"]

    first.crash()
    crashed_at = world.now
    while world.leaders() != ["b"]:
        world.pass_time(0.1)

    assert world.now - crashed_at < TIMING.lease + TIMING.retry + 0.5


def test_a_leader_that_cannot_renew_stops_writing_at_its_deadline_for_good() -> None:
    world = World()
    replica = Replica(world, "a")
    world.pass_time(4.05)  # it has renewed at 4 s
    replica.weather = Trip(loses_request=True)

    world.pass_time(TIMING.renew - 0.1)
    assert replica.elector.may_write()
    world.pass_time(0.2)
    assert not replica.elector.may_write()
    assert replica.elector.lost

    replica.weather = Trip()
    replica.elector.step()
    assert not replica.elector.may_write()


def test_a_renewal_whose_reply_comes_after_the_deadline_does_not_make_it_leader_again() -> None:
    world = World()
    replica = Replica(world, "a")
    world.pass_time(1)
    replica.weather = Trip(back=11.0)

    world.pass_time(20)

    assert not replica.elector.may_write()
    assert replica.elector.lost


def test_a_slow_reply_does_not_make_a_leadership_longer() -> None:
    world = World()
    replica = Replica(world, "a")
    world.pass_time(1)
    replica.trips = [Trip(back=7.0)]  # the renewal of 2 s is heard of at 9 s
    replica.weather = Trip(loses_request=True)

    world.pass_time(2 + TIMING.renew - 1 - 0.1)
    assert replica.elector.may_write()
    world.pass_time(0.2)

    assert not replica.elector.may_write()


def test_a_leader_that_sees_another_holder_has_lost_at_once() -> None:
    world = World()
    replica = Replica(world, "a")
    world.pass_time(1)
    assert world.lease is not None
    world.store({**world.lease, "spec": {**world.lease["spec"], "holderIdentity": "somebody"}})

    world.pass_time(2 * TIMING.retry)

    assert replica.elector.lost


def test_a_leader_whose_lease_was_deleted_makes_a_new_one() -> None:
    world = World()
    replica = Replica(world, "a")
    world.pass_time(1)
    world.lease = None

    world.pass_time(TIMING.renew)

    assert replica.elector.may_write()
    assert world.lease is not None


def test_an_acquisition_whose_reply_was_lost_is_found_and_used() -> None:
    world = World()
    replica = Replica(world, "a", trips=[Trip(), Trip(loses_reply=True)])
    world.pass_time(0.1)
    assert not replica.elector.may_write()

    world.pass_time(TIMING.retry + 0.1)

    assert replica.elector.may_write()
    assert not replica.elector.lost


RECORD = LeaseRecord(holder="b", duration=15, transitions=3, resource_version="7")


@pytest.mark.parametrize(
    ("lease", "now", "action"),
    [
        (None, 100.0, Action.CREATE),
        (LeaseRecord(holder="a", duration=15), 100.0, Action.RENEW),
        (LeaseRecord(holder="", duration=1), 100.0, Action.ACQUIRE),
        (RECORD, 114.9, Action.WAIT),
        (RECORD, 115.0, Action.ACQUIRE),
        (LeaseRecord(holder="b", duration=60), 159.9, Action.WAIT),
    ],
)
def test_what_is_done_follows_from_the_lease_and_how_long_it_has_been_so(
    lease: LeaseRecord | None, now: float, action: Action
) -> None:
    assert decide(lease, "a", now, observed_at=100.0) is action


def test_a_lease_that_somebody_else_wrote_is_read_with_what_it_lacks() -> None:
    found = LeaseRecord.of({"metadata": {"resourceVersion": "5"}, "spec": {}}, TIMING)

    assert found == LeaseRecord(holder="", duration=15, resource_version="5")


def test_a_real_api_server_takes_every_form_of_the_lease(control_plane: ControlPlane) -> None:
    control_plane.kubectl("create", "namespace", "election")
    client = KubernetesClient.connect({"KUBECONFIG": str(control_plane.kubeconfig)}, threads=1)
    first, second = (Elector(client, "election", identity) for identity in ("a", "b"))
    try:
        first.step()
        second.step()
        assert (first.may_write(), second.may_write()) == (True, False)
        first.step()
        first.release()
        assert client.get(LEASES, "election", naming.LEASE_NAME)["spec"]["holderIdentity"] == ""
        second.step()
        assert (first.may_write(), second.may_write()) == (False, True)
        first.step()
        assert (first.may_write(), first.lost) == (False, False)
        spec = client.get(LEASES, "election", naming.LEASE_NAME)["spec"]
    finally:
        client.close()

    assert (spec["holderIdentity"], spec["leaseTransitions"], spec["leaseDurationSeconds"]) == ("b", 1, 15)


SECONDS = st.sampled_from([0.0, 0.1, 1.0, 4.0, 9.0])
WEATHER = st.one_of(
    st.just(Trip()),
    st.just(Trip(loses_request=True)),
    st.builds(Trip, there=SECONDS, back=SECONDS, loses_reply=st.booleans()),
)


@settings(max_examples=100, deadline=None)
@given(data=st.data(), num_replicas=st.integers(2, 3))
def test_two_replicas_never_lead_at_once_whatever_the_network_and_the_clocks_do(
    data: st.DataObject, num_replicas: int
) -> None:
    world = World()
    for number in range(num_replicas):
        Replica(
            world,
            f"replica-{number}",
            start=data.draw(st.floats(-1e6, 1e6)),
            rate=data.draw(st.sampled_from([0.9, 1.0, 1.1])),
            wall_error=timedelta(hours=data.draw(st.integers(-48, 48))),
        )
    for _ in range(data.draw(st.integers(1, 12))):
        for replica in world.replicas:
            replica.weather = data.draw(WEATHER)
        # `Replica.step` checks after every step that at most one leads.
        world.pass_time(data.draw(st.sampled_from([1.0, 3.0, 8.0, 16.0])))
        if data.draw(st.integers(0, 3)) == 0:
            data.draw(st.sampled_from(world.replicas)).crash()
