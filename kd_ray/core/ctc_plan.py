"""Which label strings take part in a CTC loss, and with what weight: known before any forward pass.

Shapes: B utterances, S label strings.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from kd_ray.core.contracts import Labels
from kd_ray.core.targets import FloatArray, IntArray, LabelStrings

Reduction = Literal["per_utterance", "per_label"]
EmptyStrings = Literal["skip", "keep"]
TooLong = Literal["drop", "zero"]


@dataclass(frozen=True, eq=False)
class CtcPlan:
    """The strings that are scored, and the bookkeeping of those that are not.

    `labels` (sum of lengths,) end to end, `lengths` (S,), `utterance` (S,); `factors` (S,) is what
    each negative log-likelihood is multiplied by. `count` is what the weighted sum is divided by.
    """

    labels: IntArray
    lengths: IntArray
    utterance: IntArray
    factors: FloatArray
    count: float
    dropped_too_long: int
    """Strings that need more frames than the student has."""
    skipped_empty: int
    """Empty strings that were skipped."""

    def check_ids(self, blank: int, vocabulary: int) -> None:
        """Refuse strings that CTC would misread.

        Raises:
            ValueError: naming the utterance and the id.
        """
        wrong = (self.labels == blank) | (self.labels < 0) | (self.labels >= vocabulary)
        if wrong.any():
            place = int(wrong.argmax())
            row = int(np.repeat(self.utterance, self.lengths)[place])
            raise ValueError(
                f"label string of row {row} holds the id {self.labels[place]}: labels must be in "
                f"0..{vocabulary - 1} and not the blank ({blank}); do all use the same tokens?"
            )


def frames_needed(labels: IntArray, lengths: IntArray) -> IntArray:
    """Fewest frames that can carry each string: its labels, and a blank between equal neighbours.

    Args:
        labels: (S, L) padded with anything.
        lengths: (S,).
    """
    inside = np.arange(1, max(1, labels.shape[1])) < lengths[:, None]
    repeats = (labels[:, 1:] == labels[:, :-1]) & inside
    return np.asarray(lengths + repeats.sum(axis=1))


def plan_ctc(
    strings: LabelStrings,
    frames: IntArray,
    *,
    reduction: Reduction,
    empty: EmptyStrings,
    too_long: TooLong,
) -> CtcPlan:
    """Choose strings and weights; the count is exactly that of `ctc_on_strings`.

    A string that needs more frames than its utterance has is left out. With `drop` it is as if it
    had not been there: the other strings of the utterance take over its weight, and an utterance
    left without any string is not counted. With `zero` it contributes zero: it keeps its weight,
    and its utterance (or its labels) are counted. An utterance of no frames has no feasible
    string. Empty strings are skipped, like `drop`, or kept.

    Args:
        strings: label strings with weights.
        frames: (B,) the student's encoder frames.
        reduction: `per_utterance` divides each string's loss by its labels (at least 1) and counts
            utterances with any weight; `per_label` counts weighted labels (at least 1 a string).
        empty: what becomes of empty strings.
        too_long: what becomes of strings that are too long.
    """
    frames = np.asarray(frames)
    lengths = np.asarray(strings.lengths)
    utterance = np.asarray(strings.utterance)
    weights = np.asarray(strings.weights, dtype=np.float64)
    available = frames[utterance]
    infeasible = (frames_needed(strings.labels, lengths) > available) | (available <= 0)
    is_empty = (lengths == 0) & (empty == "skip")
    gone = is_empty | (infeasible & (too_long == "drop"))
    before = np.bincount(utterance, weights, minlength=len(frames))
    weights = np.where(gone, 0.0, weights)
    after = np.bincount(utterance, weights, minlength=len(frames))
    lost = (after != before) & (after > 0)
    weights = weights * np.where(lost, before / np.where(lost, after, 1.0), 1.0)[utterance]
    sizes = np.maximum(lengths, 1)
    if reduction == "per_utterance":
        factors, count = weights / sizes, float((after > 0).sum())
    else:
        factors, count = weights, float((weights * sizes).sum())
    scored = np.flatnonzero((weights > 0) & ~infeasible)
    inside = np.arange(strings.labels.shape[1]) < lengths[scored, None]
    return CtcPlan(
        labels=np.asarray(strings.labels)[scored][inside].astype(np.int64),
        lengths=lengths[scored].astype(np.int64),
        utterance=utterance[scored].astype(np.int64),
        factors=factors[scored],
        count=count,
        dropped_too_long=int((infeasible & ~is_empty).sum()),
        skipped_empty=int(is_empty.sum()),
    )


def reference_strings(references: Labels) -> LabelStrings:
    """References as label strings of weight 1; rows of length -1 have none."""
    present = np.flatnonzero(np.asarray(references.lengths) >= 0)
    return LabelStrings(
        labels=references.ids[present],
        lengths=references.lengths[present],
        utterance=present.astype(np.int64),
        weights=np.ones(len(present)),
        dropped_weight=np.zeros(len(references.lengths)),
    )
