"""What a student learns from: references alone, or teachers' signals and references.

A criterion is a weighted sum of parts. Each part has its own count, known before the forward pass,
so that the loop can add counts over all micro-batches and ranks and divide once:

    counts = all_reduce(criterion.counts(references=..., signal=..., frames=...))
    loss = criterion.total(criterion.losses(...), counts)

Shapes: B utterances, T student frames, U target positions, V vocabulary.
"""

from collections.abc import Mapping
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_ray.config.teachers import Distillation
from kd_ray.config.training import Supervised
from kd_ray.core.contracts import Labels, Signal, Wanted
from kd_ray.core.ctc_plan import EmptyStrings, Reduction, TooLong, plan_ctc, reference_strings
from kd_ray.core.losses import (
    LossSum,
    ctc_on_strings,
    token_cross_entropy,
    token_nll,
    token_tensors,
    with_eos,
)
from kd_ray.core.targets import IntArray, LabelStrings, TokenTarget

Part = Literal["kd_ctc", "kd_att", "sup_ctc", "sup_att"]
"""Teachers' or reference's part, of the CTC or the attention head."""


class Criterion(Protocol):
    """What the loop needs of a criterion.

    `references`: one row for each utterance; a row of length -1 has no reference, and None means
    that no row has. `frames` (B,): the student's encoder frames, as an array on the host.
    """

    weights: Mapping[Part, float]
    """Parts that take part, with what their means are multiplied by. Fixed for the run."""
    wanted: frozenset[Wanted]
    """What to ask teachers for; empty where none is needed."""

    def counts(
        self, *, references: Labels | None, signal: Signal | None, frames: IntArray
    ) -> dict[Part, float]:
        """What each part of `losses` will count; always the same keys, whatever the batch."""
        ...

    def losses(
        self,
        *,
        ctc_logits: Tensor | None,
        frames: IntArray,
        decoder_logits: Tensor | None,
        references: Labels | None,
        signal: Signal | None,
    ) -> dict[str, LossSum]:
        """The parts, as sums. Logits (B, T, V) and (B, U, V) may be None for an unused head."""
        ...

    def total(self, losses: Mapping[str, LossSum], counts: Mapping[Part, float]) -> Tensor:
        """The weighted sum of `losses`, each divided by its (global) count."""
        ...


class SupervisedCriterion:
    """References alone: `ctc_weight * CTC + (1 - ctc_weight) * NLL`; see `Criterion`.

    CTC is the mean over utterances of NLL / labels; a reference too long for its frames is dropped
    and counted. NLL is the mean over labels and end symbols, smoothed.
    """

    wanted: frozenset[Wanted] = frozenset()

    def __init__(self, config: Supervised, *, blank: int, eos: int) -> None:
        self._references = _References(
            blank, eos, config.label_smoothing, "per_utterance", "skip", "drop"
        )
        self.weights = _positive({"sup_ctc": config.ctc_weight, "sup_att": 1.0 - config.ctc_weight})

    def counts(
        self, *, references: Labels | None, signal: Signal | None = None, frames: IntArray
    ) -> dict[Part, float]:
        """See `Criterion`; `signal` is not read."""
        return self._references.counts(self.weights, references, frames)

    def losses(
        self,
        *,
        ctc_logits: Tensor | None,
        frames: IntArray,
        decoder_logits: Tensor | None,
        references: Labels | None,
        signal: Signal | None = None,
    ) -> dict[str, LossSum]:
        """See `Criterion`; `signal` is not read."""
        return self._references.losses(self.weights, ctc_logits, frames, decoder_logits, references)

    def total(self, losses: Mapping[str, LossSum], counts: Mapping[Part, float]) -> Tensor:
        """See `Criterion`."""
        return _total(self.weights, losses, counts)


