"""The criterion that learns from teachers' signals and references; see `Criterion`.

Shapes: B utterances, R items, T student frames, U target positions, V vocabulary.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from kd_ray.config.teachers import Distillation
from kd_ray.core.contracts import Labels, Signal, Wanted
from kd_ray.core.criteria.decoder import MISSING, DecoderTargets, tokens_of
from kd_ray.core.criteria.protocol import Part, head, unlabelled, weighted_means
from kd_ray.core.criteria.references import References
from kd_ray.core.ctc_plan import EmptyStrings, Reduction, TooLong, plan_ctc
from kd_ray.core.imitation import Items
from kd_ray.core.losses import LossSum, ctc_on_strings
from kd_ray.core.targets import IntArray, LabelStrings, TokenTarget


class DistillationCriterion:
    """Teachers' signals and references; see `Criterion`.

    `L = ctc_weight * L_ctc + (1 - ctc_weight) * L_att`, with
    `L_ctc = alpha * KD_ctc + (1 - alpha) * CTC` and
    `L_att = alpha * tau^2 * KD_att + (1 - alpha) * NLL`, where KD_att is what `DecoderTargets`
    makes of the items, the student softened by tau as the teachers were. A row without a
    reference has alpha = 1: its KD is multiplied by 1 instead of alpha, which `losses` shows as
    parts `kd_ctc_unlabelled`, `kd_att_unlabelled` (KD of those rows, weighed by 1 - alpha and
    divided by the counts of `kd_ctc`, `kd_att`). Where alpha is 0 throughout the run there is no
    KD at all, and such rows teach nothing.

    `compatibility: reference` repeats the SpeechBrain TIMIT recipe (Gao et al. 2020): the student
    is not softened, tau^2 multiplies both heads, empty strings are trained on, strings too long
    contribute zero.
    """

    def __init__(self, config: Distillation, *, blank: int, eos: int) -> None:
        reference = config.compatibility == "reference"
        self._empty: EmptyStrings = "keep" if reference else config.empty_strings
        self._too_long: TooLong = "zero" if reference else "drop"
        self._reduction: Reduction = "per_utterance" if reference else config.ctc_reduction
        self._config = config
        self._blank = blank
        self._references = References(
            blank, eos, config.label_smoothing, self._reduction, self._empty, self._too_long
        )
        self._decoder = DecoderTargets(
            config, eos=eos, temperature=1.0 if reference else config.temperature
        )
        largest = self._shares(config.largest_alpha)
        smallest = self._shares(config.smallest_alpha)
        start = self._shares(config.alpha)
        self.weights: Mapping[Part, float] = {
            part: start[part] for part in start if largest[part] > 0 or smallest[part] > 0
        }
        wanted: set[Wanted] = set()
        if "kd_ctc" in self.weights:
            wanted.add("labels")
        if "kd_att" in self.weights and self._decoder.asks:
            wanted.add("tokens")
        self.wanted = frozenset(wanted)

    def _shares(self, alpha: float) -> dict[Part, float]:
        """What the mean of each part is multiplied by, for this share of the teachers."""
        config = self._config
        ctc, attention = config.ctc_weight, 1.0 - config.ctc_weight
        squared = config.temperature**2
        return {
            "kd_ctc": ctc * alpha * (squared if config.compatibility == "reference" else 1.0),
            "kd_att": attention * alpha * squared,
            "sup_ctc": ctc * (1.0 - alpha),
            "sup_att": attention * (1.0 - alpha),
        }

    def counts(
        self,
        *,
        references: Labels | None,
        signal: Signal | None,
        frames: IntArray,
        items: Items | None = None,
    ) -> dict[Part, float]:
        """See `Criterion`."""
        counts = self._references.counts(self.weights, references, frames, items)
        if "kd_ctc" in self.weights:
            plan = plan_ctc(
                _labels(signal, items),
                frames,
                reduction=self._reduction,
                empty=self._empty,
                too_long=self._too_long,
            )
            counts["kd_ctc"] = plan.count
        if "kd_att" in self.weights:
            counts["kd_att"] = self._decoder.count(signal, items, references)
        return counts

    def losses(
        self,
        *,
        ctc_logits: Tensor | None,
        frames: IntArray,
        decoder_logits: Tensor | None,
        references: Labels | None,
        signal: Signal | None,
        items: Items | None = None,
    ) -> dict[str, LossSum]:
        """See `Criterion`."""
        losses = self._references.losses(
            self.weights, ctc_logits, frames, decoder_logits, references, items
        )
        if "kd_ctc" in self.weights:
            losses["kd_ctc"] = ctc_on_strings(
                head(ctc_logits, "CTC"),
                frames,
                _labels(signal, items),
                blank=self._blank,
                reduction=self._reduction,
                empty=self._empty,
                too_long=self._too_long,
            )
        if "kd_att" in self.weights:
            if items is None and "sup_att" in self.weights and self._decoder.asks:
                _same_prefix(tokens_of(signal), references)
            losses["kd_att"] = self._decoder.loss(
                head(decoder_logits, "decoder"), signal, items, references, len(frames)
            )
        without = unlabelled(references, len(frames))
        if self._config.smallest_alpha < 1.0 and without.any():
            for part in ("kd_ctc", "kd_att"):
                if part in losses:
                    rows = losses[part].rows
                    sums = rows * torch.tensor(without, device=rows.device, dtype=rows.dtype)
                    losses[f"{part}_unlabelled"] = LossSum(sums.sum(), losses[part].count, sums)
        return losses

    def total(
        self,
        losses: Mapping[str, LossSum],
        counts: Mapping[Part, float],
        *,
        alpha: float | None = None,
    ) -> Tensor:
        """See `Criterion`; without `alpha`, that of the configuration."""
        alpha = self._config.alpha if alpha is None else alpha
        shares = self._shares(alpha)
        total = weighted_means({part: shares[part] for part in self.weights}, losses, counts)
        alone = self._shares(1.0)
        for part in ("kd_ctc", "kd_att"):
            more = losses.get(f"{part}_unlabelled")
            if more is not None:
                # From alpha up to 1: factor * alpha + factor * (1 - alpha).
                total = total + alone[part] * (1.0 - alpha) * more.sum / (counts[part] or 1.0)
        return total


def _labels(signal: Signal | None, items: Items | None) -> LabelStrings:
    """The label strings of each utterance.

    A signal about items has them once for each asked item; those of an utterance's items are the
    same (CTC reads no prefix), and the first ones are taken.
    """
    if signal is None or signal.labels is None:
        raise ValueError(MISSING.format(what="label strings", wanted="labels"))
    labels = signal.labels
    if items is None:
        return labels
    asked = items.utterance[items.asked_rows]
    utterances, first = np.unique(asked, return_index=True)
    utterance_of_row = np.full(len(asked), -1, dtype=np.int64)
    utterance_of_row[first] = utterances
    of_strings = utterance_of_row[labels.utterance]
    order = np.argsort(of_strings, kind="stable")
    order = order[of_strings[order] >= 0]
    return LabelStrings(
        labels=labels.labels[order],
        lengths=labels.lengths[order],
        utterance=of_strings[order],
        weights=labels.weights[order],
        dropped_weight=labels.dropped_weight[first],
    )


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
