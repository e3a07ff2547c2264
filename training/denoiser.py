"""Trains the T5 encoder and STDiT3 of `shapes` together: `python -m training.denoiser`, see docs/shapes-model.md.

What is kept are the averages of the weights over the last steps, in fp32; a run goes on from these. Batches have about
the same number of patches whatever their clips' size, so each step takes about the same time.

Shape suffixes: as in flow.py.
"""

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.autoencoder import load_trained
from training.bank import BUCKETS, Bank, Batch, Bucket
from training.checkpoints import load_weights, save_weights
from training.examples import Makers
from training.flow import GIVEN_FRAMES, CaptionReader, TrainedDenoiser, flow_loss
from training.runs import CHECKPOINT_SECONDS, WAIT_EVERY, Clock, Curve, learning_rate, parser
from training.steps import Trainer
from videogen_api.architecture import ARCHITECTURES, TextEncoderShape
from videogen_runner.models.opensora.stdit3 import STDiT3Config
from videogen_runner.models.opensora.t5 import EMBEDDING_ALIAS, PAD_ID, t5_config
from videogen_runner.models.registry import OPEN_SORA
from videogen_runner.weights.components import Component

READING_WEIGHT = 0.1
AVERAGE_DECAY = 0.999

Weights = dict[str, Tensor]


class Networks(nn.Module):
    """Everything that is trained: the reader of captions is left behind."""

    def __init__(self) -> None:
        super().__init__()
        architecture = ARCHITECTURES["shapes"]
        self.encoder = build_encoder(architecture.encoder)
        config: STDiT3Config = OPEN_SORA[Component.DENOISER].sizes_of(architecture)
        self.denoiser = TrainedDenoiser(config)
        self.reader = CaptionReader(architecture.encoder.d_model)

    def losses(self, batch: Batch, *, given: bool) -> Tensor:
        """Of both together, of the flow, of reading."""
        is_token_BL = batch.ids_BL != PAD_ID
        y_BLX = self.encoder(input_ids=batch.ids_BL, attention_mask=is_token_BL).last_hidden_state
        flow = flow_loss(self.denoiser, batch, y_BLX, is_token_BL, given=given)
        reading = self.reader.loss(y_BLX, is_token_BL, batch.labels_BQ2)
        return torch.stack([flow + READING_WEIGHT * reading, flow, reading])

    def encoder_weights(self) -> Weights:
        return {name: tensor for name, tensor in self.encoder.state_dict().items() if name != EMBEDDING_ALIAS}

    def load(self, folder: Path) -> None:
        """Goes on from another run's averages. Raises ValueError where there are none."""
        self.denoiser.load_weights(load_weights(folder, "denoiser"))
        self.encoder.load_state_dict(load_weights(folder, "encoder"), strict=False)


def build_encoder(shape: TextEncoderShape) -> Any:
    """transformers' T5 encoder with weights to begin from."""
    from transformers import T5Config, T5EncoderModel

    # Without dropout: no two captions are alike as it is.
    return T5EncoderModel(T5Config(**{**t5_config(shape), "dropout_rate": 0.0}))


