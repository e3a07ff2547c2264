"""One clip, from a claim to its done marker: resume, denoise with checkpoints, decode, write.

The order of writes is what makes a crash harmless: final latents before decoding, the video before the marker, the
marker last. What the next owner does not find, it makes again, bit for bit.

Shape suffixes: B = 1 sample, C channels, T latent frames, F frames, H W rows and columns.
"""

import logging
from collections.abc import Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from typing import NoReturn

from videogen_api.errors import Interrupted, OutOfMemory
from videogen_api.plan import Clip, Inputs, PlannedPool
from videogen_api.records import StoredFile, Timings
from videogen_api.report import RunnerState
from videogen_runner.adaptation import Adaptation, AdaptiveClip
from videogen_runner.checkpoint import CheckpointInterval, Checkpoints
from videogen_runner.compute import ComputeThread
from videogen_runner.done import MarkerSighting, write_marker
from videogen_runner.embeddings import Embeddings
from videogen_runner.models.opensora.draws import SeededDraws
from videogen_runner.models.opensora.generation import ClipGenerator, ClipState
from videogen_runner.models.opensora.stdit3 import STDiT3
from videogen_runner.models.opensora.vae import VideoAutoencoder
from videogen_runner.roles.clip_inputs import build_request, load_references
from videogen_runner.roles.clip_output import NotFinite, build_marker, decode, store_video
from videogen_runner.roles.clip_times import ClipTimes
from videogen_runner.roles.context import RoleContext
from videogen_runner.tenure import Tenure

log = logging.getLogger("videogen")

# At a stop a running step may still end within this time; the whole process has 10 s.
_GRACE_SECONDS = 5.0


@dataclass(frozen=True)
class Workshop:
    """What all clips of a process are made with."""

    context: RoleContext
    inputs: Inputs
    pool: PlannedPool
    compute: ComputeThread
    denoiser: STDiT3
    vae: VideoAutoencoder
    adaptation: Adaptation
    interval: CheckpointInterval


