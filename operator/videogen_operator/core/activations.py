"""Bytes that a stage holds at its worst moment: the live tensors of each network, counted from its own forward pass.

Nothing here is fitted. Each function walks the operations of one module of runner/videogen_runner/models/opensora (or
of transformers' T5) in their order, and adds up what is alive while each of them runs: its inputs, its outputs, and
what an enclosing frame still refers to. Whoever changes those modules changes these walks;
tests/runner/test_memory_prediction.py measures both against each other, docs/planning.md says how they compare.
"""

from dataclasses import dataclass
from math import ceil

from videogen_api.architecture import DenoiserShape, SpatialVaeShape, TemporalVaeShape, TextEncoderShape, VaeShape
from videogen_api.plan import DTYPE_BYTES, Device, Dtype, PlannedVideo
from videogen_api.video import CHUNK_LATENTS, LatentSize, num_tokens

_BRANCHES = 2  # of guidance: with the prompt and without
_INT64 = 8
_KERNEL_3D = 27
# On a CPU, PyTorch gives a convolution of one sample to oneDNN only above this product of its first four sizes
# (use_mkldnn in ATen's Convolution.cpp); below, its own code writes out the input once for each place of the kernel.
_ONEDNN_MIN_VALUES = 20_480

# Eight buffers of 4096 KiB, which cuBLAS takes out of torch's allocator: runners set CUBLAS_WORKSPACE_CONFIG=:4096:8.
_CUBLAS_BYTES = 8 * 4096 * 2**10


def workspace_bytes(device: Device) -> int:
    """What the libraries of a card hold beside every stage's tensors."""
    return _CUBLAS_BYTES if device == Device.CUDA else 0


def denoise_bytes(shape: DenoiserShape, video: PlannedVideo, text_tokens: int, dtype: Dtype, batch: int) -> int:
    """One denoising step of `batch` samples (stdit3.py, sampler.py).

    The worst moment is the rotation of the keys in a temporal block: alive are the block's input, the modulated input,
    its copy with time innermost (of a single sample that is a view), queries, keys and values as projected (3), queries
    and keys as normed (2), the rotated queries, and of the keys' rotation the turned pairs, two products and their sum
    (4). A very wide MLP would be worse: the block's input twice, the modulated input, and the hidden layer before and
    after its GELU.
    """
    size = DTYPE_BYTES[dtype]
    tokens = num_tokens(video.latent, shape.patch_size)
    rotation = 13 if batch > 1 else 12
    rows = max(rotation, 3 + 2 * shape.mlp_ratio) * batch * tokens * shape.hidden_size
    # Keys and values of the text in every block, made once per loop for both branches; and the table of positions.
    text = 2 * shape.depth * 2 * _BRANCHES * text_tokens * shape.hidden_size
    positions = tokens // video.latent.frames * shape.hidden_size
    latents = shape.in_channels * video.latent.frames * video.latent.height * video.latent.width
    # z before and after the step in fp32, and the samples made of it.
    sampler = (2 + batch) * latents * DTYPE_BYTES[Dtype.FLOAT32]
    return (rows + text + positions) * size + sampler


def decode_bytes(shape: VaeShape, video: PlannedVideo, dtype: Dtype, batch_frames: int, device: Device) -> int:
    """Decoding one loop (vae.py): time chunk by chunk, then the frames slice by slice into one buffer.

    Encoding references and continuations holds less: it has the same buffer and fewer channels at full size.
    """
    size, backend = DTYPE_BYTES[dtype], _Backend(device, dtype)
    latent_pixels = video.latent.height * video.latent.width
    latents = shape.spatial.latent_channels * video.frames * latent_pixels * size
    temporal = _temporal_decoder_values(shape.temporal, video.latent, backend) * size
    frames_at_once = ceil(video.frames / ceil(video.frames / batch_frames))
    spatial = _spatial_decoder_values(shape.spatial, backend) * latent_pixels * size
    # The last frame decoded is a view that keeps its slice alive until the next one is there.
    slice_before = video_bytes(video, dtype) // video.frames
    return max(2 * latents + temporal, latents + video_bytes(video, dtype) + frames_at_once * (spatial + slice_before))


def finish_bytes(video: PlannedVideo, dtype: Dtype, device: Device) -> int:
    """From decoded loops to frames (clip_output.py): the loops and their joined copy; or, when the last loop is gone,
    the others, that copy, and its magnitudes with the three masks that tell whether all of it is finite.

    A card has given everything to the host by then.
    """
    if device != Device.CPU:
        return 0
    loop = video_bytes(video, dtype)
    joined = loop * video.total_frames // video.frames
    mask = joined // DTYPE_BYTES[dtype]
    return max(video.loops * loop + joined, (video.loops - 1) * loop + 2 * joined + 3 * mask)


