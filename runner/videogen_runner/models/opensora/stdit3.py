"""STDiT3, the denoiser of Open-Sora v1.2: a diffusion transformer whose blocks alternate between space and time.

Mathematics only: one device, no files, no choice of kernels. Module names are the keys of the public checkpoint
`hpcai-tech/OpenSora-STDiT-v3`, so its state dict loads strictly.

What stays the same through all denoising steps of a clip (text keys and values of every block, position and rotation
tables, the embeddings of the frame rate and of t = 0) is computed once by `STDiT3.prepare`; `forward` takes the rest.

Sources: DiT (Peebles and Xie, 2023), PixArt-alpha (Chen et al., 2023) for the shared time modulation, RoPE (Su et al.,
2021). Where the released weights expect a rounding or an order of operations, a comment says so.

Shape suffixes: B samples, T latent frames, H W latent rows and columns, S spatial tokens of one frame, N tokens of the
axis attended over, C latent channels, K predicted channels, D hidden, M modulation parts, G heads, E = D / G, L text
tokens, X caption channels, A sinusoid width, P values of a patch.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

import torch
import torch.nn.functional as F  # noqa: N812 - the name every PyTorch text uses
from einops import rearrange
from torch import Tensor, nn

SINUSOID_WIDTH = 256
MAX_PERIOD = 10_000
NORM_EPS = 1e-6


@dataclass(frozen=True)
class STDiT3Config:
    """The sizes of a model; the defaults are XL/2. Keys of config.json that only training reads are not kept."""

    hidden_size: int = 1152
    depth: int = 28
    num_heads: int = 16
    patch_size: tuple[int, int, int] = (1, 2, 2)
    in_channels: int = 4
    caption_channels: int = 4096
    model_max_length: int = 300
    input_sq_size: int = 512
    mlp_ratio: float = 4.0
    pred_sigma: bool = True
    qk_norm: bool = True

    def __post_init__(self) -> None:
        if self.patch_size[0] != 1:
            raise ValueError(f"patch_size {self.patch_size}: a patch spans one latent frame, so it starts with 1")
        if self.hidden_size % self.num_heads or self.head_size % 2 or self.hidden_size % 4:
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of 4 that gives num_heads {self.num_heads} heads "
                "of an even size"
            )

    @classmethod
    def from_mapping(cls, config: Mapping[str, Any]) -> Self:
        """Read the keys of the public config.json; a missing key is XL/2's."""
        known = {name: config[name] for name in cls.__dataclass_fields__ if name in config}
        known["patch_size"] = tuple(known.get("patch_size", cls.patch_size))
        return cls(**known)

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def out_channels(self) -> int:
        return self.in_channels * 2 if self.pred_sigma else self.in_channels


@dataclass(frozen=True)
class TextKeysValues:
    """One block's keys and values of the text, before any step needs them."""

    k_BGLE: Tensor
    v_BGLE: Tensor


@dataclass(frozen=True)
class Conditioning:
    """What `forward` needs besides latents and timestep; made by `prepare` for one latent size and batch."""

    fps_BD: Tensor
    t0_BD: Tensor  # time + frame rate embedding of t = 0, what a frozen frame is modulated by
    t0_modulation_BMD: Tensor
    frequencies_A: Tensor  # of the timestep's sinusoids
    position_SD: Tensor
    rope: tuple[Tensor, Tensor]  # cos_T1E, sin_T1E
    text: tuple[TextKeysValues, ...]  # one entry per block, in the order they run
    text_mask_B11L: Tensor | None  # None: every sample has the same number of tokens, none of them padding


# ---- Embeddings ----
# Tables of frequencies are made on the host: devices disagree in the last bit of exp and pow, which large arguments
# magnify beyond fp32's precision.


def sinusoid_frequencies() -> Tensor:
    """128 frequencies from 1 down to 1/10000, fp32 on the host."""
    half = SINUSOID_WIDTH // 2
    return torch.exp(-math.log(MAX_PERIOD) * torch.arange(half, dtype=torch.float32, device="cpu") / half)


def sinusoid(t_B: Tensor, frequencies_A: Tensor) -> Tensor:
    """[cos | sin] of t times each frequency, in fp32."""
    angles_BA = t_B[:, None].float() * frequencies_A
    return torch.cat([angles_BA.cos(), angles_BA.sin()], dim=-1)