class ClipWork:
    """The work on one clip; `is_resumed` says whether a checkpoint was there, `is_adapted` whether the finished clip
    is in another form than the plan's."""

    def __init__(self, workshop: Workshop, clip: Clip, tenure: Tenure, seen: MarkerSighting) -> None:
        """`seen` is the clip's marker, which does not hold, as it was when the claim was taken."""
        self.is_resumed = self.is_adapted = False
        self.times = ClipTimes(workshop.context.plan, workshop.pool)
        self._tenure = tenure
        self._encode_seconds = self._decode_seconds = 0.0
        self._workshop = workshop
        self._clip = clip
        self._seen = seen
        context = workshop.context
        self._plan, self._store, self._progress = context.plan, context.store, context.progress
        self._stop, self._now = context.stop, context.clock.monotonic
        self._compute = workshop.compute
        self._prompt = self._plan.prompts[clip.prompt]
        self._checkpoints = Checkpoints(self._store, tenure.held.clip_digest, self._plan.numerics_version)
        self._interval = workshop.interval
        self._interval.begin(self._now())
        self._saved: tuple[ClipState, StoredFile] | None = None

    def run(self) -> bool:
        """Makes the clip; False where the claim went to another runner on the way.

        Raises InvalidInput or NotFinite for a clip that cannot be made, EmbeddingMissing where its texts are not
        encoded, OutOfMemory where no form of it fits, Interrupted at a stop; then the last completed step is in the
        store.
        """
        generator = self._build_generator()
        state = self._denoise(generator, self._first_state(generator))
        latents = self._save(state) if state is not None else None
        if state is None or latents is None:
            return False
        self._output(generator, state, latents)
        return True

    def _build_generator(self) -> AdaptiveClip:
        workshop = self._workshop
        embeddings = Embeddings(self._store, self._plan, workshop.inputs)
        generator = ClipGenerator(
            workshop.denoiser,
            workshop.vae,
            build_request(self._plan, self._prompt),
            [embeddings.read(self._prompt.text_of_loop(loop)) for loop in range(self._plan.video.loops)],
            SeededDraws(self._clip.seed),
        )
        return AdaptiveClip(generator, workshop.adaptation)

    def _first_state(self, generator: AdaptiveClip) -> ClipState:
        found = self._checkpoints.furthest()
        if found is not None:
            log.info("clip %s goes on at loop %d, step %d", self._clip.name, found.loop, found.next_step)
            self.is_resumed = True
            return found
        self._progress.update(state=RunnerState.ENCODING)
        started = self._now()
        credentials = self._workshop.context.environment.credentials
        references_CFHW = load_references(self._plan, self._prompt, self._workshop.inputs, credentials)
        state = self._compute.run(lambda: generator.start(references_CFHW))
        self._encode_seconds += self._now() - started
        return state

    def _denoise(self, generator: AdaptiveClip, state: ClipState) -> ClipState | None:
        """The state after the last step, or None where the claim was lost."""
        states = generator.states(state)
        self._show(state)
        while True:
            started = self._now()
            running = self._compute.submit(lambda: _next_state(states, self._clip.name))
            if not self._compute.is_done_before_stop(running):
                self._save_and_stop(state, running)
            try:
                following = running.result()
            except OutOfMemory:
                # For a larger card to go on from.
                self._save(state)
                raise
            if following is None:
                return state
            state = following
            self._count(state, self._now() - started)
            if self._stop.is_set():
                self._save_and_stop(state, None)
            if self._tenure.is_lost():
                return None
            if self._interval.is_due(self._now()) and self._save(state) is None:
                return None

    def _count(self, state: ClipState, seconds: float) -> None:
        if state.next_step:
            self.times.add(seconds)
        else:
            # No step: the loop before was decoded, and encoded again to begin this one.
            self._decode_seconds += seconds
        self._show(state)

    def _show(self, state: ClipState) -> None:
        self._tenure.tell(left=self.times.left(state.loop, state.next_step), pace=self.times.pace)
        self._progress.update(
            state=RunnerState.DENOISING,
            clip=self._clip.name,
            loop=state.loop,
            loops=self._plan.video.loops,
            step=state.next_step,
            steps=self._plan.sampling.steps,
            seconds_per_step=self.times.median,
        )

    def _save(self, state: ClipState) -> StoredFile | None:
        """Writes a checkpoint, unless it is there; None where the claim was lost."""
        if self._saved is not None and self._saved[0] is state:
            return self._saved[1]
        started = self._now()
        if not self._tenure.renew():
            return None
        file = self._checkpoints.save(state, self._tenure.held.claim.epoch)
        self._saved = (state, file)
        self._interval.written(started, self._now())
        return file

    def _save_and_stop(self, state: ClipState, running: "Future[ClipState | None] | None") -> NoReturn:
        """Saves the last completed step at once; then the running one, if it ends within the grace."""
        deadline = self._now() + _GRACE_SECONDS
        self._progress.update(state=RunnerState.STOPPING)
        still_ours = self._save(state) is not None
        if still_ours and running is not None and wait([running], max(0.0, deadline - self._now())).done:
            # A step that has failed is none: whoever goes on from here meets what it met.
            following = running.result() if running.exception() is None else None
            if following is not None:
                self._save(following)
        raise Interrupted(f"stopped by a signal in clip {self._clip.name}; its last step is kept, run again to go on")

    def _output(self, generator: AdaptiveClip, state: ClipState, latents: StoredFile) -> None:
        """Decodes, and writes the video and then the marker."""
        self._progress.update(state=RunnerState.DECODING)
        started = self._now()
        frames_FHWC = self._compute.run(lambda: decode(generator, state, self._clip.name))
        decoded = self._now()
        self._progress.update(state=RunnerState.WRITING)
        scratch, fps = self._workshop.context.environment.scratch, self._plan.video.fps
        video = store_video(self._store, self._tenure.held, frames_FHWC, fps, scratch, self._compute)
        timings = Timings(
            encode=self._encode_seconds,
            denoise=self.times.total,
            decode=self._decode_seconds + decoded - started,
            write=self._now() - decoded,
            steps=self.times.count,
        )
        self.is_adapted = generator.is_adapted
        marker = build_marker(
            self._tenure.held,
            frames_FHWC,
            fps,
            video,
            latents,
            timings,
            is_adapted=generator.is_adapted,
            now=self._workshop.context.clock.wall(),
        )
        if not write_marker(self._store, marker, self._seen, conditional=self._workshop.inputs.claims):
            log.info("clip %s was finished by another runner at the same time", self._clip.name)


def _next_state(states: Iterator[ClipState], clip: str) -> ClipState | None:
    """The state after one more step, computed through, finite and with its latents on the host; None after the last.

    At a stop they are saved at once: a copy made then would wait on the card behind the step that runs.
    """
    state = next(states, None)
    if state is None:
        return None
    state = replace(state, z_BCTHW=state.z_BCTHW.cpu())
    if not bool(state.z_BCTHW.isfinite().all()):
        raise NotFinite(
            f"clip {clip} has no finite latents after loop {state.loop}, step {state.next_step}; "
            "use another precision or lower guidance"
        )
    return state