def kept_pieces_bytes(video: PlannedVideo, dtype: Dtype, device: Device) -> int:
    """Decoded loops that wait on the host for the last one."""
    return (video.loops - 1) * video_bytes(video, dtype) if device == Device.CPU else 0


def video_bytes(video: PlannedVideo, dtype: Dtype) -> int:
    """Pixels of one decoded loop."""
    height, width = video.decoded_size
    return 3 * video.frames * height * width * DTYPE_BYTES[dtype]


@dataclass(frozen=True)
class _Backend:
    """Who computes convolutions, and what it copies into a layout of its own."""

    device: Device
    dtype: Dtype

    def conv(self, values_in: int, values_out: int) -> int:
        """Values alive in a convolution: input, output and copies.

        oneDNN (CPU) copies the one and then the other; cuDNN's 16-bit kernels need channels last, and copy both at
        once; its fp32 kernels take tensors as they are.
        """
        if self.device == Device.CPU:
            return values_in + values_out + max(values_in, values_out)
        return (values_in + values_out) * (1 if self.dtype == Dtype.FLOAT32 else 2)


def _spatial_decoder_values(shape: SpatialVaeShape, backend: _Backend) -> int:
    """Values alive at the worst moment of vae_spatial.Decoder, for one latent pixel of one frame."""
    channels = shape.block_out_channels[::-1]
    middle = channels[0]  # output of the middle block, alive until the last level has run
    worst, pixels, before = 0, 1, channels[0]
    for level, width in enumerate(channels):
        given, inner = before * pixels, width * pixels
        # First residual block: its input normed, then through SiLU, then convolved; the same again, narrower.
        worst = max(worst, 3 * given, given + backend.conv(given, inner), given + inner + backend.conv(inner, inner))
        # Later ones run beside the level's input: their own, its convolution, SiLU of that, convolved.
        worst = max(worst, given + 2 * inner + backend.conv(inner, inner), given + 4 * inner)
        if level < len(channels) - 1:
            worst = max(worst, given + inner + backend.conv(4 * inner, 4 * inner))
            pixels *= 4
        before = width
    return middle + worst


def _temporal_decoder_values(shape: TemporalVaeShape, latent: LatentSize, backend: _Backend) -> int:
    """Values alive at the worst moment of vae_temporal.TemporalDecoder, for one chunk."""
    channels = [shape.filters * multiplier for multiplier in shape.channel_multipliers]
    pixels, frames, above = latent.height * latent.width, min(latent.frames, CHUNK_LATENTS), channels[-1]

    def convolve(inputs: int, outputs: int) -> int:
        # Two zero frames stand in front of the input, and a border of one around it.
        padded = inputs * (frames + 2) * (latent.height + 2) * (latent.width + 2)
        if backend.device == Device.CPU and inputs * (frames + 2) * (latent.height + 2) <= _ONEDNN_MIN_VALUES:
            return padded + (_KERNEL_3D * inputs + outputs) * frames * pixels
        return backend.conv(padded, outputs * frames * pixels)

    worst = 0
    for width, doubled in zip(reversed(channels), reversed([False, *shape.temporal_downsample]), strict=True):
        # Either convolution of a residual block: the block's input, what the convolution follows on, SiLU of that.
        for inputs in (above, width):
            worst = max(worst, (above + 2 * inputs) * frames * pixels + convolve(inputs, width))
        if doubled:
            given, out = width * frames * pixels, 2 * width * frames * pixels
            worst = max(worst, given + max(convolve(width, 2 * width), 2 * out))
            frames *= 2
        above = width
    return worst


def encode_bytes(shape: TextEncoderShape, text_tokens: int, dtype: Dtype, device: Device) -> int:
    """One text through transformers' T5 encoder: the worst of three moments.

    Making the bias table: six int64 maps of token pairs and a mask. Attention: three states, queries, keys, values and
    result, and the bias twice; on a card attention with a bias runs in its plain form, with queries, keys, values,
    scores and their softmax in fp32. MLP: four states, the bias, and four hidden layers inside the gate's GELU (in
    fp16 five: the gate's two, their product, and its copy in fp32).
    """
    size = DTYPE_BYTES[dtype]
    pairs = text_tokens * text_tokens
    states = text_tokens * shape.d_model * size
    heads = text_tokens * shape.num_heads * shape.d_kv * size
    bias = shape.num_heads * pairs * size
    hidden = text_tokens * shape.d_ff * size
    making_bias = 2 * states + 3 * heads + pairs * (6 * _INT64 + 1)
    attention = 3 * states + 4 * heads + 2 * bias
    if device == Device.CUDA:
        attention += (3 * heads + 2 * bias) * DTYPE_BYTES[Dtype.FLOAT32] // size
    mlp = 4 * states + bias + (5 if dtype == Dtype.FLOAT16 else 4) * hidden
    return max(making_bias, attention, mlp)
