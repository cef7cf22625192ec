"""Encoders: normalised features to one state per (subsampled) frame.

Shapes: B utterances, T frames, T' subsampled frames, F mels, C channels, H features of a state.
Every layer that could write into the padding is followed by a mask, so that an utterance alone
gives what it gives among longer ones.
"""

from typing import NamedTuple, TypeVar

import torch.nn.functional as F
from torch import Tensor, nn

from kd_ray.config.model import CrdnnEncoder
from kd_ray.models.dropout import dropout
from kd_ray.models.masks import frame_mask
from kd_ray.models.recurrence import BidirectionalRnn

Frames = TypeVar("Frames", int, Tensor)


class Encoded(NamedTuple):
    """Encoder states (B, T', H), zero in the padding, and their lengths (B,)."""

    states: Tensor
    lengths: Tensor

    def select(self, rows: Tensor) -> "Encoded":
        """Utterances `rows` (R,), in that order; one may come several times, or not at all."""
        return Encoded(self.states[rows], self.lengths[rows])


class ConvBlock(nn.Module):
    """3x3 convolution, strided; layer norm over each frame's channels and mels; relu."""

    def __init__(self, in_channels: int, channels: int, num_mels: int, time_stride: int) -> None:
        super().__init__()
        self.time_stride = time_stride
        self.output_mels = (num_mels + 1) // 2
        self.conv = nn.Conv2d(
            in_channels, channels, 3, stride=(time_stride, 2), padding=1, bias=False
        )
        self.norm = nn.LayerNorm((self.output_mels, channels))

    def output_frames(self, num_frames: Frames) -> Frames:
        """Frames that come out of so many (0 of 0)."""
        return (num_frames + self.time_stride - 1) // self.time_stride

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, F, C) with zeros in the padding -> (B, T', F', C'), again with zeros; lengths.

        A frame at the end of an utterance sees zeros behind it, which is what the convolution's
        own padding shows it in a batch of one.
        """
        lengths = self.output_frames(lengths)
        y = self.norm(self._convolve(x))
        mask = frame_mask(lengths, y.shape[1])[:, :, None, None].to(y.dtype)
        # In place: neither layer norm nor the product keeps what it wrote for its gradient.
        return F.relu_(y.mul_(mask)), lengths

    def _convolve(self, x: Tensor) -> Tensor:
        if x.shape[3] == 1 and not x.is_cuda:
            return self._convolve_features(x.squeeze(3))
        # The permuted view is laid out channels-last, which the CPU's convolution prefers.
        y: Tensor = self.conv(x.permute(0, 3, 1, 2))
        return y.permute(0, 2, 3, 1).contiguous()

    def _convolve_features(self, x: Tensor) -> Tensor:
        """The same for one input channel (B, T, F), as one matrix product over 3x3 patches.

        The CPU's convolution takes ten times as long for the weight gradient of this shape.
        """
        rows, frames, stride = len(x), self.output_frames(x.shape[1]), self.time_stride
        padded = F.pad(x, (1, 1, 1, 1))
        patches = x.new_empty(3, 3, rows, frames, self.output_mels)
        for i in range(3):
            for j in range(3):
                patches[i, j] = padded[
                    :,
                    i : i + stride * (frames - 1) + 1 : stride,
                    j : j + 2 * self.output_mels - 1 : 2,
                ]
        y = patches.view(9, -1).t() @ self.conv.weight.flatten(1).t()
        return y.view(rows, frames, self.output_mels, -1)


class CrdnnStack(nn.Module):
    """Convolutions, bidirectional recurrence, feed-forward layers."""

    def __init__(self, config: CrdnnEncoder, num_mels: int) -> None:
        super().__init__()
        self.dropout = config.dropout
        blocks, channels = [], 1
        for width, stride in zip(config.cnn_channels, config.time_strides, strict=True):
            block = ConvBlock(channels, width, num_mels, stride)
            blocks.append(block)
            channels, num_mels = width, block.output_mels
        self.blocks = nn.ModuleList(blocks)
        # Normed once more on its way into the recurrence: CTC leaves its all-blank phase earlier.
        self.projection = nn.Sequential(
            nn.Linear(channels * num_mels, config.projection_size),
            nn.LayerNorm(config.projection_size),
        )
        self.rnn = BidirectionalRnn(
            config.rnn,
            input_size=config.projection_size,
            size=config.rnn_size,
            num_layers=config.rnn_layers,
            dropout=config.dropout,
        )
        size = self.rnn.output_size
        self.dnn = nn.ModuleList()
        for _ in range(config.dnn_layers):
            self.dnn.append(
                nn.Sequential(
                    nn.Linear(size, config.dnn_size), nn.LayerNorm(config.dnn_size), nn.ReLU()
                )
            )
            size = config.dnn_size
        self.output_size = size

    def output_frames(self, num_frames: int) -> int:
        """States that come out of so many frames."""
        for block in self.blocks:
            assert isinstance(block, ConvBlock)
            num_frames = block.output_frames(num_frames)
        return num_frames

    def forward(self, features: Tensor, lengths: Tensor) -> Encoded:
        """(B, T, F) normalised features with zeros in the padding -> states."""
        x = features.unsqueeze(-1)
        for block in self.blocks:
            x, lengths = block(x, lengths)
        x = x.flatten(2).transpose(0, 1).contiguous()
        mask = frame_mask(lengths, len(x)).t().unsqueeze(-1).to(x.dtype)
        x = dropout(self.projection(x) * mask, self.dropout, self.training)
        x = self.rnn(x, lengths, mask)
        for layer in self.dnn:
            x = layer(dropout(x, self.dropout, self.training))
        x = dropout(x, self.dropout, self.training) * mask
        return Encoded(x.transpose(0, 1).contiguous(), lengths)
