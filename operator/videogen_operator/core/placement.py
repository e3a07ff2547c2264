"""Where and how each stage runs: number formats, batch and slice sizes, shards; the first form that fits its card.

A form that does not fit is tried smaller, in a fixed order; a card that cannot hold even the smallest is refused with
the numbers.
"""

from videogen_api.architecture import MAX_TOKENS, Architecture
from videogen_api.errors import InvalidInput
from videogen_api.plan import (
    DTYPE_BYTES,
    Device,
    Dtype,
    FormBytes,
    PlannedEncoder,
    PlannedPool,
    PlannedSampling,
    PlannedVideo,
    StageCost,
)
from videogen_api.sharding import block_ranges
from videogen_api.spec import Encoder, Gpu, Pod, RunnerPool, quantity_bytes
from videogen_operator.core import activations, costs
from videogen_operator.core.cards import Card, card_of_product, cpu

# 4 is the reference's own. In fp32, cuDNN answered a batch of 4 with an algorithm of 36 GB and a twelfth of the speed.
_DECODE_BATCHES = (4, 3, 2, 1)
_DECODE_BATCHES_FP32 = (1,)
_GUIDANCE_BATCHES = (2, 1)


def card_of(gpu: Gpu | None, pod: Pod | None) -> Card:
    """The card of a pod, with the memory that the manifest states; the CPU where it asks for none."""
    if gpu is None or gpu.count == 0:
        limits = pod.resources.limits if pod is not None and pod.resources is not None else None
        memory = (limits or {}).get("memory")
        return cpu(None if memory is None else quantity_bytes(memory))
    card = card_of_product(gpu.product)
    return card if gpu.memory is None else card.with_memory(quantity_bytes(gpu.memory))


def place_encoder(
    encoder: Encoder, architecture: Architecture, texts: tuple[str, ...], *, least_shards: int = 1
) -> PlannedEncoder:
    """The smallest number of shards whose blocks fit. Raises InvalidInput where no number does.

    `least_shards` is what a run has learnt: fewer have run out of memory, so the largest shard must be smaller than
    theirs if it can be. A number that the manifest names stands.
    """
    shape, card = architecture.encoder, card_of(encoder.gpu, encoder.pod)
    activation_bytes = activations.encode_bytes(shape, _most_tokens(texts), card.dtype, card.device)
    if card.device == Device.CUDA:
        activation_bytes += costs.encoder_exact_layer_bytes(shape, card.dtype)
    activation_bytes += activations.workspace_bytes(card.device)
    block_bytes = [costs.encoder_block_bytes(shape, card.dtype)] * shape.num_layers
    rest_bytes = costs.encoder_rest_bytes(shape, card.dtype)
    num_gpus = max(1, encoder.gpu.count or 0) if encoder.gpu is not None else 1

    def peak_bytes(shards: int) -> int:
        """Of the largest shard, as if it were the last one too."""
        largest = max(sum(block_bytes[block] for block in blocks) for blocks in block_ranges(block_bytes, shards))
        return largest + rest_bytes + activation_bytes

    usable = None if card.usable_bytes is None else card.usable_bytes * num_gpus
    if encoder.shards is not None:
        candidates = [encoder.shards]
    else:
        least = min(least_shards, shape.num_layers)
        smaller = (n for n in range(least, shape.num_layers) if n == 1 or peak_bytes(n) < peak_bytes(n - 1))
        candidates = [*smaller, shape.num_layers]
    shards = next((n for n in candidates if usable is None or peak_bytes(n) <= usable), None)
    if shards is None:
        most = candidates[-1]
        raise InvalidInput(
            f"spec.encoder: {_needs(most, peak_bytes(most))} and {_has(card, usable)}; "
            "raise shards, name cards with more memory, or set gpu.count to 0 to encode on the CPU"
        )
    tokens = [costs.estimate_tokens(text, MAX_TOKENS) for text in texts]
    flops = sum(costs.encoder_flops(shape, count) for count in tokens) / shards
    weight_bytes = peak_bytes(shards) - activation_bytes
    return PlannedEncoder(
        shards=shards,
        device=card.device,
        dtype=card.dtype,
        cost=StageCost(
            flops=flops,
            seconds=costs.encode_seconds(shape, flops, len(texts), card),
            weight_bytes=weight_bytes,
            activation_bytes=activation_bytes,
        ),
        card_bytes=_stated_bytes(encoder.gpu),
    )