class DistillationCriterion:
    """Teachers' signals and references; see `Criterion`.

    `L = ctc_weight * L_ctc + (1 - ctc_weight) * L_att`, with
    `L_ctc = alpha * KD_ctc + (1 - alpha) * CTC` and
    `L_att = alpha * tau^2 * KD_att + (1 - alpha) * NLL`, where KD_att softens the student by tau,
    as the teachers were. A row without a reference has alpha = 1: its KD is multiplied by 1 instead
    of alpha, which `losses` shows as parts `kd_ctc_unlabelled`, `kd_att_unlabelled` (KD of those
    rows, weighed by 1 - alpha and divided by the counts of `kd_ctc`, `kd_att`). With alpha = 0
    there is no KD at all, and such rows teach nothing.

    `compatibility: reference` repeats the SpeechBrain TIMIT recipe (Gao et al. 2020): the student
    is not softened, tau^2 multiplies both heads, empty strings are trained on, strings too long
    contribute zero.
    """

    def __init__(self, config: Distillation, *, blank: int, eos: int) -> None:
        reference = config.compatibility == "reference"
        self._empty: EmptyStrings = "keep" if reference else config.empty_strings
        self._too_long: TooLong = "zero" if reference else "drop"
        self._reduction: Reduction = "per_utterance" if reference else config.ctc_reduction
        self._student_temperature = 1.0 if reference else config.temperature
        self._blank = blank
        self._alpha = config.alpha
        self._references = _References(
            blank, eos, config.label_smoothing, self._reduction, self._empty, self._too_long
        )
        ctc, attention = config.ctc_weight, 1.0 - config.ctc_weight
        squared = config.temperature**2
        self.weights = _positive(
            {
                "kd_ctc": ctc * config.alpha * (squared if reference else 1.0),
                "kd_att": attention * config.alpha * squared,
                "sup_ctc": ctc * (1.0 - config.alpha),
                "sup_att": attention * (1.0 - config.alpha),
            }
        )
        wanted: set[Wanted] = set()
        if "kd_ctc" in self.weights:
            wanted.add("labels")
        if "kd_att" in self.weights:
            wanted.add("tokens")
        self.wanted = frozenset(wanted)

    def counts(
        self, *, references: Labels | None, signal: Signal | None, frames: IntArray
    ) -> dict[Part, float]:
        """See `Criterion`."""
        counts = self._references.counts(self.weights, references, frames)
        if "kd_ctc" in self.weights:
            plan = plan_ctc(
                _labels(signal),
                frames,
                reduction=self._reduction,
                empty=self._empty,
                too_long=self._too_long,
            )
            counts["kd_ctc"] = plan.count
        if "kd_att" in self.weights:
            counts["kd_att"] = float(_tokens(signal).lengths.sum())
        return counts

    def losses(
        self,
        *,
        ctc_logits: Tensor | None,
        frames: IntArray,
        decoder_logits: Tensor | None,
        references: Labels | None,
        signal: Signal | None,
    ) -> dict[str, LossSum]:
        """See `Criterion`."""
        losses = self._references.losses(
            self.weights, ctc_logits, frames, decoder_logits, references
        )
        if "kd_ctc" in self.weights:
            losses["kd_ctc"] = ctc_on_strings(
                _head(ctc_logits, "CTC"),
                frames,
                _labels(signal),
                blank=self._blank,
                reduction=self._reduction,
                empty=self._empty,
                too_long=self._too_long,
            )
        if "kd_att" in self.weights:
            tokens, logits = _tokens(signal), _head(decoder_logits, "decoder")
            if "sup_att" in self.weights:
                _same_prefix(tokens, references)
            losses["kd_att"] = token_cross_entropy(
                logits, token_tensors(tokens, logits.device), temperature=self._student_temperature
            )
        unlabelled = _unlabelled(references, len(frames))
        if self._alpha < 1.0 and unlabelled.any():
            for part in ("kd_ctc", "kd_att"):
                if part in losses:
                    rows = losses[part].rows
                    sums = rows * torch.tensor(unlabelled, device=rows.device, dtype=rows.dtype)
                    losses[f"{part}_unlabelled"] = LossSum(sums.sum(), losses[part].count, sums)
        return losses

    def total(self, losses: Mapping[str, LossSum], counts: Mapping[Part, float]) -> Tensor:
        """See `Criterion`."""
        total = _total(self.weights, losses, counts)
        for part in ("kd_ctc", "kd_att"):
            more = losses.get(f"{part}_unlabelled")
            if more is not None:
                # From alpha up to 1: factor * alpha + factor * (1 - alpha).
                factor = self.weights[part] * (1.0 - self._alpha) / self._alpha
                total = total + factor * more.sum / (counts[part] or 1.0)
        return total


