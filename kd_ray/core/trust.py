"""How far each teacher is trusted: from error counts to weights.

Shapes: N teachers of the run, M teachers in a group, B utterances.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kd_ray.config.teachers import Average, Best, Trust
from kd_ray.core.contracts import Fusion
from kd_ray.core.targets import IntArray


@dataclass(frozen=True)
class Rule:
    """How teachers are weighed for one head (tokens or labels)."""

    kind: Literal["average", "best", "weighted"]
    trust: Trust = "ctc_greedy"
    scale: float = 0.0
    """Of the softmax over error rates, per percentage point."""
    scope: Literal["utterance", "batch"] = "utterance"
    ties: Literal["first", "average"] = "first"
    capped: bool = False
    """Error rates end at 100 percent."""


def rules(fusion: Fusion, num_teachers: int) -> tuple[Rule, Rule]:
    """The rules for tokens and for labels that `fusion` means.

    With `compatibility: reference` the published recipe's (SpeechBrain TIMIT distillation): labels
    are always weighted by softmax(-mean CTC percent error of the batch), also under *best*; tokens
    use teacher-forced error, *best* per utterance, *weighted* over the batch. One teacher needs no
    trust, hence no references.
    """
    strategy = fusion.strategy
    if isinstance(strategy, Average) or num_teachers == 1:
        return Rule("average"), Rule("average")
    if fusion.compatibility == "reference":
        batch = Rule("weighted", "teacher_forced", 1.0, "batch", capped=True)
        labels = Rule("weighted", "ctc_greedy", 1.0, "batch", capped=True)
        best = Rule("best", "teacher_forced", capped=True)
        return best if isinstance(strategy, Best) else batch, labels
    if isinstance(strategy, Best):
        rule = Rule("best", strategy.trust, ties=strategy.ties)
    else:
        rule = Rule("weighted", strategy.trust, strategy.scale, strategy.scope)
    return rule, rule


def trust_weights(
    rule: Rule, errors: IntArray, reference_lengths: IntArray, strategy: str
) -> NDArray[np.float64]:
    """Weights of M teachers among themselves, each column summing to one.

    A group's weights are proportional to those its teachers have in any larger group.

    Args:
        rule: how to weigh.
        errors: (M, B) error counts of the rule's `trust`, teachers in ascending order; -1 unknown.
        reference_lengths: (B,); -1 without a reference. An empty reference counts as one token, so
            that its error rate is finite.
        strategy: its name, for the error message.

    Returns:
        (M, B) float64.

    Raises:
        ValueError: if the rule needs error rates and some are unknown.
    """
    if rule.kind == "average":
        return np.full(errors.shape, 1.0 / len(errors))
    unknown = (errors < 0).any(axis=0) | (reference_lengths < 0)
    if unknown.any():
        rows = ", ".join(map(str, np.flatnonzero(unknown)[:8]))
        raise ValueError(
            f"strategy {strategy!r} trusts teachers by their {rule.trust} error rate, but row(s) "
            f"{rows} of the batch have no reference to compare with; use strategy `average`, "
            "which needs none, or leave out rows without references"
        )
    lengths = np.maximum(reference_lengths, 1)
    errors = errors.astype(np.int64)
    if rule.capped:
        errors = np.minimum(errors, lengths)
    if rule.kind == "best":
        # Integer counts against one reference: ties are ties, whatever floats would say.
        winners = errors == errors.min(axis=0, initial=np.iinfo(np.int64).max)
        if rule.ties == "first":
            winners = np.arange(len(errors))[:, None] == winners.argmax(axis=0)
        return np.asarray(winners / winners.sum(axis=0), dtype=np.float64)
    rates = 100.0 * errors / lengths
    if rule.scope == "batch":
        means = rates.sum(axis=1, keepdims=True) / max(1, rates.shape[1])
        rates = np.broadcast_to(means, rates.shape)
    logits = -rule.scale * rates
    weights = np.exp(logits - logits.max(axis=0, initial=-np.inf))
    return np.asarray(weights / weights.sum(axis=0), dtype=np.float64)


@dataclass(frozen=True)
class TrustStatistics:
    """How much error rates can tell teachers apart; counts that add up over batches."""

    ties: int = 0
    """Utterances on which two or more teachers share the lowest error."""
    zeros: int = 0
    """Utterances on which some teacher makes no error."""
    utterances: int = 0
    """Utterances with a reference."""

    def __add__(self, other: "TrustStatistics") -> "TrustStatistics":
        return TrustStatistics(
            self.ties + other.ties, self.zeros + other.zeros, self.utterances + other.utterances
        )

    @property
    def tie_share(self) -> float:
        """Share of ties; 0 for no utterances."""
        return self.ties / max(1, self.utterances)

    @property
    def zero_share(self) -> float:
        """Share of utterances with a faultless teacher; 0 for no utterances."""
        return self.zeros / max(1, self.utterances)


def trust_statistics(errors: IntArray, reference_lengths: IntArray) -> TrustStatistics:
    """Count ties for the lowest error and faultless teachers.

    Training-set errors of converged teachers are close to zero and full of ties; then *best*
    means teacher 0 and *weighted* means *average*.

    Args:
        errors: (N, B) error counts; -1 for a teacher that did not answer.
        reference_lengths: (B,); -1 for an utterance without a reference, which is not counted.
    """
    known = np.asarray(errors)[:, np.asarray(reference_lengths) >= 0]
    known = known[:, (known >= 0).any(axis=0)]
    answered = np.where(known < 0, np.iinfo(np.int64).max, known)
    lowest = answered.min(axis=0, initial=np.iinfo(np.int64).max)
    ties = (answered == lowest).sum(axis=0) > 1
    return TrustStatistics(int(ties.sum()), int((lowest == 0).sum()), known.shape[1])