def place_pool(
    pool: RunnerPool,
    architecture: Architecture,
    video: PlannedVideo,
    sampling: PlannedSampling,
    texts: tuple[str, ...],
    clips: int,
    *,
    shares_encoder_cards: bool,
) -> PlannedPool:
    """The fastest form that fits the pool's card; where none does, the smallest, with the reason and no runners."""
    card = card_of(pool.gpu, pool.pod)
    weight_bytes = architecture.denoiser.parameters * DTYPE_BYTES[card.dtype]
    weight_bytes += costs.vae_parameters(architecture.vae) * DTYPE_BYTES[card.vae_dtype]
    most_tokens = _most_tokens(texts)

    pieces_bytes = activations.kept_pieces_bytes(video, card.vae_dtype, card.device)
    pieces_bytes += activations.workspace_bytes(card.device)

    def denoise_bytes(guidance_batch: int) -> int:
        denoiser = architecture.denoiser
        return pieces_bytes + activations.denoise_bytes(denoiser, video, most_tokens, card.dtype, guidance_batch)

    def decode_bytes(batch_frames: int) -> int:
        decoding = activations.decode_bytes(architecture.vae, video, card.vae_dtype, batch_frames, card.device)
        return max(pieces_bytes + decoding, activations.finish_bytes(video, card.vae_dtype, card.device))

    usable = card.usable_bytes
    room = None if usable is None else usable - weight_bytes
    on_card_in_fp32 = card.device == Device.CUDA and card.vae_dtype == Dtype.FLOAT32
    decode_batches = _DECODE_BATCHES_FP32 if on_card_in_fp32 else _DECODE_BATCHES
    guidance = next((n for n in _GUIDANCE_BATCHES if room is None or denoise_bytes(n) <= room), None)
    batch_frames = next((n for n in decode_batches if room is None or decode_bytes(n) <= room), None)
    unfit = ""
    if guidance is None or batch_frames is None:
        guidance = batch_frames = 1
        needed = weight_bytes + max(denoise_bytes(1), decode_bytes(1))
        unfit = (
            f"pool {pool.name!r}: a clip of {video.width}x{video.height} and {video.frames} frames needs "
            f"{needed / 2**30:.1f} GiB even in its smallest form, and {_has(card, usable)}"
        )
    tokens = sum(costs.estimate_tokens(text, MAX_TOKENS) for text in texts) // len(texts)
    forward_flops = costs.denoiser_flops(architecture.denoiser, video, tokens)
    decode_flops = costs.decoder_flops(architecture.vae, video)
    seconds_per_step = costs.denoise_seconds(2 * forward_flops, card)
    return PlannedPool(
        name=pool.name,
        replicas=0 if unfit else min(pool.replicas or 0, clips),
        device=card.device,
        gpus=(pool.gpu.count or 0) if pool.gpu is not None else 0,
        product=pool.gpu.product if pool.gpu is not None else None,
        dtype=card.dtype,
        vae_dtype=card.vae_dtype,
        guidance_batch=guidance,
        decode_batch_frames=batch_frames,
        form_bytes=FormBytes(
            denoise={n: denoise_bytes(n) for n in _GUIDANCE_BATCHES},
            decode={n: decode_bytes(n) for n in decode_batches},
        ),
        seconds_per_step=seconds_per_step,
        cost=StageCost(
            flops=video.loops * (sampling.steps * 2 * forward_flops + decode_flops),
            seconds=video.loops * (sampling.steps * seconds_per_step + costs.decode_seconds(decode_flops, card)),
            weight_bytes=weight_bytes,
            activation_bytes=max(denoise_bytes(guidance), decode_bytes(batch_frames)),
        ),
        shares_encoder_cards=shares_encoder_cards,
        card_bytes=_stated_bytes(pool.gpu),
        unfit=unfit,
    )


def _stated_bytes(gpu: Gpu | None) -> int | None:
    return quantity_bytes(gpu.memory) if gpu is not None and gpu.count and gpu.memory is not None else None


def _most_tokens(texts: tuple[str, ...]) -> int:
    """No text can have more tokens than characters, and its end mark."""
    return min(MAX_TOKENS, max(len(text) for text in texts) + 1)


def _needs(shards: int, peak_bytes: int) -> str:
    return f"{shards} shard{'s' if shards > 1 else ''} of the encoder need {peak_bytes / 2**30:.1f} GiB each"


def _has(card: Card, usable: int | None) -> str:
    return f"{card.name} has {(usable or 0) / 2**30:.1f} GiB to use"