def position_table(
    hidden_size: int, rows: int, columns: int, scale: float, base_size: int, dtype: torch.dtype
) -> Tensor:
    """Sinusoids of the token grid: the first half of the channels codes x, the second y. p_SD in `dtype`, on the host.

    Coordinates are stretched so that a square of `base_size` tokens spans the same range at every aspect ratio. The
    frequencies are rounded to `dtype`, as the released model's are; everything else is fp32 until the end.
    """
    half = hidden_size // 2
    exponents = torch.arange(0, half, 2, dtype=torch.float32, device="cpu") / half
    frequencies = (1.0 / MAX_PERIOD**exponents).to(dtype).float()

    def sinusoid_of(length: int) -> Tensor:
        coordinates = torch.arange(length, dtype=torch.float32, device="cpu") / scale * (base_size / length)
        angles = coordinates[:, None] * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=-1)

    x_SD = sinusoid_of(columns).repeat(rows, 1)
    y_SD = sinusoid_of(rows).repeat_interleave(columns, dim=0)
    return torch.cat([x_SD, y_SD], dim=-1).to(dtype)


class ScalarEmbedder(nn.Module):
    """A number per sample -> e_BD: sinusoids, then Linear, SiLU, Linear."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(SINUSOID_WIDTH, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size))

    def forward(self, t_B: Tensor, frequencies_A: Tensor) -> Tensor:
        # The number itself is rounded to the model's dtype: in bf16, t = 985.9 counts as 984.
        dtype = next(self.parameters()).dtype
        e_BD: Tensor = self.mlp(sinusoid(t_B.to(dtype), frequencies_A).to(dtype))
        return e_BD


class Mlp(nn.Module):
    """Linear, GELU (tanh form), Linear."""

    def __init__(self, in_features: int, hidden_features: int, out_features: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_features, hidden_features)
        self.fc2 = nn.Linear(hidden_features, out_features)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc2(F.gelu(self.fc1(x), approximate="tanh"))
        return y


class CaptionEmbedder(nn.Module):
    """Projects text tokens to the hidden size, and holds the learned tokens of the empty caption."""

    y_embedding: Tensor  # [model_max_length, caption_channels]

    def __init__(self, config: STDiT3Config) -> None:
        super().__init__()
        # Not randn, here and below: on the meta device that imports torch's compiler, for seconds.
        y_LX = nn.init.uniform_(torch.empty(config.model_max_length, config.caption_channels))
        self.register_buffer("y_embedding", y_LX)
        self.y_proj = Mlp(config.caption_channels, config.hidden_size, config.hidden_size)

    def forward(self, y_BLX: Tensor) -> Tensor:
        y_BLD: Tensor = self.y_proj(y_BLX)
        return y_BLD


class PatchEmbedder(nn.Module):
    """z_BCTHW -> x_BTSD, one token per patch; rows and columns are padded with zeros at the end to whole patches."""

    def __init__(self, config: STDiT3Config) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.proj = nn.Conv3d(config.in_channels, config.hidden_size, config.patch_size, stride=config.patch_size)

    def forward(self, z_BCTHW: Tensor) -> Tensor:
        _, patch_h, patch_w = self.patch_size
        height, width = z_BCTHW.shape[-2:]
        x_BDTHW: Tensor = self.proj(F.pad(z_BCTHW, (0, -width % patch_w, 0, -height % patch_h)))
        return rearrange(x_BDTHW, "b d t h w -> b t (h w) d")


class RotaryEmbedding(nn.Module):
    """The rotation of queries and keys by frame index (RoPE) over interleaved pairs of channels."""

    def __init__(self, head_size: int) -> None:
        super().__init__()
        self.freqs = nn.Parameter(torch.tensor([MAX_PERIOD ** (-i / head_size) for i in range(0, head_size, 2)]))

    def forward(self, num_frames: int) -> tuple[Tensor, Tensor]:
        """cos_T1E and sin_T1E. Angles are rounded to the dtype of the model, as those of the released one are."""
        frames_T = torch.arange(num_frames, device=self.freqs.device).to(self.freqs.dtype)
        angles_T1E = torch.outer(frames_T, self.freqs).repeat_interleave(2, dim=-1)[:, None]
        return angles_T1E.cos(), angles_T1E.sin()


def rotate(x_BTGE: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Rotates the pairs (2i, 2i+1) of the last axis."""
    cos_T1E, sin_T1E = rope
    first, second = rearrange(x_BTGE, "... (e pair) -> pair ... e", pair=2)
    turned_BTGE = torch.stack([-second, first], dim=-1).flatten(-2)
    return x_BTGE * cos_T1E + turned_BTGE * sin_T1E


