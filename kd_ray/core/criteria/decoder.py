"""The teachers' part of the attention loss: which target on which prefix, by which divergence.

Shapes: B utterances, R items, A items that teachers scored, U target positions, V vocabulary.
"""

from collections.abc import Callable, Mapping

import numpy as np
from torch import Tensor

from kd_ray.config.imitation import DataTarget, Divergence
from kd_ray.config.teachers import Distillation
from kd_ray.core.contracts import Labels, Signal
from kd_ray.core.criteria.protocol import add_by_utterance, check_items, nothing_yet, take_items
from kd_ray.core.imitation import Items, rows_of
from kd_ray.core.losses import (
    LossSum,
    forward_kl,
    jsd,
    reverse_kl,
    token_cross_entropy,
    token_nll,
    token_tensors,
    with_eos,
)
from kd_ray.core.targets import (
    IntArray,
    TokenTarget,
    likeliest,
    renormalise_top_k,
    take_rows,
)

_DIVERGENCES: Mapping[Divergence, Callable[..., LossSum]] = {
    "cross_entropy": token_cross_entropy,
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jsd": jsd,
}


class DecoderTargets:
    """Sum over items r and their positions u of `kd_weight_r * loss(target_ru, student_ru)`.

    The target of an item is that of its kind of prefix: its own next token (data prefixes only),
    the teacher's likeliest token, or the teacher's distribution, whole or its top k renormalised.
    One token is learned by its negative log-likelihood, without label smoothing; a distribution by
    the divergence. Counted in weighted positions.
    """

    def __init__(self, config: Distillation, *, eos: int, temperature: float) -> None:
        self._data: DataTarget = config.data_target
        self._rollout: DataTarget = config.rollout_target
        self._divergence = _DIVERGENCES[config.divergence]
        self._fusing = config.fusing
        self._soft = "distribution" in config.targets
        self._top_k = config.top_k
        self._temperature = temperature
        self._eos = eos
        self.asks = "distribution" in config.targets or "argmax" in config.targets
        """Whether teachers' distributions are needed at all."""

    def count(self, signal: Signal | None, items: Items | None, references: Labels | None) -> float:
        """Weighted positions of `loss`, known before the forward pass."""
        if items is not None:
            if self.asks:
                _check_signal(_asked_tokens(signal, items), items)
            return float((items.kd_weight * items.positions).sum())
        if self._data == "own":
            return float((_own(references).lengths + 1).sum())
        return float(tokens_of(signal).lengths.sum())

    def loss(
        self,
        logits: Tensor,
        signal: Signal | None,
        items: Items | None,
        references: Labels | None,
        utterances: int,
    ) -> LossSum:
        """The loss, by utterance.

        Args:
            logits: (R, U, V) raw logits of the student.
            signal: teachers' distributions for the A items that were asked about.
            items: None is one item for each utterance, its data prefix.
            references: for their own tokens, where `items` is None.
            utterances: B.
        """
        if items is None:
            self._check_fusing(signal)
            own = _own(references) if self._data == "own" else None
            tokens = None if self._data == "own" else tokens_of(signal)
            return self._of_rows(logits, self._data, tokens, own)
        check_items(logits, items)
        self._check_fusing(signal)
        sums = nothing_yet(logits, utterances)
        for kind in ("own", "argmax", "distribution"):
            rows = self._rows(items, kind)
            if not len(rows):
                continue
            taken = take_items(logits, rows, int(items.positions[rows].max()))
            tokens, prefixes = None, None
            if kind == "own":
                prefixes = rows_of(items.prefix, rows)
            else:
                tokens = _tokens_of_rows(signal, items, rows)
            loss = self._of_rows(taken, kind, tokens, prefixes)
            sums = add_by_utterance(sums, loss.rows, items, rows, items.kd_weight)
        return LossSum(sums.sum(), self.count(signal, items, references), sums)

    def _check_fusing(self, signal: Signal | None) -> None:
        """Distributions of several teachers are fused as the divergence means them."""
        if signal is None or signal.tokens is None or signal.num_teachers <= 1:
            return
        if self._soft and signal.fusing != self._fusing:
            raise ValueError(
                f"the signal holds the {signal.fusing} of {signal.num_teachers} teachers, and "
                f"this divergence is taken from their {self._fusing}; ask the teachers with "
                f"Fusion(fusing={self._fusing!r})"
            )

    def _rows(self, items: Items, kind: DataTarget) -> IntArray:
        """The items whose target is of this kind."""
        of_kind = np.where(items.on_policy, self._rollout == kind, self._data == kind)
        return np.flatnonzero(of_kind & (items.kd_weight > 0))

    def _of_rows(
        self, logits: Tensor, kind: DataTarget, tokens: TokenTarget | None, own: Labels | None
    ) -> LossSum:
        """Loss of rows that share one kind of target."""
        if kind == "own":
            assert own is not None
            return token_nll(logits, with_eos(own, self._eos))
        assert tokens is not None
        if kind == "argmax":
            return token_nll(logits, Labels(likeliest(tokens), tokens.lengths))
        if self._top_k is not None:
            tokens = renormalise_top_k(tokens, self._top_k)
        return self._divergence(
            logits, token_tensors(tokens, logits.device), temperature=self._temperature
        )


def tokens_of(signal: Signal | None) -> TokenTarget:
    """The signal's token distributions.

    Raises:
        ValueError: if it has none.
    """
    if signal is None or signal.tokens is None:
        raise ValueError(MISSING.format(what="token distributions", wanted="tokens"))
    return signal.tokens


def _own(references: Labels | None) -> Labels:
    if references is None:
        raise ValueError(
            "data_target 'own' learns the references' tokens, and this batch has no references"
        )
    return references


def _asked_tokens(signal: Signal | None, items: Items) -> TokenTarget | None:
    """Distributions of the asked items; None where teachers were asked about no item."""
    return tokens_of(signal) if items.asked.any() else None


def _check_signal(tokens: TokenTarget | None, items: Items) -> None:
    """Teachers scored exactly the asked items, along the same prefixes."""
    if tokens is None:
        return
    rows = items.asked_rows
    if len(tokens.lengths) != len(rows):
        raise ValueError(
            f"the signal has {len(tokens.lengths)} rows, but teachers should have been asked about "
            f"{len(rows)} of {len(items)} items; ask them with `items.asked_prefix()`"
        )
    wrong = np.flatnonzero(np.asarray(tokens.lengths) != items.positions[rows])
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(
            f"item {int(rows[row])}: teachers scored {tokens.lengths[row]} positions, its prefix "
            f"and end symbol have {items.positions[rows[row]]}; ask them with "
            "`items.asked_prefix()`"
        )


def _tokens_of_rows(signal: Signal | None, items: Items, rows: IntArray) -> TokenTarget:
    """Distributions of some items.

    Raises:
        ValueError: if teachers were not asked about one of them.
    """
    if not items.asked[rows].all():
        item = int(rows[~items.asked[rows]][0])
        raise ValueError(
            f"item {item} learns from teachers, who were not asked about it; plan items with "
            "ask_on_data=True unless data_target is 'own'"
        )
    tokens = tokens_of(signal)
    places = np.searchsorted(items.asked_rows, rows)
    return tokens if len(places) == len(tokens.lengths) else take_rows(tokens, places)


MISSING = (
    "the signal holds no {what}, which this criterion learns from; ask the teachers for "
    "{wanted!r} (`criterion.wanted`)"
)
