"""Beam search over an attention decoder.

Shapes: B rows (of `encoded`), A rows that still search, k beam, V vocabulary.
"""

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from kd_ray.core.contracts import Labels
from kd_ray.models.decoding.finite import Watch
from kd_ray.models.decoding.forced import ForcedTokens
from kd_ray.models.encoders import Encoded

if TYPE_CHECKING:
    from kd_ray.models.sequence_model import SequenceModel

_NEVER = float("-inf")


class BeamHypothesis(NamedTuple):
    """One way to end.

    `tokens` without bos and eos; `score`: `log_probability` / (number of tokens, eos included) **
    length_penalty; `log_probability`: natural log, eos included (forced at the limit).
    """

    tokens: list[int]
    score: float
    log_probability: float


@torch.no_grad()
def attention_beam(
    model: "SequenceModel",
    encoded: Encoded,
    max_lengths: Tensor,
    *,
    beam_size: int = 5,
    length_penalty: float = 1.0,
    prefix: Labels | None = None,
) -> list[list[BeamHypothesis]]:
    """The `beam_size` best hypotheses found for each row, best first.

    As fairseq's generator: at each step the 2 k likeliest continuations of k hypotheses are
    looked at. Those that end and are among the k likeliest are set aside, the k likeliest others
    go on. At its limit all hypotheses of a row must end. Before, it stops when k are set aside and
    none that goes on has a better score (by its length so far) than the best of them; fairseq stops
    at k, even where k unlikely ones were set aside while the likeliest still goes on. Beam 1 is
    greedy decoding.

    Args:
        model: in eval mode.
        encoded: what `model.encode` gave.
        max_lengths: (B,) tokens, eos not counted, after which a hypothesis has to end.
        beam_size: k.
        length_penalty: exponent of the length that log-probabilities are divided by; above 1
            favours long output, 0 is the plain log-probability.
        prefix: tokens with which every hypothesis of a row begins; part of output, score and
            length, and written even beyond the limit. An eos among them ends the row.

    Returns:
        For each row at least one and at most k hypotheses. Blank and bos are never emitted (unless
        forced). A row does not depend on its batch mates.

    Raises:
        NotFinite: logits are NaN or infinite, unless the model is in training or a prefix is
            given: then a row that finds nothing has its prefix as a hypothesis of score NaN.
    """
    if beam_size < 1:
        raise ValueError(f"beam_size must be at least 1, got {beam_size}")
    if not len(max_lengths):
        return []
    search = _Search(model, encoded, max_lengths, beam_size, length_penalty, prefix)
    position = 0
    while search.rows.numel():
        search.advance(position)
        position += 1
    search.watch.check()
    return [
        # Stable, so that equal scores keep the order in which they were found.
        sorted(found or [search.nothing(row)], key=lambda hypothesis: -hypothesis.score)[:beam_size]
        for row, found in enumerate(search.found)
    ]