# ---- Blocks ----


def layer_norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=NORM_EPS)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale) + shift


class RMSNorm(nn.Module):
    """x / rms(x) in fp32, rounded to the dtype of x before the weight is applied."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * F.rms_norm(x, x.shape[-1:], eps=NORM_EPS)


class SelfAttention(nn.Module):
    """Attention along N, rotated by frame index where `rope` is given."""

    def __init__(self, config: STDiT3Config) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.q_norm = RMSNorm(config.head_size) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(config.head_size) if config.qk_norm else nn.Identity()
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x_BND: Tensor, rope: tuple[Tensor, Tensor] | None) -> Tensor:
        q_BNGE, k_BNGE, v_BNGE = rearrange(
            self.qkv(x_BND), "b n (part g e) -> part b n g e", part=3, g=self.num_heads
        ).unbind()
        q_BNGE, k_BNGE = self.q_norm(q_BNGE), self.k_norm(k_BNGE)
        if rope is not None:
            q_BNGE, k_BNGE = rotate(q_BNGE, rope), rotate(k_BNGE, rope)
        x_BGNE = F.scaled_dot_product_attention(*(x_BNGE.transpose(1, 2) for x_BNGE in (q_BNGE, k_BNGE, v_BNGE)))
        y_BND: Tensor = self.proj(rearrange(x_BGNE, "b g n e -> b n (g e)"))
        return y_BND


class CrossAttention(nn.Module):
    """Attention of all tokens of a sample to its own text tokens."""

    def __init__(self, config: STDiT3Config) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.q_linear = nn.Linear(config.hidden_size, config.hidden_size)
        self.kv_linear = nn.Linear(config.hidden_size, 2 * config.hidden_size)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)

    def prepare(self, y_BLD: Tensor) -> TextKeysValues:
        k_BGLE, v_BGLE = rearrange(
            self.kv_linear(y_BLD), "b l (part g e) -> part b g l e", part=2, g=self.num_heads
        ).unbind()
        return TextKeysValues(k_BGLE, v_BGLE)

    def forward(self, x_BTSD: Tensor, text: TextKeysValues, text_mask_B11L: Tensor | None) -> Tensor:
        q_BGNE = rearrange(self.q_linear(x_BTSD), "b t s (g e) -> b g (t s) e", g=self.num_heads)
        x_BGNE = F.scaled_dot_product_attention(q_BGNE, text.k_BGLE, text.v_BGLE, attn_mask=text_mask_B11L)
        y_BTSD: Tensor = self.proj(rearrange(x_BGNE, "b g (t s) e -> b t s (g e)", t=x_BTSD.shape[1]))
        return y_BTSD


class STDiT3Block(nn.Module):
    """Self-attention over space or over time, attention to the text, and an MLP; the first and last are gated by t."""

    def __init__(self, config: STDiT3Config, *, temporal: bool) -> None:
        super().__init__()
        self.temporal = temporal
        self.attn = SelfAttention(config)
        self.cross_attn = CrossAttention(config)
        self.mlp = Mlp(config.hidden_size, int(config.hidden_size * config.mlp_ratio), config.hidden_size)
        self.scale_shift_table = nn.Parameter(nn.init.uniform_(torch.empty(6, config.hidden_size)))

    def forward(
        self,
        x_BTSD: Tensor,
        modulation_BTMD: Tensor,  # T is 1 where all frames share one timestep
        text: TextKeysValues,
        text_mask_B11L: Tensor | None,
        rope: tuple[Tensor, Tensor],
    ) -> Tensor:
        table_BTMD = self.scale_shift_table + modulation_BTMD
        shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = table_BTMD.chunk(6, dim=2)
        x_BTSD = x_BTSD + gate_attn * self._attend(modulate(layer_norm(x_BTSD), shift_attn, scale_attn), rope)
        x_BTSD = x_BTSD + self.cross_attn(x_BTSD, text, text_mask_B11L)
        y_BTSD: Tensor = self.mlp(modulate(layer_norm(x_BTSD), shift_mlp, scale_mlp))
        return x_BTSD + gate_mlp * y_BTSD

    def _attend(self, x_BTSD: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        rows, rotation = ("(b s) t d", rope) if self.temporal else ("(b t) s d", None)
        y_BND: Tensor = self.attn(rearrange(x_BTSD, f"b t s d -> {rows}"), rotation)
        return rearrange(y_BND, f"{rows} -> b t s d", b=x_BTSD.shape[0])


class FinalLayer(nn.Module):
    """x_BTSD -> the values of each token's patch, x_BTSP."""

    def __init__(self, config: STDiT3Config) -> None:
        super().__init__()
        self.linear = nn.Linear(config.hidden_size, math.prod(config.patch_size) * config.out_channels)
        self.scale_shift_table = nn.Parameter(nn.init.uniform_(torch.empty(2, config.hidden_size)))

    def forward(self, x_BTSD: Tensor, t_BD: Tensor, t0_BD: Tensor, x_mask_BT: Tensor | None) -> Tensor:
        x_BTSD = self._modulate(x_BTSD, t_BD)
        if x_mask_BT is not None:
            # The released model was trained with frozen frames modulated twice, by t and then by t = 0.
            x_BTSD = torch.where(x_mask_BT[:, :, None, None], x_BTSD, self._modulate(x_BTSD, t0_BD))
        x_BTSP: Tensor = self.linear(x_BTSD)
        return x_BTSP

    def _modulate(self, x_BTSD: Tensor, t_BD: Tensor) -> Tensor:
        shift_B11D, scale_B11D = (self.scale_shift_table + t_BD[:, None])[:, :, None, None].unbind(dim=1)
        return modulate(layer_norm(x_BTSD), shift_B11D, scale_B11D)


