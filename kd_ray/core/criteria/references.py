"""The references' part of every criterion, and the criterion that has no other.

Shapes: B utterances, R items, T student frames, U target positions, V vocabulary.
"""

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from kd_ray.config.training import Supervised
from kd_ray.core.contracts import Labels, Signal, Wanted
from kd_ray.core.criteria.protocol import (
    Part,
    add_by_utterance,
    check_items,
    head,
    nothing_yet,
    take_items,
    weighted_means,
)
from kd_ray.core.ctc_plan import EmptyStrings, Reduction, TooLong, plan_ctc, reference_strings
from kd_ray.core.imitation import Items, rows_of
from kd_ray.core.losses import LossSum, ctc_on_strings, token_nll, with_eos
from kd_ray.core.targets import IntArray


class SupervisedCriterion:
    """References alone: `ctc_weight * CTC + (1 - ctc_weight) * NLL`; see `Criterion`.

    CTC is the mean over utterances of NLL / labels; a reference too long for its frames is dropped
    and counted. NLL is the mean over labels and end symbols, smoothed.
    """

    wanted: frozenset[Wanted] = frozenset()

    def __init__(self, config: Supervised, *, blank: int, eos: int) -> None:
        self._references = References(
            blank, eos, config.label_smoothing, "per_utterance", "skip", "drop"
        )
        weights: dict[Part, float] = {
            "sup_ctc": config.ctc_weight,
            "sup_att": 1.0 - config.ctc_weight,
        }
        self.weights: Mapping[Part, float] = {
            part: weight for part, weight in weights.items() if weight > 0
        }

    def counts(
        self,
        *,
        references: Labels | None,
        signal: Signal | None = None,
        frames: IntArray,
        items: Items | None = None,
    ) -> dict[Part, float]:
        """See `Criterion`; `signal` is not read."""
        return self._references.counts(self.weights, references, frames, items)

    def losses(
        self,
        *,
        ctc_logits: Tensor | None,
        frames: IntArray,
        decoder_logits: Tensor | None,
        references: Labels | None,
        signal: Signal | None = None,
        items: Items | None = None,
    ) -> dict[str, LossSum]:
        """See `Criterion`; `signal` is not read."""
        return self._references.losses(
            self.weights, ctc_logits, frames, decoder_logits, references, items
        )

    def total(
        self,
        losses: Mapping[str, LossSum],
        counts: Mapping[Part, float],
        *,
        alpha: float | None = None,
    ) -> Tensor:
        """See `Criterion`; `alpha` is not read: nobody shares the loss."""
        return weighted_means(self.weights, losses, counts)


class References:
    """The supervised parts, which all criteria share."""

    def __init__(
        self,
        blank: int,
        eos: int,
        label_smoothing: float,
        reduction: Reduction,
        empty: EmptyStrings,
        too_long: TooLong,
    ) -> None:
        self._blank = blank
        self._eos = eos
        self._label_smoothing = label_smoothing
        self._reduction: Reduction = reduction
        self._empty: EmptyStrings = empty
        self._too_long: TooLong = too_long

    def counts(
        self,
        weights: Mapping[Part, float],
        references: Labels | None,
        frames: IntArray,
        items: Items | None = None,
    ) -> dict[Part, float]:
        """Counts of the supervised parts among `weights`."""
        references = references or _no_references(len(frames))
        counts: dict[Part, float] = {}
        if "sup_ctc" in weights:
            plan = plan_ctc(
                reference_strings(references),
                frames,
                reduction=self._reduction,
                empty=self._empty,
                too_long=self._too_long,
            )
            counts["sup_ctc"] = plan.count
        if "sup_att" in weights:
            if items is None:
                counts["sup_att"] = float((np.asarray(references.lengths) + 1).sum())
            else:
                counts["sup_att"] = _gold_count(items, references)
        return counts

    def losses(
        self,
        weights: Mapping[Part, float],
        ctc_logits: Tensor | None,
        frames: IntArray,
        decoder_logits: Tensor | None,
        references: Labels | None,
        items: Items | None = None,
    ) -> dict[str, LossSum]:
        """The supervised parts among `weights`."""
        references = references or _no_references(len(frames))
        losses: dict[str, LossSum] = {}
        if "sup_ctc" in weights:
            losses["sup_ctc"] = ctc_on_strings(
                head(ctc_logits, "CTC"),
                frames,
                reference_strings(references),
                blank=self._blank,
                reduction=self._reduction,
                empty=self._empty,
                too_long=self._too_long,
            )
        if "sup_att" in weights:
            logits = head(decoder_logits, "decoder")
            if items is None:
                losses["sup_att"] = token_nll(
                    logits,
                    with_eos(references, self._eos),
                    label_smoothing=self._label_smoothing,
                )
            else:
                losses["sup_att"] = self._gold_items(logits, items, references)
        return losses

    def _gold_items(self, logits: Tensor, items: Items, references: Labels) -> LossSum:
        """Weighted NLL of the items whose prefix is a reference."""
        check_items(logits, items)
        count = _gold_count(items, references)
        rows = np.flatnonzero(items.gold_weight > 0)
        sums = nothing_yet(logits, len(references.lengths))
        if len(rows):
            labels = with_eos(rows_of(items.prefix, rows), self._eos)
            taken = take_items(logits, rows, labels.ids.shape[1])
            nll = token_nll(taken, labels, label_smoothing=self._label_smoothing)
            sums = add_by_utterance(sums, nll.rows, items, rows, items.gold_weight)
        return LossSum(sums.sum(), count, sums)


def _gold_count(items: Items, references: Labels) -> float:
    """Weighted labels and end symbols of gold items.

    Raises:
        ValueError: if an utterance has a reference but no gold item.
    """
    gold = items.gold_weight > 0
    labelled = np.flatnonzero(np.asarray(references.lengths) >= 0)
    missing = np.setdiff1d(labelled, items.utterance[gold])
    if len(missing):
        raise ValueError(
            f"references have a share in this loss, but row {int(missing[0])} has no item with "
            "its reference as prefix; plan items with learns_gold=True, or set gold_weight to 0"
        )
    return float((items.gold_weight * items.positions).sum())


def _no_references(rows: int) -> Labels:
    return Labels(np.zeros((rows, 0), dtype=np.int64), np.full(rows, -1))
