"""One hypothesis a row by the attention decoder: the likeliest token, or a drawn one.

Shapes: B rows (of `encoded`), R rows that still write, V vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from kd_ray.core.contracts import Labels
from kd_ray.models.decoding.finite import Watch
from kd_ray.models.decoding.forced import ForcedTokens
from kd_ray.models.encoders import Encoded

if TYPE_CHECKING:
    from kd_ray.models.sequence_model import SequenceModel

_WORTH_DROPPING = 0.5
"""Share of rows that must have ended before the state is copied without them."""

Choose = Callable[[Tensor, int, Tensor], Tensor]
"""(logits (R, V), position, rows (R,)) -> tokens (R,)."""


@torch.no_grad()
def attention_greedy(
    model: "SequenceModel",
    encoded: Encoded,
    max_lengths: Tensor,
    *,
    prefix: Labels | None = None,
) -> list[list[int]]:
    """The decoder's own most likely token at each step, until its end of sentence.

    Args:
        model: in eval mode, unless dropout in decoding is meant.
        encoded: what `model.encode` gave.
        max_lengths: (B,) tokens after which a row stops unfinished. So a row that is as long as
            its limit has not written its end of sentence.
        prefix: tokens that each row has to write first; they are part of the output, and are
            written even beyond the limit. An eos among them ends the row.

    Returns:
        Ids of each row without bos and eos. Blank and bos are never emitted (unless forced). A row
        does not depend on its batch mates; the batch ends when the last row has. Ties go to the
        lowest id.

    Raises:
        NotFinite: logits are NaN or infinite, unless the model is in training or a prefix is
            given: then what is written behind them means nothing.
    """
    return _write(model, encoded, max_lengths, prefix, lambda logits, _, __: logits.argmax(-1))


@torch.no_grad()
def attention_sample(
    model: "SequenceModel",
    encoded: Encoded,
    max_lengths: Tensor,
    *,
    seeds: Sequence[int],
    top_k: int | None = None,
    temperature: float = 1.0,
    prefix: Labels | None = None,
) -> list[list[int]]:
    """Each token drawn from the decoder's distribution, until its end of sentence.

    Args:
        model: in eval mode, unless dropout in decoding is meant.
        encoded: what `model.encode` gave.
        max_lengths: as in `attention_greedy`.
        seeds: one for each row. A row's draws depend on its seed and position alone (one uniform
            number each), never on batch mates, so a rollout can be repeated in another batch.
        top_k: draw among the k likeliest tokens, renormalised; None: among all.
        temperature: logits are divided by it, before the choice of k.
        prefix: as in `attention_greedy`.

    Returns:
        As `attention_greedy`; so are errors.
    """
    if len(seeds) != len(max_lengths):
        raise ValueError(f"{len(max_lengths)} rows need as many seeds, got {len(seeds)}")
    if temperature <= 0 or (top_k is not None and top_k < 1):
        raise ValueError(
            f"temperature must be above 0 and top_k at least 1, got {temperature} and {top_k}"
        )
    draws = _Draws(seeds, encoded.states.device)

    def choose(logits: Tensor, position: int, rows: Tensor) -> Tensor:
        return _inverse_cdf(logits.double() / temperature, draws.at(position)[rows], top_k)

    return _write(model, encoded, max_lengths, prefix, choose)


def _inverse_cdf(logits: Tensor, uniform: Tensor, top_k: int | None) -> Tensor:
    """The token at which the cumulated probability passes `uniform` (R,) in [0, 1)."""
    ids = None
    if top_k is not None and top_k < logits.shape[1]:
        # Sorted by id, so that equal logits in another order give the same draw.
        ids = logits.topk(top_k, dim=1).indices.sort(dim=1).values
        logits = logits.gather(1, ids)
    passed = torch.softmax(logits, dim=1).cumsum(1)
    chosen = (passed <= uniform.unsqueeze(1) * passed[:, -1:]).sum(1, keepdim=True)
    chosen = chosen.clamp(max=logits.shape[1] - 1)
    return (chosen if ids is None else ids.gather(1, chosen)).squeeze(1)


class _Draws:
    """Uniform numbers in [0, 1) for each (row, position), from each row's own generator."""

    _BLOCK = 64

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self.generators = [np.random.Generator(np.random.Philox(seed)) for seed in seeds]
        self.device = device
        self.block = torch.empty(0)

    def at(self, position: int) -> Tensor:
        """(B,) float64; positions must be asked for in order."""
        column = position % self._BLOCK
        if column == 0:
            rows = [generator.random(self._BLOCK) for generator in self.generators]
            self.block = torch.from_numpy(np.stack(rows)).to(self.device)
        return self.block[:, column]


def _write(
    model: "SequenceModel",
    encoded: Encoded,
    max_lengths: Tensor,
    prefix: Labels | None,
    choose: Choose,
) -> list[list[int]]:
    """Step after step until every row has ended or is full."""
    device = encoded.states.device
    count = len(max_lengths)
    rows = torch.arange(count, device=device)
    forced = ForcedTokens(prefix, rows=count, vocabulary_size=model.vocabulary_size, device=device)
    limits = torch.maximum(max_lengths.to(device), forced.lengths)
    longest = int(limits.max()) if count else 0
    if longest == 0:
        return [[] for _ in range(count)]
    written = torch.full((count, longest), model.eos, device=device)
    lengths = limits.clone()
    writes = limits > 0
    tokens = torch.full((count,), model.bos, device=device)
    state = model.begin(encoded)
    watch = Watch(model, prefix)
    for position in range(longest):
        logits, state = model.step(tokens, state)
        watch.look(logits, writes)
        logits[:, [model.blank, model.bos]] = float("-inf")
        tokens = choose(logits, position, rows)
        demand = forced.at(position, rows)
        if demand is not None:
            tokens = torch.where(demand[0], demand[1], tokens)
        written[rows, position] = tokens
        ends = writes & (tokens == model.eos)
        lengths[rows[ends]] = position
        writes = writes & ~ends & (position + 1 < limits[rows])
        left = int(writes.sum())
        if left == 0:
            break
        if left <= _WORTH_DROPPING * len(rows):
            kept = writes.nonzero().squeeze(1)
            state = model.select(state, kept)
            rows, tokens, writes = rows[kept], tokens[kept], writes[kept]
    watch.check()
    return [path[:length] for path, length in zip(written.tolist(), lengths.tolist(), strict=True)]
