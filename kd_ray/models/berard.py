"""The convolutional-recurrent speech translator of Berard et al. (2018, arXiv 1802.04200).

Shapes: B utterances, T frames, F mels, T' encoder states, H_e their features, R decoder rows,
L prefix length, H decoder units, A attention size, V vocabulary.

As fairseq's `s2t_berard`, except that what lies in the padding is masked everywhere: before each
convolution, in both directions of the recurrence, and in the mean that the decoder starts from.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_ray.config.model import BerardDecoder, BerardEncoder
from kd_ray.models.dropout import dropout
from kd_ray.models.encoders import Encoded
from kd_ray.models.masks import frame_mask
from kd_ray.models.recurrence import BidirectionalRnn


class BerardEncoderStack(nn.Module):
    """Tanh layers on each frame, strided 3x3 convolutions, bidirectional LSTM."""

    def __init__(self, config: BerardEncoder, num_mels: int) -> None:
        super().__init__()
        self.dropout = config.dropout
        sizes = [num_mels, *config.input_sizes]
        self.inputs = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(sizes))
        channels = [1, *config.conv_channels]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=2, padding=1) for before, after in pairwise(channels)
        )
        self.rnn = BidirectionalRnn(
            "lstm",
            input_size=channels[-1] * self.output_frames(sizes[-1]),
            size=config.rnn_size,
            num_layers=config.rnn_layers,
            dropout=config.dropout,
        )
        self.output_size = self.rnn.output_size

    @property
    def stride(self) -> int:
        """Feature frames in a state."""
        return 1 << len(self.convolutions)

    def output_frames(self, num_frames: int) -> int:
        """States that come out of so many frames."""
        return -(-num_frames // self.stride)

    def forward(self, features: Tensor, lengths: Tensor) -> Encoded:
        """(B, T, F) normalised features -> states."""
        x = features
        for linear in self.inputs:
            x = torch.tanh(dropout(linear(x), self.dropout, self.training))
        x = x.unsqueeze(1)
        for convolution in self.convolutions:
            own = frame_mask(lengths, x.shape[2])[:, None, :, None]
            x = convolution(x * own)
            lengths = (lengths + 1) // 2
        x = x.permute(2, 0, 1, 3).flatten(2)
        mask = frame_mask(lengths, len(x)).t().unsqueeze(2).to(x.dtype)
        x = self.rnn(x * mask, lengths, mask)
        x = dropout(x, self.dropout, self.training)
        return Encoded(x.transpose(0, 1).contiguous(), lengths)


class BerardState(NamedTuple):
    """Where the last layer is, and what it looks at.

    `hidden`, `cell` (R, H); `values` (R, T', H_e), `keys` (R, T', A), `barrier` (R, T'): 0 on own
    states and -inf in the padding.
    """

    hidden: Tensor
    cell: Tensor
    values: Tensor
    keys: Tensor
    barrier: Tensor


class BerardDecoderStack(nn.Module):
    """LSTM layers one after the other in time as well, attention from the first.

        h_1 = LSTM_1(embedding(y_{i-1}), h_N of step i-1)
        c = sum_t softmax_t(v . tanh(K s_t + Q h_1)) s_t
        h_n = LSTM_n(c, h_{n-1}),  logits = O tanh(R [h_N, c, embedding(y_{i-1})])

    Each layer takes over the state of the layer below, and the first that of the last layer a step
    before; the first state of all is the mean of the encoder's states.
    """

    def __init__(
        self,
        config: BerardDecoder,
        *,
        encoder_size: int,
        vocabulary_size: int,
        share_embeddings: bool,
    ) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(vocabulary_size, config.embedding_size)
        self.start = (
            None
            if encoder_size == config.hidden_size
            else nn.Linear(encoder_size, config.hidden_size)
        )
        """Where the encoder's states have another size than the decoder's."""
        sizes = [config.embedding_size, *[encoder_size] * (config.layers - 1)]
        self.cells = nn.ModuleList(nn.LSTMCell(size, config.hidden_size) for size in sizes)
        self.keys = nn.Linear(encoder_size, config.attention_size)
        self.query = nn.Linear(config.hidden_size, config.attention_size, bias=False)
        self.score = nn.Linear(config.attention_size, 1, bias=False)
        self.readout = nn.Linear(
            config.hidden_size + encoder_size + config.embedding_size, config.output_size
        )
        self.output = None if share_embeddings else nn.Linear(config.output_size, vocabulary_size)

    def begin(self, encoded: Encoded) -> BerardState:
        """Nothing read."""
        states, lengths = encoded
        own = frame_mask(lengths, states.shape[1])
        barrier = torch.zeros_like(states[..., 0]).masked_fill(~own, float("-inf"))
        first = states.sum(1) / lengths.unsqueeze(1)
        if self.start is not None:
            first = self.start(first)
        return BerardState(first, torch.zeros_like(first), states, self.keys(states), barrier)

    def step(self, tokens: Tensor, state: BerardState) -> tuple[Tensor, BerardState]:
        """Tokens (R,) -> logits (R, V)."""
        embedded = self.embedding(tokens)
        context, state = self._move(self._dropped(embedded), state)
        return self._speak(state.hidden, context, embedded), state

    def select(self, state: BerardState, rows: Tensor) -> BerardState:
        """Rows of every tensor."""
        return BerardState(*(tensor[rows] for tensor in state))

    def forward(self, encoded: Encoded, inputs: Tensor) -> Tensor:
        """Teacher forcing: `inputs` (R, L+1) begin with bos; logits (R, L+1, V)."""
        state = self.begin(encoded)
        embedded = self.embedding(inputs)
        tops, contexts = [], []
        for token in self._dropped(embedded).unbind(1):
            context, state = self._move(token, state)
            tops.append(state.hidden)
            contexts.append(context)
        return self._speak(torch.stack(tops, dim=1), torch.stack(contexts, dim=1), embedded)

    def _move(self, token: Tensor, state: BerardState) -> tuple[Tensor, BerardState]:
        """One step: the context (R, H_e) and the state after it."""
        hidden, cell = state.hidden, state.cell
        context: Tensor | None = None
        for layer in self.cells:
            hidden, cell = layer(token if context is None else context, (hidden, cell))
            hidden = self._dropped(hidden)
            if context is None:
                context = self._dropped(self._attend(hidden, state))
        assert context is not None
        return context, state._replace(hidden=hidden, cell=cell)

    def _attend(self, hidden: Tensor, state: BerardState) -> Tensor:
        energy = torch.tanh(state.keys + self.query(hidden).unsqueeze(1))
        alignment = torch.softmax(self.score(energy).squeeze(2) + state.barrier, dim=1)
        return torch.bmm(alignment.unsqueeze(1), state.values).squeeze(1)

    def _speak(self, top: Tensor, context: Tensor, embedded: Tensor) -> Tensor:
        readout = torch.tanh(self.readout(torch.cat([top, context, embedded], dim=-1)))
        readout = self._dropped(readout)
        if self.output is None:
            return F.linear(readout, self.embedding.weight)
        logits: Tensor = self.output(readout)
        return logits

    def _dropped(self, x: Tensor) -> Tensor:
        return dropout(x, self.config.dropout, self.training)
