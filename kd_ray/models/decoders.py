"""Recurrent decoder with location-aware attention (Chorowski et al. 2015, arXiv 1506.07503).

Shapes: B utterances, T encoder frames, H_e encoder features, L prefix length, V vocabulary,
H decoder units, A attention size, C location channels.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_ray.config.model import LocationDecoder
from kd_ray.models.attention_loop import LoopInputs, attention_loop
from kd_ray.models.dropout import dropout
from kd_ray.models.encoders import Encoded
from kd_ray.models.masks import frame_mask


class Memory(NamedTuple):
    """What the decoder looks at: the same at every step.

    `values` (B, T, H_e), `keys` (B, T, A), `barrier` (B, T): 0 on own frames, -inf in the padding;
    `location` (A, K): the location kernels and their projection in one.
    """

    values: Tensor
    keys: Tensor
    barrier: Tensor
    location: Tensor


class DecoderState(NamedTuple):
    """What a step passes on: `hidden`, `cell` (B, H), `context` (B, H_e), `alignment` (B, T)."""

    hidden: Tensor
    cell: Tensor
    context: Tensor
    alignment: Tensor


class LocationAttentionDecoder(nn.Module):
    """Token by token: read the last token and context, move on, look at the states, speak.

        h_i = cell([embedding(y_{i-1}), context_{i-1}], h_{i-1})
        e_it = v . sigmoid(K s_t + Q h_i + U F alignment_{i-1}[t - k/2 : t + k/2 + 1])
        alignment_i = softmax_t(e_i)
        context_i = sum_t alignment_it s_t,  logits_i = O relu(R [h_i, context_i])

    The alignment before the first step is the first frame. The sigmoid is the paper's tanh in
    other words, v . tanh(x) = 2 v . sigmoid(2 x) - const, where the softmax ignores the constant;
    it takes a quarter of tanh's time on a CPU.
    """

    def __init__(self, config: LocationDecoder, *, encoder_size: int, vocabulary_size: int) -> None:
        super().__init__()
        self.config = config
        hidden, attention = config.hidden_size, config.attention_size
        gates = (3 if config.cell == "gru" else 4) * hidden
        self.embedding = nn.Embedding(vocabulary_size, config.embedding_size)
        self.token_gates = nn.Linear(config.embedding_size, gates)
        self.context_gates = nn.Linear(encoder_size, gates, bias=False)
        self.hidden_gates = nn.Linear(hidden, gates)
        self.keys = nn.Linear(encoder_size, attention)
        self.query = nn.Linear(hidden, attention, bias=False)
        self.location = nn.Linear(config.location_kernel, config.location_channels, bias=False)
        self.location_keys = nn.Linear(config.location_channels, attention, bias=False)
        self.score = nn.Linear(attention, 1, bias=False)
        self.readout = nn.Linear(hidden + encoder_size, hidden)
        self.output = nn.Linear(hidden, vocabulary_size)

    def memory(self, encoded: Encoded) -> Memory:
        """What does not change from step to step."""
        states, lengths = encoded
        mask = frame_mask(lengths, states.shape[1])
        barrier = torch.zeros_like(states[..., 0]).masked_fill(~mask, float("-inf"))
        location = self.location_keys.weight @ self.location.weight
        return Memory(states, self.keys(states), barrier, location)

    def initial_state(self, memory: Memory) -> DecoderState:
        """Before the first token."""
        values = memory.values
        zeros = values.new_zeros(len(values), self.config.hidden_size)
        alignment = values.new_zeros(values.shape[:2])
        alignment[:, 0] = 1
        return DecoderState(zeros, zeros, torch.zeros_like(values[:, 0]), alignment)

    def read(self, tokens: Tensor) -> Tensor:
        """Tokens (...,) int64 -> their part of the cell's gates (..., G*H)."""
        embedded = dropout(self.embedding(tokens), self.config.dropout, self.training)
        gates: Tensor = self.token_gates(embedded)
        return gates

    def step(self, token_gates: Tensor, state: DecoderState, memory: Memory) -> DecoderState:
        """One step: `token_gates` (B, G*H) is what `read` said of the last token."""
        inputs = token_gates + self.context_gates(state.context)
        hidden, cell = self._cell(inputs, self.hidden_gates(state.hidden), state)
        width = self.config.location_kernel
        seen = F.pad(state.alignment, (width // 2, width // 2)).unfold(1, width, 1)
        location = F.linear(seen, memory.location)
        energy = memory.keys + self.query(hidden).unsqueeze(1) + location
        scores = self.score(torch.sigmoid(energy)).squeeze(-1)
        alignment = torch.softmax(scores + memory.barrier, dim=-1)
        context = torch.bmm(alignment.unsqueeze(1), memory.values).squeeze(1)
        return DecoderState(hidden, cell, context, alignment)

    def _cell(
        self, inputs: Tensor, recurrent: Tensor, state: DecoderState
    ) -> tuple[Tensor, Tensor]:
        size = self.config.hidden_size
        if self.config.cell == "gru":
            gates = torch.sigmoid(inputs[:, : 2 * size] + recurrent[:, : 2 * size])
            reset, update = gates[:, :size], gates[:, size:]
            candidate = torch.tanh(inputs[:, 2 * size :] + reset * recurrent[:, 2 * size :])
            return torch.lerp(candidate, state.hidden, update), state.cell
        entry, forget, candidate, output = (inputs + recurrent).chunk(4, dim=1)
        cell = torch.sigmoid(forget) * state.cell + torch.sigmoid(entry) * torch.tanh(candidate)
        return torch.sigmoid(output) * torch.tanh(cell), cell

    def logits(self, hidden: Tensor, context: Tensor) -> Tensor:
        """Hidden (..., H) and context (..., H_e) after a step -> (..., V)."""
        readout = F.relu(self.readout(torch.cat([hidden, context], dim=-1)))
        logits: Tensor = self.output(dropout(readout, self.config.dropout, self.training))
        return logits

    def forward(self, encoded: Encoded, inputs: Tensor) -> Tensor:
        """Teacher forcing: `inputs` (B, L+1) begin with bos; logits (B, L+1, V)."""
        memory = self.memory(encoded)
        state = self.initial_state(memory)
        if self.config.cell == "gru":
            return self.logits(*self._loop(inputs, state, memory))
        hidden, contexts = [], []
        for token_gates in self.read(inputs.t()):
            state = self.step(token_gates, state, memory)
            hidden.append(state.hidden)
            contexts.append(state.context)
        return self.logits(torch.stack(hidden, dim=1), torch.stack(contexts, dim=1))

    def _loop(self, inputs: Tensor, state: DecoderState, memory: Memory) -> tuple[Tensor, Tensor]:
        hidden, contexts = attention_loop(
            LoopInputs(
                token_gates=self.read(inputs.t()),
                values=memory.values,
                keys=memory.keys,
                barrier=memory.barrier,
                first=state.alignment,
                context_gates=self.context_gates.weight,
                hidden_gates=self.hidden_gates.weight,
                hidden_bias=self.hidden_gates.bias,
                query=self.query.weight,
                location=memory.location,
                score=self.score.weight.squeeze(0),
            )
        )
        return hidden.transpose(0, 1), contexts.transpose(0, 1)
