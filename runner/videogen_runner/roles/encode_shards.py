"""The encode role of one shard of several: the group meets, watches over itself, and passes prompts along.

Everything that can block happens on the compute thread; the main thread waits beside it, and gets out when this
process is told to stop or another shard is lost, whatever the computation hangs in.

Shape suffixes: L tokens, C channels.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch

from videogen_api.architecture import architecture_of
from videogen_api.errors import ConfigInvalid
from videogen_api.naming import Env
from videogen_api.plan import Inputs
from videogen_api.report import EncodeReport, RunnerState
from videogen_runner.compute import ComputeThread
from videogen_runner.device import check_dtypes, set_up_device, torch_dtype
from videogen_runner.models.opensora.t5 import TextEmbedding, TextEncoder
from videogen_runner.models.opensora.t5_shard import EncoderShard
from videogen_runner.models.opensora.tokenizer import load_tokenizer
from videogen_runner.roles.context import RoleContext
from videogen_runner.roles.inputs import checked_weights
from videogen_runner.roles.texts import Captions, Publisher, find_missing
from videogen_runner.shards import transport
from videogen_runner.shards.greeting import Deadline, Hello
from videogen_runner.shards.heartbeat import Heartbeat
from videogen_runner.shards.pipeline import Parcel, Tokens, embed_texts, run_shard
from videogen_runner.shards.rendezvous import Meeting, join_shards, open_listener, receive_shards
from videogen_runner.shards.transport import GroupStore, Transport
from videogen_runner.weights import Component, Weights
from videogen_runner.weights.loading import load_encoder_shard

log = logging.getLogger("videogen")


def run(context: RoleContext, inputs: Inputs) -> EncodeReport:
    """This shard's part; only the last shard's report counts what was encoded.

    Raises PeerLost, and everything that `encode.run` does.
    """
    shard, shards = context.environment.index, context.plan.encoder.shards
    address = context.environment.shards_address
    if address is None:
        raise ConfigInvalid(
            f"environment key {Env.SHARDS_ADDRESS} is not set, and the plan has encoder.shards = {shards}; "
            "set it to host:port of shard 0"
        )
    if shard >= shards:
        raise ConfigInvalid(
            f"environment key {Env.INDEX} is {shard}, and the plan has encoder.shards = {shards}; "
            f"set it to a number from 0 to {shards - 1}"
        )
    encoder = context.plan.encoder
    device = set_up_device(context.environment.device, encoder.device, encoder.card_bytes)
    check_dtypes(device, encoder.dtype)
    context.progress.update(device=str(device), state=RunnerState.WAITING, total=len(context.plan.texts))
    compute = ComputeThread(context.stop)
    log.info("shard %d of %d waits for the others at %s", shard, shards, address)
    met = compute.run(partial(_meet, context, address, device))
    with Heartbeat(met.meeting.links) as heartbeat:
        work = _Shard(context, inputs, device, met, heartbeat)
        return compute.run(work.run, raise_if_lost=heartbeat.raise_if_lost)


@dataclass(frozen=True)
class _Met:
    meeting: Meeting
    hosted: GroupStore | None
    """Shard 0's."""


def _meet(context: RoleContext, address: str, device: torch.device) -> _Met:
    environment, plan = context.environment, context.plan
    # The card is set up before anybody listens for a heartbeat: its driver may need long, and lets no thread run.
    card = str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else None
    deadline = Deadline.after(environment.start_deadline_seconds)
    group, shards = _group_name(context), plan.encoder.shards
    if environment.index == 0:
        listener = open_listener(address, environment.shards_listener)
        store = transport.host_store()
        me = Hello(group=group, shard=0, shards=shards, port=listener.getsockname()[1], card=card)
        return _Met(receive_shards(listener, me, store.port, deadline), store)
    return _Met(join_shards(address, group, environment.index, shards, card, deadline), None)