class Averages:
    """Exponential averages of weights; young ones forget faster."""

    def __init__(self, networks: nn.Module) -> None:
        self._live: list[Tensor] = [weight for weight in networks.parameters() if weight.requires_grad]
        self._means = [parameter.detach().clone() for parameter in self._live]
        self._steps = 0

    @torch.no_grad()
    def update(self) -> None:
        self._steps += 1
        decay = min(AVERAGE_DECAY, self._steps / (10 + self._steps))
        torch._foreach_lerp_(self._means, self._live, 1 - decay)  # some kernels instead of hundreds

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges averages and weights; called again, back."""
        for mean, live in zip(self._means, self._live, strict=True):
            kept = live.clone()
            live.copy_(mean)
            mean.copy_(kept)


def chosen_buckets(sizes: Iterable[str], frames: Iterable[int]) -> list[Bucket]:
    """The buckets of these sizes (HEIGHTxWIDTH) and lengths; all where none is named. Raises ValueError for none."""
    sizes, frames = set(sizes), set(frames)
    chosen = [
        bucket
        for bucket in BUCKETS
        if (not sizes or f"{bucket.height}x{bucket.width}" in sizes) and (not frames or bucket.num_frames in frames)
    ]
    if not chosen:
        raise ValueError("no clips of these --sizes and --frames are trained on; leave them out for all")
    return chosen


def save(folder: Path, networks: Networks, averages: Averages, step: int) -> None:
    """Writes the averages."""
    averages.swap()
    save_weights(folder, "denoiser", networks.denoiser.weights(), step)
    save_weights(folder, "encoder", networks.encoder_weights(), step)
    averages.swap()


def main() -> None:
    arguments = parser("denoiser", "Trains text encoder and denoiser together.", rate=7e-4)
    arguments.add_argument("--vae", type=Path, required=True, help="folder of a run of training.vae")
    arguments.add_argument("--tokenizer", type=Path, required=True, help="folder of training.tokenizer")
    arguments.add_argument("--workers", type=int, default=14, help="processes that invent scenes and captions")
    arguments.add_argument("--tokens", type=int, default=2**15, help="patches of a step's clips together")
    arguments.add_argument("--chunk-pixels", type=int, default=2**24, help="of clips that are encoded together")
    arguments.add_argument("--sizes", nargs="*", default=(), help="only these, such as 64x64; left out: all")
    arguments.add_argument("--frames", nargs="*", type=int, default=(), help="only these; left out: all")
    options = arguments.parse_args()
    clock = Clock(options.minutes)
    device = torch.device(options.device)
    is_cuda = device.type == "cuda"
    torch.manual_seed(options.seed)
    networks = Networks()
    if options.start:
        networks.load(options.start)
    networks.to(device)
    averages = Averages(networks)
    trainer = Trainer(networks.parameters(), weight_decay=0.01, num_losses=3, device=options.device)
    if is_cuda:
        for block in (*networks.denoiser.spatial_blocks, *networks.denoiser.temporal_blocks):
            block.compile(dynamic=True)  # six graphs serve every bucket; static ones would take the run's time
    vae = load_trained(options.vae).to(device)
    curve = Curve(options.out, "denoiser", ("loss", "reading", "clips"))
    given = torch.Generator().manual_seed(options.seed)
    saved = 0.0

    with Makers(options.workers) as makers:
        bank = Bank(
            chosen_buckets(options.sizes, options.frames),
            vae,
            makers,
            options.tokenizer,
            seed=options.seed,
            chunk_pixels=options.chunk_pixels,
            device=device,
        )
        is_over = False
        while not is_over:  # at least one step, so that a run never ends without weights
            bank.refresh(clock.seconds)
            batch = bank.sample(options.tokens)
            has_given = batch.bucket.num_frames > 1 and float(torch.rand(1, generator=given)) < GIVEN_FRAMES

            def losses(*tensors: Tensor, bucket: Bucket, has_given: bool) -> Tensor:
                return networks.losses(Batch(bucket, *tensors), given=has_given)

            trainer.step(
                (batch.bucket, has_given),
                partial(losses, bucket=batch.bucket, has_given=has_given),
                (batch.z_BCTHW, batch.still_BCHW, batch.ids_BL, batch.labels_BQ2),
                learning_rate(trainer.num_steps, clock.part, options.rate),
            )
            averages.update()
            if is_cuda and trainer.num_steps % WAIT_EVERY == 0:
                torch.cuda.synchronize()
            is_over = clock.part == 1
            if is_over or clock.seconds > saved + CHECKPOINT_SECONDS:
                save(options.out, networks, averages, trainer.num_steps)
                _, flow, reading = trainer.mean_losses()
                curve.add(clock.seconds, trainer.num_steps, flow, reading, bank.num_clips)
                curve.write()
                saved = clock.seconds


if __name__ == "__main__":
    main()
