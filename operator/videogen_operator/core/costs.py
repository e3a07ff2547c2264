"""What a stage costs: floating-point operations, seconds and bytes, from the sizes of the networks and of a card.

A multiplication and an addition count as two operations. Speeds are what a stage reaches of a card's data sheet.
"""

from math import ceil

from videogen_api.architecture import DenoiserShape, SpatialVaeShape, TemporalVaeShape, TextEncoderShape, VaeShape
from videogen_api.plan import DTYPE_BYTES, Device, Dtype, PlannedVideo
from videogen_api.video import CHUNK_LATENTS, num_tokens
from videogen_operator.core.cards import Card

# Characters per token of English in T5's vocabulary of 32,128 pieces, about.
_CHARACTERS_PER_TOKEN = 4

# What a stage reaches of a card, measured with runner/'s own modules at full size (docs/planning.md): 184 TFLOP/s on an
# H100 of 3.35 TB/s, which is 55 operations a byte. That it is bandwidth that binds, and not the 989 TFLOP/s of the
# data sheet, agrees with every published run: 124 TFLOP/s on an H100 (README of Open-Sora 1.2) and 73 on an A800 of
# 2.0 TB/s (TeaCache, arXiv 2411.19108) are 37 operations a byte each.
_FLOPS_PER_BYTE = 55
# Where products bind: fp32 convolutions reached 23 of an H100's 67 TFLOP/s, the tiny model on a CPU 27 of 81 GFLOP/s.
_PEAK_SHARE = 1 / 3
# Launching the kernels of one block of T5: a text of 60 tokens and one of 300 both took 35 ms through 24 blocks.
_BLOCK_LAUNCH_SECONDS = 0.0015


def estimate_tokens(text: str, max_tokens: int) -> int:
    """Tokens of a text, its end mark included, without a tokenizer."""
    return min(max_tokens, ceil(len(text) / _CHARACTERS_PER_TOKEN) + 1)


