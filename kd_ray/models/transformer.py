"""Transformer encoder and decoder (Vaswani et al. 2017), layer norm before each sub-layer.

Shapes: B utterances, T encoder states, R decoder rows, L prefix length, H features, h heads,
D = H / h, V vocabulary, N layers.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_ray.config.model import (
    SpeechTransformerEncoder,
    TextTransformerEncoder,
    TransformerDecoder,
)
from kd_ray.models.attention import CrossAttention, SelfAttention
from kd_ray.models.dropout import dropout
from kd_ray.models.encoders import Encoded
from kd_ray.models.masks import frame_mask
from kd_ray.models.precision import full_precision, widened

_FIRST_CAPACITY = 32
"""Tokens that a fresh cache has room for; it doubles when it is full."""


def sinusoids(start: int, end: int, size: int, like: Tensor) -> Tensor:
    """Position vectors (end - start, size): sines of falling frequency, then their cosines.

    Wavelengths run from 2 pi to 10,000 * 2 pi, as in tensor2tensor and fairseq.
    """
    half = size // 2
    positions = torch.arange(start, end, device=like.device, dtype=torch.float32)
    steps = torch.arange(half, device=like.device, dtype=torch.float32)
    angles = positions.unsqueeze(1) * torch.exp(steps * (-math.log(10_000) / max(half - 1, 1)))
    return torch.cat([angles.sin(), angles.cos()], dim=1).to(like.dtype)


def with_positions(x: Tensor, start: int = 0) -> Tensor:
    """(B, L, H) scaled by sqrt(H), so that it weighs as much as the position vectors added."""
    size = x.shape[2]
    return x * math.sqrt(size) + sinusoids(start, start + x.shape[1], size, x)


class TokenEmbedding(nn.Embedding):
    """Token vectors of standard deviation H^-0.5, for `with_positions` and as output weights."""


class FeedForward(nn.Module):
    """Two linear layers with a relu between."""

    def __init__(self, size: int, inner: int, activation_dropout: float) -> None:
        super().__init__()
        self.activation_dropout = activation_dropout
        self.inner = nn.Linear(size, inner)
        self.output = nn.Linear(inner, size)

    def forward(self, x: Tensor) -> Tensor:
        """(..., H) -> (..., H)."""
        hidden = dropout(F.relu(self.inner(x)), self.activation_dropout, self.training)
        out: Tensor = self.output(hidden)
        return out


class EncoderLayer(nn.Module):
    """Self-attention, then feed-forward."""

    def __init__(self, config: SpeechTransformerEncoder | TextTransformerEncoder) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.attention_norm = nn.LayerNorm(config.size)
        self.attention = SelfAttention(config.size, config.heads, config.attention_dropout)
        self.feed_forward_norm = nn.LayerNorm(config.size)
        self.feed_forward = FeedForward(
            config.size, config.feed_forward_size, config.activation_dropout
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, T, H); `mask` (B, 1, 1, T) is true on own states."""
        heard = self.attention(self.attention_norm(x), mask=mask)
        x = x + dropout(heard, self.dropout, self.training)
        thought = self.feed_forward(self.feed_forward_norm(x))
        return x + dropout(thought, self.dropout, self.training)


class TransformerEncoderStack(nn.Module):
    """Self-attention layers over scaled inputs with positions."""

    def __init__(self, config: SpeechTransformerEncoder | TextTransformerEncoder) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.size)
        self.output_size = config.size

    def forward(self, x: Tensor, lengths: Tensor) -> Encoded:
        """(B, T, H), anything finite in the padding -> states, zeros in the padding."""
        own = frame_mask(lengths, x.shape[1])
        mask = own[:, None, None]
        x = dropout(with_positions(widened(x)), self.dropout, self.training)
        for layer in self.layers:
            x = layer(x, mask)
        return Encoded(self.norm(x).masked_fill(~own.unsqueeze(2), 0.0), lengths)