class _References:
    """The supervised parts, which both criteria share."""

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
        self, weights: Mapping[Part, float], references: Labels | None, frames: IntArray
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
            counts["sup_att"] = float((np.asarray(references.lengths) + 1).sum())
        return counts

    def losses(
        self,
        weights: Mapping[Part, float],
        ctc_logits: Tensor | None,
        frames: IntArray,
        decoder_logits: Tensor | None,
        references: Labels | None,
    ) -> dict[str, LossSum]:
        """The supervised parts among `weights`."""
        references = references or _no_references(len(frames))
        losses: dict[str, LossSum] = {}
        if "sup_ctc" in weights:
            losses["sup_ctc"] = ctc_on_strings(
                _head(ctc_logits, "CTC"),
                frames,
                reference_strings(references),
                blank=self._blank,
                reduction=self._reduction,
                empty=self._empty,
                too_long=self._too_long,
            )
        if "sup_att" in weights:
            losses["sup_att"] = token_nll(
                _head(decoder_logits, "decoder"),
                with_eos(references, self._eos),
                label_smoothing=self._label_smoothing,
            )
        return losses


def _total(
    weights: Mapping[Part, float], losses: Mapping[str, LossSum], counts: Mapping[Part, float]
) -> Tensor:
    """Weighted means; a part that counted nothing anywhere has a sum of zero."""
    terms = [weight * losses[part].sum / (counts[part] or 1.0) for part, weight in weights.items()]
    return torch.stack(terms).sum()


def _positive(weights: dict[Part, float]) -> Mapping[Part, float]:
    """Only the parts that weigh something: the others are never computed."""
    return {part: weight for part, weight in weights.items() if weight > 0}


def _no_references(rows: int) -> Labels:
    return Labels(np.zeros((rows, 0), dtype=np.int64), np.full(rows, -1))


def _unlabelled(references: Labels | None, rows: int) -> NDArray[np.bool_]:
    """(B,) true where there is no reference."""
    if references is None:
        return np.ones(rows, dtype=np.bool_)
    return np.asarray(references.lengths) < 0


def _head(logits: Tensor | None, name: str) -> Tensor:
    if logits is None:
        raise ValueError(f"this criterion learns from the {name} head, and no logits of it came")
    return logits


def _labels(signal: Signal | None) -> LabelStrings:
    if signal is None or signal.labels is None:
        raise ValueError(_MISSING.format(what="label strings", wanted="labels"))
    return signal.labels


def _tokens(signal: Signal | None) -> TokenTarget:
    if signal is None or signal.tokens is None:
        raise ValueError(_MISSING.format(what="token distributions", wanted="tokens"))
    return signal.tokens


def _same_prefix(tokens: TokenTarget, references: Labels | None) -> None:
    """One decoder pass serves both parts, so teachers must have read the references."""
    if references is None:
        return
    lengths = np.asarray(references.lengths)
    wrong = np.flatnonzero((lengths >= 0) & (lengths + 1 != tokens.lengths))
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(
            f"row {row}: teachers scored {tokens.lengths[row]} positions, the reference and its "
            f"end symbol have {lengths[row] + 1}; with alpha below 1 the decoder reads references, "
            "so they must be the prefix of the request too"
        )


_MISSING = (
    "the signal holds no {what}, which this criterion learns from; ask the teachers for "
    "{wanted!r} (`criterion.wanted`)"
)