def _group_name(context: RoleContext) -> str:
    """Groups of different resources, runs and attempts never mix."""
    plan = context.plan
    return f"{plan.namespace}/{plan.run}/{context.environment.attempt}"


class _Shard:
    """What runs on the compute thread once the group is complete."""

    def __init__(
        self, context: RoleContext, inputs: Inputs, device: torch.device, met: _Met, heartbeat: Heartbeat
    ) -> None:
        self._context = context
        self._inputs = inputs
        self._device = device
        self._met = met
        self._heartbeat = heartbeat
        self._shard = context.environment.index
        self._shards = context.plan.encoder.shards
        self._seconds = 0.0
        self._load_seconds = 0.0
        self._relative_error: float | None = None
        self._exact_runs = 0

    def run(self) -> EncodeReport:
        try:
            return self._run()
        except transport.ConnectionBroke:
            self._heartbeat.wait_for_verdict()
            raise

    def _run(self) -> EncodeReport:
        welcome = self._met.meeting.welcome
        cards = [place.card for place in welcome.places]
        store = self._met.hosted or transport.join_store(welcome.places[0].host, welcome.store_port)
        wire = Transport(store, self._shard, cards, self._device, _group_name(self._context))
        log.info("shard %d of %d: all are here; hidden states travel by %s", self._shard, self._shards, wire.backend)
        captions: Captions = {}
        num_stored = 0
        if self._shard == 0:
            num_stored, captions = find_missing(self._context, self._inputs)
            # Texts are counted once in a group: where their embeddings are written.
            self._context.progress.update(done=0)
        num_missing, num_stored = wire.broadcast([len(captions), num_stored])
        publisher = Publisher(self._context, self._inputs, num_stored)
        if num_missing:
            self._encode(wire, captions, publisher)
        self._heartbeat.finish()
        wire.close()
        return EncodeReport(
            encoded=publisher.num_written,
            seconds=self._seconds,
            load_seconds=self._load_seconds,
            truncated=tuple(publisher.warnings),
            relative_error=self._relative_error,
            exact_runs=self._exact_runs,
        )

    def _encode(self, wire: Transport, captions: Captions, publisher: Publisher) -> None:
        now = self._context.clock.monotonic
        started = now()
        self._context.progress.update(state=RunnerState.LOADING)
        weights = checked_weights(self._context, self._inputs, Component.ENCODER)
        shard = self._load(weights)
        self._load_seconds = now() - started
        self._context.progress.update(state=RunnerState.ENCODING)
        deliver: Callable[[Parcel], None] = wire.send
        if self._shard == self._shards - 1:
            deliver = partial(self._publish, shard, publisher)
        parcels = embed_texts(self._tokens(weights, shard, captions), shard) if self._shard == 0 else wire.receive_all()
        run_shard(parcels, shard, deliver)
        if self._shard < self._shards - 1:
            wire.end()
        self._relative_error, self._exact_runs = shard.first_error, shard.num_exact_runs
        self._seconds = now() - started - self._load_seconds

    def _load(self, weights: Weights) -> EncoderShard:
        plan = self._context.plan
        return load_encoder_shard(
            weights,
            architecture_of(plan.model.name),
            self._shard,
            self._shards,
            self._device,
            torch_dtype(plan.encoder.dtype),
            spread=self._context.environment.device is None,
        )

    def _tokens(self, weights: Weights, shard: EncoderShard, captions: Captions) -> Iterator[Tokens]:
        encoder = TextEncoder(shard, load_tokenizer(weights.files(Component.ENCODER).folder))
        positions = {text: position for position, text in enumerate(self._context.plan.texts)}
        for text, caption in captions.items():
            ids, num_dropped = encoder.kept_ids(caption)
            yield Tokens(positions[text], num_dropped, ids)

    def _publish(self, shard: EncoderShard, publisher: Publisher, parcel: Parcel) -> None:
        text = self._context.plan.texts[parcel.position]
        publisher.publish(text, TextEmbedding(shard.finish(parcel.x_LC), parcel.num_dropped))