# ---- The model ----


class STDiT3(nn.Module):
    """Predicts the velocity (first half of K) of a latent video at flow time t."""

    def __init__(self, config: STDiT3Config) -> None:
        super().__init__()
        self.config = config
        self.x_embedder = PatchEmbedder(config)
        self.t_embedder = ScalarEmbedder(config.hidden_size)
        self.fps_embedder = ScalarEmbedder(config.hidden_size)
        self.t_block = nn.Sequential(nn.SiLU(), nn.Linear(config.hidden_size, 6 * config.hidden_size))
        self.y_embedder = CaptionEmbedder(config)
        self.rope = RotaryEmbedding(config.head_size)
        self.spatial_blocks = nn.ModuleList(STDiT3Block(config, temporal=False) for _ in range(config.depth))
        self.temporal_blocks = nn.ModuleList(STDiT3Block(config, temporal=True) for _ in range(config.depth))
        self.final_layer = FinalLayer(config)

    @property
    def dtype(self) -> torch.dtype:
        return self.x_embedder.proj.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.x_embedder.proj.weight.device

    def null_tokens(self, num_tokens: int) -> Tensor:
        """The unconditional branch of a prompt of `num_tokens`: it keeps the prompt's count. Returns y_LX."""
        return self.y_embedder.y_embedding[:num_tokens]

    def prepare(
        self,
        tokens_LX: Sequence[Tensor],
        fps_B: Tensor,
        image_size: tuple[float, float],
        latent_size: tuple[int, int, int],
    ) -> Conditioning:
        """Everything that is the same at every step.

        `tokens_LX` are the text tokens of each sample, padding left out; `image_size` is height and width in pixels;
        `latent_size` is T, H, W of the latents that `forward` will get.
        """
        dtype, device = self.dtype, self.device
        num_frames, latent_h, latent_w = latent_size
        rows = math.ceil(latent_h / self.config.patch_size[1])
        columns = math.ceil(latent_w / self.config.patch_size[2])
        # The pixel sizes set the scale of positions only, after rounding to the model's dtype.
        height, width = (torch.tensor(size, dtype=dtype).item() for size in image_size)
        scale = math.sqrt(height * width) / self.config.input_sq_size

        lengths = [len(y_LX) for y_LX in tokens_LX]
        y_BLX = nn.utils.rnn.pad_sequence([y_LX.to(device, dtype) for y_LX in tokens_LX], batch_first=True)
        y_BLD = self.y_embedder(y_BLX)
        text_mask_B11L = None
        if min(lengths) < max(lengths):
            positions_L = torch.arange(max(lengths))
            text_mask_B11L = (positions_L < torch.tensor(lengths)[:, None])[:, None, None].to(device)

        frequencies_A = sinusoid_frequencies().to(device)
        fps_BD = self.fps_embedder(fps_B.to(device), frequencies_A)
        t0_BD = self.t_embedder(torch.zeros_like(fps_B, device=device), frequencies_A) + fps_BD
        position_SD = position_table(
            self.config.hidden_size, rows, columns, scale, round(math.sqrt(rows * columns)), dtype
        )
        return Conditioning(
            fps_BD=fps_BD,
            t0_BD=t0_BD,
            t0_modulation_BMD=self._modulation(t0_BD),
            frequencies_A=frequencies_A,
            position_SD=position_SD.to(device),
            rope=self.rope(num_frames),
            text=tuple(block.cross_attn.prepare(y_BLD) for block in self._blocks()),
            text_mask_B11L=text_mask_B11L,
        )

    def forward(
        self, z_BCTHW: Tensor, t_B: Tensor, conditioning: Conditioning, x_mask_BT: Tensor | None = None
    ) -> Tensor:
        """The prediction at flow time t (0..1000), in fp32: pred_BKTHW.

        `x_mask_BT` is False for frames that are given, not denoised (they count as t = 0); None where there are none.
        """
        t_BD, modulation_BTMD = self.modulation(t_B, conditioning, x_mask_BT)
        x_BTSD = self.embed(z_BCTHW, conditioning)
        for block, text in zip(self._blocks(), conditioning.text, strict=True):
            x_BTSD = block(x_BTSD, modulation_BTMD, text, conditioning.text_mask_B11L, conditioning.rope)
        height, width = z_BCTHW.shape[-2:]
        return self.predict(x_BTSD, t_BD, conditioning, x_mask_BT, (height, width))

    def modulation(self, t_B: Tensor, conditioning: Conditioning, x_mask_BT: Tensor | None) -> tuple[Tensor, Tensor]:
        """t_BD, and what modulates all blocks: modulation_BTMD, whose T is 1 where no frame is given."""
        t_BD = self.t_embedder(t_B, conditioning.frequencies_A) + conditioning.fps_BD
        modulation_BTMD = self._modulation(t_BD)[:, None]
        if x_mask_BT is not None:
            t0_B1MD = conditioning.t0_modulation_BMD[:, None]
            modulation_BTMD = torch.where(x_mask_BT[:, :, None, None], modulation_BTMD, t0_B1MD)
        return t_BD, modulation_BTMD

    def embed(self, z_BCTHW: Tensor, conditioning: Conditioning) -> Tensor:
        """Latents -> what the first block gets, x_BTSD."""
        x_BTSD: Tensor = self.x_embedder(z_BCTHW.to(self.dtype)) + conditioning.position_SD
        return x_BTSD

    def predict(
        self,
        x_BTSD: Tensor,
        t_BD: Tensor,
        conditioning: Conditioning,
        x_mask_BT: Tensor | None,
        latent_size: tuple[int, int],  # rows, columns
    ) -> Tensor:
        """What the last block gives -> pred_BKTHW in fp32."""
        x_BTSP: Tensor = self.final_layer(x_BTSD, t_BD, conditioning.t0_BD, x_mask_BT)
        return self._unpatchify(x_BTSP, *latent_size).float()

    def _blocks(self) -> list[STDiT3Block]:
        """Spatial 0, temporal 0, spatial 1, temporal 1 ..."""
        pairs = zip(self.spatial_blocks, self.temporal_blocks, strict=True)
        return [cast("STDiT3Block", block) for pair in pairs for block in pair]

    def _modulation(self, t_BD: Tensor) -> Tensor:
        parts_BD: Tensor = self.t_block(t_BD)
        return rearrange(parts_BD, "b (m d) -> b m d", m=6)

    def _unpatchify(self, x_BTSP: Tensor, height: int, width: int) -> Tensor:
        _, patch_h, patch_w = self.config.patch_size
        x_BKTHW = rearrange(
            x_BTSP,
            "b t (h w) (patch_h patch_w k) -> b k t (h patch_h) (w patch_w)",
            h=math.ceil(height / patch_h),
            patch_h=patch_h,
            patch_w=patch_w,
        )
        return x_BKTHW[..., :height, :width]