class GatedConvolution(nn.Module):
    """Convolution over time with stride 2, then a gated linear unit (Dauphin et al. 2017)."""

    def __init__(self, in_channels: int, channels: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_channels, 2 * channels, width, stride=2, padding=width // 2)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, F, T) with zeros in the padding -> (B, F', T'), again with zeros; lengths."""
        lengths = halved(lengths)
        y = F.glu(self.conv(x), dim=1)
        outside = ~frame_mask(lengths, y.shape[2]).unsqueeze(1)
        return y.masked_fill(outside, 0.0), lengths


def halved(lengths: Tensor) -> Tensor:
    """Frames that come out of a convolution of stride 2 (odd width, half a width of padding)."""
    return (lengths + 1) // 2


class SpeechTransformer(nn.Module):
    """Strided gated convolutions, then a Transformer, as fairseq's `s2t_transformer`."""

    def __init__(self, config: SpeechTransformerEncoder, num_mels: int) -> None:
        super().__init__()
        inner = config.conv_channels // 2
        sizes = [num_mels, *[inner] * (len(config.conv_kernels) - 1), config.size]
        self.convolutions = nn.ModuleList(
            GatedConvolution(before, after, width)
            for before, after, width in zip(sizes, sizes[1:], config.conv_kernels, strict=False)
        )
        self.stack = TransformerEncoderStack(config)
        self.output_size = config.size

    @property
    def stride(self) -> int:
        """Feature frames in a state."""
        return 1 << len(self.convolutions)

    def output_frames(self, num_frames: int) -> int:
        """States that come out of so many frames."""
        return -(-num_frames // self.stride)

    def forward(self, features: Tensor, lengths: Tensor) -> Encoded:
        """(B, T, F) normalised features with zeros in the padding -> states."""
        x = features.transpose(1, 2)
        for convolution in self.convolutions:
            x, lengths = convolution(x, lengths)
        encoded: Encoded = self.stack(x.transpose(1, 2), lengths)
        return encoded


class DecoderLayer(nn.Module):
    """Self-attention to what stands before, attention to the encoder, feed-forward."""

    def __init__(self, config: TransformerDecoder, encoder_size: int) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.attention_norm = nn.LayerNorm(config.size)
        self.attention = SelfAttention(config.size, config.heads, config.attention_dropout)
        self.cross_norm = nn.LayerNorm(config.size)
        self.cross = CrossAttention(
            config.size, config.heads, encoder_size, config.attention_dropout
        )
        self.feed_forward_norm = nn.LayerNorm(config.size)
        self.feed_forward = FeedForward(
            config.size, config.feed_forward_size, config.activation_dropout
        )

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """(R, L, H), `cross.memory(...)` and its mask (R, 1, 1, T) -> (R, L, H)."""
        read = self.attention(self.attention_norm(x), causal=True)
        x = x + dropout(read, self.dropout, self.training)
        return self._beyond(x, self.cross(self.cross_norm(x), memory, mask))

    def step(self, x: Tensor, cache: Tensor, position: int, memory: Tensor, mask: Tensor) -> Tensor:
        """The newest token (R, 1, H); every R / U consecutive rows share one of U memories."""
        read = self.attention.step(self.attention_norm(x), cache, position)
        x = x + dropout(read, self.dropout, self.training)
        grouped = self.cross_norm(x).view(memory.shape[1], -1, x.shape[2])
        return self._beyond(x, self.cross(grouped, memory, mask).view_as(x))

    def _beyond(self, x: Tensor, heard: Tensor) -> Tensor:
        x = x + dropout(heard, self.dropout, self.training)
        thought = self.feed_forward(self.feed_forward_norm(x))
        return x + dropout(thought, self.dropout, self.training)


class TransformerState(NamedTuple):
    """Keys and values of what has been written, and of the encoder.

    `position`: tokens read; `own` (N, 2, R, h, C, D) with room for C; `memory` (N, 2, U, h, T, D)
    and its mask (U, 1, 1, T), each shared by R / U consecutive rows.
    """

    position: int
    own: Tensor
    memory: Tensor
    mask: Tensor


class TransformerDecoderStack(nn.Module):
    """Embeddings, decoder layers, output layer."""

    def __init__(
        self,
        config: TransformerDecoder,
        *,
        encoder_size: int,
        vocabulary_size: int,
        share_embeddings: bool,
    ) -> None:
        super().__init__()
        self.config = config
        self.embedding = TokenEmbedding(vocabulary_size, config.size)
        self.layers = nn.ModuleList(
            DecoderLayer(config, encoder_size) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.size)
        self.output = (
            None if share_embeddings else nn.Linear(config.size, vocabulary_size, bias=False)
        )

    def forward(self, encoded: Encoded, inputs: Tensor) -> Tensor:
        """Teacher forcing: `inputs` (R, L+1) begin with bos; logits (R, L+1, V)."""
        mask = frame_mask(encoded.lengths, encoded.states.shape[1])[:, None, None]
        x = self._read(inputs, 0)
        for layer in self.layers:
            assert isinstance(layer, DecoderLayer)
            x = layer(x, layer.cross.memory(encoded.states), mask)
        return self._speak(x)

    def begin(self, encoded: Encoded) -> TransformerState:
        """Nothing read; the encoder's keys and values, which all steps use."""
        states, lengths = encoded
        memory = torch.stack(
            [layer.cross.memory(states) for layer in self.layers if isinstance(layer, DecoderLayer)]
        )
        layers, _, rows, heads, _, width = memory.shape
        own = memory.new_zeros(layers, 2, rows, heads, _FIRST_CAPACITY, width)
        return TransformerState(0, own, memory, frame_mask(lengths, states.shape[1])[:, None, None])

    def step(self, tokens: Tensor, state: TransformerState) -> tuple[Tensor, TransformerState]:
        """Tokens (R,) -> logits (R, V); the state's cache is written in place."""
        position, own, memory, mask = state
        if position == own.shape[4]:
            own = torch.cat([own, torch.zeros_like(own)], dim=4)
        x = self._read(tokens.unsqueeze(1), position)
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, DecoderLayer)
            x = layer.step(x, own[number], position, memory[number], mask)
        return self._speak(x).squeeze(1), TransformerState(position + 1, own, memory, mask)

    def select(self, state: TransformerState, rows: Tensor) -> TransformerState:
        """Copies of the rows' own caches; encoder memories move only if they have to.

        Where equally many rows of each memory come, one after the other, the memory stays shared
        (all hypotheses of a beam read the same utterance).
        """
        position, own, memory, mask = state
        memories = memory.shape[2]
        owners = rows // (own.shape[2] // memories)
        distinct, counts = torch.unique_consecutive(owners, return_counts=True)
        if len(counts) and bool((counts == counts[0]).all()):
            owners = distinct
        if not torch.equal(owners, torch.arange(memories, device=owners.device)):
            memory, mask = memory[:, :, owners], mask[owners]
        return TransformerState(position, own[:, :, rows], memory, mask)

    def _read(self, tokens: Tensor, start: int) -> Tensor:
        x = with_positions(self.embedding(tokens), start)
        return dropout(x, self.config.dropout, self.training)

    def _speak(self, x: Tensor) -> Tensor:
        weight = self.embedding.weight if self.output is None else self.output.weight
        with full_precision(x):
            return F.linear(self.norm(widened(x)), weight)