class _Search:
    """The hypotheses of all rows, side by side: k neighbouring decoder rows for each."""

    def __init__(
        self,
        model: "SequenceModel",
        encoded: Encoded,
        max_lengths: Tensor,
        beam_size: int,
        length_penalty: float,
        prefix: Labels | None,
    ) -> None:
        device = encoded.states.device
        count = len(max_lengths)
        self.model = model
        self.watch = Watch(model, prefix)
        self.beam = beam_size
        self.length_penalty = length_penalty
        self.found: list[list[BeamHypothesis]] = [[] for _ in range(count)]
        self.forced = ForcedTokens(
            prefix, rows=count, vocabulary_size=model.vocabulary_size, device=device
        )
        self.limits = torch.maximum(max_lengths.to(device), self.forced.lengths)
        self.rows = torch.arange(count, device=device)
        """(A,) which row each beam belongs to."""
        self.scores = torch.full((count, beam_size), _NEVER, device=device)
        """(A, k) log-probability of each hypothesis; at first all but one do not exist."""
        self.scores[:, :1] = 0
        self.written = torch.zeros(count * beam_size, 0, dtype=torch.int64, device=device)
        self.tokens = torch.full((count * beam_size,), model.bos, device=device)
        self.state = model.select(model.begin(encoded), self.rows.repeat_interleave(beam_size))

    def advance(self, position: int) -> None:
        """One more token for every hypothesis."""
        logits, state = self.model.step(self.tokens, self.state)
        self.watch.look(logits)
        vocabulary = logits.shape[1]
        log_probs = self._allowed(torch.log_softmax(logits.float(), dim=1), position)
        totals = self.scores.unsqueeze(2) + log_probs.view(len(self.rows), self.beam, vocabulary)
        # Each hypothesis ends in one way only, so at least k of these 2 k go on.
        best, flat = totals.flatten(1).topk(2 * self.beam, dim=1)
        tokens, parents = flat % vocabulary, flat // vocabulary
        ends = tokens == self.model.eos
        self._set_aside(best, parents, ends, position)

        # The k likeliest that go on come first, in their order.
        best = best.masked_fill(ends, _NEVER)
        going = ends.long().argsort(dim=1, stable=True)[:, : self.beam]
        self.scores = best.gather(1, going)
        alive = (self.scores > _NEVER).any(1) & (position < self.limits[self.rows])
        done = torch.tensor(self._done(position), device=alive.device)
        kept = (alive & ~done).nonzero().squeeze(1)

        offsets = torch.arange(len(self.rows), device=kept.device).unsqueeze(1) * self.beam
        sources = (offsets + parents.gather(1, going))[kept].flatten()
        self.tokens = tokens.gather(1, going)[kept].flatten()
        self.scores, self.rows = self.scores[kept], self.rows[kept]
        self.written = torch.cat([self.written[sources], self.tokens.unsqueeze(1)], dim=1)
        unmoved = torch.arange(len(logits), device=sources.device)
        self.state = state if torch.equal(sources, unmoved) else self.model.select(state, sources)

    def nothing(self, row: int) -> BeamHypothesis:
        """What is left of a row whose log-probabilities became NaN before a hypothesis ended."""
        forced = self.forced.ids[row, : int(self.forced.lengths[row])].tolist()
        tokens = forced[: forced.index(self.model.eos)] if self.model.eos in forced else forced
        return BeamHypothesis(tokens, math.nan, math.nan)

    def _allowed(self, log_probs: Tensor, position: int) -> Tensor:
        """Log-probabilities (A*k, V), -inf where a token may not be written here."""
        model = self.model
        allowed = log_probs.clone()
        allowed[:, [model.blank, model.bos]] = _NEVER
        owners = self.rows.repeat_interleave(self.beam)
        must_end = position >= self.limits[owners]
        only = torch.where(must_end, model.eos, -1)
        demand = self.forced.at(position, owners)
        if demand is not None:
            only = torch.where(demand[0], demand[1], only)
        one = only.clamp(min=0).unsqueeze(1)
        forced = torch.full_like(log_probs, _NEVER).scatter(1, one, log_probs.gather(1, one))
        return torch.where((only >= 0).unsqueeze(1), forced, allowed)

    def _set_aside(self, best: Tensor, parents: Tensor, ends: Tensor, position: int) -> None:
        """Keep the ended hypotheses among the k likeliest of each row."""
        finished = ends[:, : self.beam] & (best[:, : self.beam] > _NEVER)
        index, place = finished.nonzero(as_tuple=True)
        if not len(index):
            return
        tokens = self.written[index * self.beam + parents[index, place]]
        penalty = (position + 1) ** self.length_penalty
        for row, string, total in zip(
            self.rows[index].tolist(), tokens.tolist(), best[index, place].tolist(), strict=True
        ):
            self.found[row].append(BeamHypothesis(string, total / penalty, total))

    def _done(self, position: int) -> list[bool]:
        """For each row: k hypotheses are set aside, and the best of them is not beaten."""
        best = (self.scores[:, 0] / (position + 1) ** self.length_penalty).tolist()
        return [
            len(self.found[row]) >= self.beam
            and score <= max(hypothesis.score for hypothesis in self.found[row])
            for row, score in zip(self.rows.tolist(), best, strict=True)
        ]
