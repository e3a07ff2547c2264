"""Bytes that a stage holds at its worst moment: the live tensors of each network, counted from its own forward pass.

Nothing here is fitted. Each function walks the operations of one module of runner/videogen_runner/models/opensora (or
of transformers' T5) in their order, and adds up what is alive while each of them runs: its inputs, its outputs, and
whatever an enclosing frame still refers to. A change of those modules changes these walks; tests/operator/
test_memory_prediction.py measures both against each other.

Letters are those of the modules: N tokens, S spatial and T temporal, L text tokens, D hidden size.
"""

from math import ceil

from videogen_api.architecture import DenoiserShape, SpatialVaeShape, TemporalVaeShape, TextEncoderShape, VaeShape
from videogen_api.plan import DTYPE_BYTES, Device, Dtype, PlannedVideo
from videogen_api.video import CHUNK_LATENTS, num_tokens

_FLOAT32 = DTYPE_BYTES[Dtype.FLOAT32]
_BRANCHES = 2  # with the prompt and without


def denoise_bytes(
    shape: DenoiserShape, video: PlannedVideo, text_tokens: int, dtype: Dtype, guidance_batch: int
) -> int:
    """One denoising step.

    The worst moment is the rotation of the keys in a temporal block. In units of one batch of tokens (N*D) there are
    alive: the block's input, the modulated input, its copy with time innermost, queries, keys and values as projected
    (3), queries and keys as normed (2), the rotated queries, and of the keys' rotation the turned pairs, the two
    products and their sum (4).
    """
    size = DTYPE_BYTES[dtype]
    tokens = num_tokens(video.latent, shape.patch_size)
    rows = guidance_batch * tokens * shape.hidden_size * size
    # Keys and values of the text for every block, made once per loop; both branches are kept.
    text = 2 * shape.depth * 2 * _BRANCHES * text_tokens * shape.hidden_size * size
    positions = tokens // video.latent.frames * shape.hidden_size * size
    latents = shape.in_channels * video.latent.frames * video.latent.height * video.latent.width * _FLOAT32
    # z before and after the step, its doubled copy, and the prediction with its unused half.
    return 13 * rows + text + positions + (2 + 3 * guidance_batch) * latents


def decode_bytes(shape: VaeShape, video: PlannedVideo, dtype: Dtype, decode_batch_frames: int, device: Device) -> int:
    """Decoding one loop: the temporal part chunk by chunk, then the spatial part slice by slice into one buffer."""
    size = DTYPE_BYTES[dtype]
    height, width = video.decoded_size
    latent_pixels = video.latent.height * video.latent.width
    pixels = 3 * video.frames * height * width * size
    latents = shape.spatial.latent_channels * video.frames * latent_pixels * size
    frames_at_once = ceil(video.frames / ceil(video.frames / decode_batch_frames))
    spatial = _spatial_decoder_values(shape.spatial, latent_pixels, device) * frames_at_once * size
    temporal = _temporal_decoder_values(shape.temporal, min(video.latent.frames, CHUNK_LATENTS), device) * latent_pixels
    return max(pixels + latents + spatial, 2 * latents + temporal * size)


def video_bytes(video: PlannedVideo, dtype: Dtype) -> int:
    """Pixels of one decoded loop."""
    height, width = video.decoded_size
    return 3 * video.frames * height * width * DTYPE_BYTES[dtype]


def _conv_copies(device: Device, values_in: int, values_out: int) -> int:
    """On a CPU, oneDNN copies a convolution's input and output from and to its own blocked layout."""
    return values_in + values_out if device == Device.CPU else 0


def _spatial_decoder_values(shape: SpatialVaeShape, latent_pixels: int, device: Device) -> int:
    """Values alive at the worst moment for one frame."""
    channels = shape.block_out_channels[::-1]
    worst, pixels, before = 0, latent_pixels, channels[0]
    for level, width in enumerate(channels):
        given = before * pixels
        # First residual block of a level: its input, normed, through SiLU; then input, SiLU and the convolution.
        worst = max(worst, 3 * given, 2 * given + width * pixels + _conv_copies(device, given, width * pixels))
        inner = width * pixels
        worst = max(worst, given + 4 * inner + _conv_copies(device, inner, inner))
        if level < len(channels) - 1:
            doubled = 4 * inner
            worst = max(worst, given + inner + 2 * doubled + _conv_copies(device, doubled, doubled))
            pixels *= 4
        before = width
    return worst


def _temporal_decoder_values(shape: TemporalVaeShape, latent_frames: int, device: Device) -> int:
    """Values alive at the worst moment per latent pixel, for one chunk."""
    worst, frames = 0, latent_frames
    channels = [shape.filters * multiplier for multiplier in shape.channel_multipliers]
    doubles = [False, *shape.temporal_downsample]
    above = channels[-1]
    for width, doubled in zip(reversed(channels), reversed(doubles), strict=True):
        widest = max(above, width)
        padded = widest * (frames + 2)
        worst = max(worst, 2 * widest * frames + padded + width * frames + _conv_copies(device, padded, width * frames))
        if doubled:
            padded, out = width * (frames + 2), 2 * width * frames
            worst = max(worst, width * frames + padded + 2 * out + _conv_copies(device, padded, out))
            frames *= 2
        above = width
    return worst


def encode_bytes(shape: TextEncoderShape, text_tokens: int, dtype: Dtype) -> int:
    """One text through one block: the gated MLP, beside the position bias that all blocks share."""
    size = DTYPE_BYTES[dtype]
    hidden = text_tokens * shape.d_model * size
    bias = shape.num_heads * text_tokens * text_tokens * size
    mlp = 3 * text_tokens * shape.d_ff * size
    attention = 5 * text_tokens * shape.num_heads * shape.d_kv * size + bias
    return 3 * hidden + bias + max(mlp, attention)