def denoiser_flops(shape: DenoiserShape, video: PlannedVideo, text_tokens: int) -> float:
    """One forward pass of one sample.

    With XL/2's 28 pairs of blocks: 1568 N D^2 + 112 D N (S + T) + 224 D N L + 224 D^2 L, for linear layers, attention
    over space and time, attention to the text, and the text's keys and values.
    """
    tokens, frames = num_tokens(video.latent, shape.patch_size), video.latent.frames
    hidden, depth = shape.hidden_size, shape.depth
    # Per block and token: query, key, value and output (8), the same two for the text (4), the MLP (4 * ratio).
    linear = 2 * depth * (12 + 4 * shape.mlp_ratio) * tokens * hidden**2
    attention = 4 * depth * hidden * tokens * (tokens // frames + frames)
    cross = 8 * depth * hidden * tokens * text_tokens
    keys_values = 8 * depth * hidden**2 * text_tokens
    return float(linear + attention + cross + keys_values)


def encoder_flops(shape: TextEncoderShape, text_tokens: int) -> float:
    """One text through all blocks; padding is not computed."""
    linear = 2 * shape.num_layers * shape.block_parameters * text_tokens
    attention = 4 * shape.num_layers * shape.num_heads * shape.d_kv * text_tokens**2
    return float(linear + attention)


def decoder_flops(shape: VaeShape, video: PlannedVideo) -> float:
    """Decoding one loop: every convolution of both parts."""
    latent_pixels = video.latent.height * video.latent.width
    spatial = video.frames * _spatial_decoder_flops(shape.spatial, latent_pixels)
    chunks = ceil(video.latent.frames / CHUNK_LATENTS)
    return float(spatial + chunks * latent_pixels * _temporal_decoder_flops(shape.temporal, CHUNK_LATENTS))


def _spatial_decoder_flops(shape: SpatialVaeShape, latent_pixels: int) -> int:
    """One frame."""
    channels = shape.block_out_channels[::-1]
    first = channels[0]
    middle = 2 * 2 * 9 * first**2 * 2 + 4 * 2 * first**2 + 4 * first * latent_pixels
    flops = latent_pixels * (2 * 9 * shape.latent_channels * first + middle)
    pixels, before = latent_pixels, first
    for level, width in enumerate(channels):
        for _ in range(shape.layers_per_block + 1):
            shortcut = 2 * before * width if before != width else 0
            flops += pixels * (2 * 9 * before * width + 2 * 9 * width * width + shortcut)
            before = width
        if level < len(channels) - 1:
            pixels *= 4
            flops += pixels * 2 * 9 * width * width
    return flops + pixels * 2 * 9 * channels[-1] * 3


def _temporal_decoder_flops(shape: TemporalVaeShape, latent_frames: int) -> int:
    """One chunk, per latent pixel."""
    channels = [shape.filters * multiplier for multiplier in shape.channel_multipliers]
    doubles = [False, *shape.temporal_downsample]
    frames, before = latent_frames, channels[-1]
    flops = frames * (2 * 27 * shape.latent_channels * before + shape.num_res_blocks * 4 * 27 * before**2)
    for width, doubled in zip(reversed(channels), reversed(doubles), strict=True):
        for _ in range(shape.num_res_blocks):
            shortcut = 2 * before * width if before != width else 0
            flops += frames * (2 * 27 * before * width + 2 * 27 * width**2 + shortcut)
            before = width
        if doubled:
            flops += frames * 4 * 27 * width**2
            frames *= 2
    return flops + frames * 2 * 27 * channels[0] * shape.latent_channels


def denoise_seconds(flops: float, card: Card) -> float:
    return flops / _reached(card.flops_per_second, card)


def decode_seconds(flops: float, card: Card) -> float:
    return flops / _reached(card.vae_flops_per_second, card)


def encode_seconds(shape: TextEncoderShape, flops: float, texts: int, card: Card) -> float:
    """Texts go one by one, and short ones do not fill a card."""
    launches = texts * shape.num_layers * _BLOCK_LAUNCH_SECONDS if card.device == Device.CUDA else 0.0
    return max(launches, flops / _reached(card.flops_per_second, card))


def _reached(peak_flops_per_second: float, card: Card) -> float:
    return min(_PEAK_SHARE * peak_flops_per_second, _FLOPS_PER_BYTE * card.bytes_per_second)


def encoder_block_bytes(shape: TextEncoderShape, dtype: Dtype) -> int:
    """Weights of one block; in fp16 the MLP's last projection stays in fp32, because its products overflow."""
    kept_in_fp32 = shape.d_ff * shape.d_model if dtype == Dtype.FLOAT16 else 0
    return shape.block_parameters * DTYPE_BYTES[dtype] + kept_in_fp32 * DTYPE_BYTES[Dtype.FLOAT16]


def encoder_exact_layer_bytes(shape: TextEncoderShape, dtype: Dtype) -> int:
    """An MLP's weights once more in fp32, less what is kept so: on a card one text tells the error, layer by layer."""
    if dtype == Dtype.FLOAT32:
        return 0
    cast = 2 if dtype == Dtype.FLOAT16 else 3
    return cast * shape.d_ff * shape.d_model * DTYPE_BYTES[Dtype.FLOAT32]


def encoder_rest_bytes(shape: TextEncoderShape, dtype: Dtype) -> int:
    """Weights beside the blocks: the table of positions, and the last norm. Of the embedding only rows are read."""
    return (shape.num_buckets * shape.num_heads + shape.d_model) * DTYPE_BYTES[dtype]


def vae_parameters(shape: VaeShape) -> int:
    """Both parts, encoders and decoders."""
    return _spatial_parameters(shape.spatial) + _temporal_parameters(shape.temporal)


def _conv(inputs: int, outputs: int, kernel: int, *, bias: bool = True) -> int:
    return inputs * outputs * kernel + (outputs if bias else 0)


def _spatial_parameters(shape: SpatialVaeShape) -> int:
    def residual(inputs: int, outputs: int) -> int:
        shortcut = _conv(inputs, outputs, 1) if inputs != outputs else 0
        return 2 * inputs + _conv(inputs, outputs, 9) + 2 * outputs + _conv(outputs, outputs, 9) + shortcut

    def levels(channels: tuple[int, ...], blocks: int) -> int:
        total, before = 0, channels[0]
        for level, width in enumerate(channels):
            total += residual(before, width) + (blocks - 1) * residual(width, width)
            total += _conv(width, width, 9) if level < len(channels) - 1 else 0
            before = width
        return total

    channels, latents = shape.block_out_channels, shape.latent_channels
    last = channels[-1]
    middle = 2 * residual(last, last) + 2 * last + 4 * _conv(last, last, 1)
    encoder = _conv(3, channels[0], 9) + levels(channels, shape.layers_per_block) + middle
    encoder += 2 * last + _conv(last, 2 * latents, 9)
    decoder = _conv(latents, last, 9) + middle + levels(channels[::-1], shape.layers_per_block + 1)
    decoder += 2 * channels[0] + _conv(channels[0], 3, 9)
    return encoder + decoder + _conv(2 * latents, 2 * latents, 1) + _conv(latents, latents, 1)


def _temporal_parameters(shape: TemporalVaeShape) -> int:
    channels = [shape.filters * multiplier for multiplier in shape.channel_multipliers]
    latents, last, blocks = shape.latent_channels, channels[-1], shape.num_res_blocks

    def residual(inputs: int, outputs: int) -> int:
        shortcut = inputs * outputs if inputs != outputs else 0
        return 2 * inputs + 27 * inputs * outputs + 2 * outputs + 27 * outputs**2 + shortcut

    def row(inputs: int, outputs: int) -> int:
        return residual(inputs, outputs) + (blocks - 1) * residual(outputs, outputs)

    encoder = _conv(shape.latent_channels, channels[0], 27, bias=False) + row(last, last)
    encoder += sum(row(before, width) for before, width in zip([channels[0], *channels], channels, strict=False))
    encoder += sum(
        _conv(width, width, 27) for width, halves in zip(channels, shape.temporal_downsample, strict=False) if halves
    )
    encoder += 2 * last + _conv(last, 2 * latents, 1)
    decoder = _conv(latents, last, 27) + row(last, last)
    decoder += sum(row(above, width) for width, above in zip(channels, [*channels[1:], last], strict=True))
    decoder += sum(
        _conv(width, 2 * width, 27)
        for width, doubles in zip(channels[1:], shape.temporal_downsample, strict=True)
        if doubles
    )
    decoder += 2 * channels[0] + _conv(channels[0], latents, 27)
    return encoder + decoder + _conv(2 * latents, 2 * latents, 1) + _conv(latents, latents, 1)
