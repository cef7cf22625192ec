"""How far each teacher is trusted: from error counts, confidence or a table to weights.

Shapes: N teachers of the run, M teachers in a group, B utterances.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kd_ray.config.strategies import (
    Average,
    Best,
    Confidence,
    Fixed,
    Strategy,
    TopM,
    Trust,
    TrustTable,
)
from kd_ray.core.contracts import Fusion
from kd_ray.core.targets import FloatArray, IntArray


class TrustError(ValueError):
    """A strategy asks for trust that cannot be had here; the text names the ways out."""


@dataclass(frozen=True)
class Rule:
    """How teachers are weighed for one head (tokens or labels)."""

    kind: Literal["average", "best", "weighted", "top_m", "confidence", "fixed"]
    trust: Trust = "ctc_greedy"
    scale: float = 0.0
    """Of the softmax over error rates, per percentage point; the power of `confidence`."""
    scope: Literal["utterance", "batch", "corpus"] = "utterance"
    ties: Literal["first", "average"] = "first"
    capped: bool = False
    """Error rates end at 100 percent."""
    m: int = 0
    """How many teachers `top_m` keeps."""
    given: tuple[float, ...] = ()
    """One number for each teacher of the run: weights of `fixed`, or the corpus error rates."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known about M teachers on B utterances, teachers in ascending order.

    `teachers` (M,) indices; `errors` (M, B) counts of the rule's trust, -1 unknown; `confidence`
    (M, B) mean log-probabilities; `wholes` (B,) how many errors make 100 percent: reference tokens,
    or the unit of `chrf_errors`; -1 without a reference.
    """

    teachers: IntArray
    errors: IntArray
    confidence: FloatArray
    wholes: IntArray


def rules(fusion: Fusion, num_teachers: int) -> tuple[Rule, Rule]:
    """The rules for tokens and for labels that `fusion` means.

    With `compatibility: reference` the published recipe's (SpeechBrain TIMIT distillation): labels
    are always weighted by softmax(-mean CTC percent error of the batch), also under *best*; tokens
    use teacher-forced error, *best* per utterance, *weighted* over the batch. One teacher needs no
    trust, hence no references.

    Raises:
        TrustError: weights or a table for another number of teachers; a table that was not read;
            a strategy that the published recipe does not have.
    """
    rule = _rule(fusion.strategy, num_teachers)
    if rule.kind == "average":
        return rule, rule
    if fusion.compatibility == "reference":
        if rule.kind not in ("best", "weighted"):
            raise TrustError(
                f"compatibility 'reference' knows average, best and weighted, not {rule.kind!r}"
            )
        batch = Rule("weighted", "teacher_forced", 1.0, "batch", capped=True)
        labels = Rule("weighted", "ctc_greedy", 1.0, "batch", capped=True)
        best = Rule("best", "teacher_forced", capped=True)
        return best if rule.kind == "best" else batch, labels
    return rule, rule


def _rule(strategy: Strategy, num_teachers: int) -> Rule:
    """The rule of a strategy, before compatibility."""
    if isinstance(strategy, Average) or num_teachers == 1:
        return Rule("average")
    if isinstance(strategy, Fixed):
        return Rule("fixed", given=_one_each("weights", strategy.weights, num_teachers))
    if isinstance(strategy, Confidence):
        return Rule("confidence", "confidence", strategy.power)
    rates: tuple[float, ...] = ()
    if strategy.scope == "corpus":
        if not isinstance(strategy.table, TrustTable):
            raise TrustError(
                f"the table of error rates {strategy.table!r} was not read; put the table itself "
                "in the strategy"
            )
        rates = _one_each("table.error_percent", strategy.table.error_percent, num_teachers)
    if isinstance(strategy, Best):
        return Rule("best", strategy.trust, scope=strategy.scope, ties=strategy.ties, given=rates)
    if isinstance(strategy, TopM):
        return Rule(
            "top_m", strategy.trust, strategy.scale, strategy.scope, m=strategy.m, given=rates
        )
    return Rule("weighted", strategy.trust, strategy.scale, strategy.scope, given=rates)


def _one_each(name: str, values: tuple[float, ...], num_teachers: int) -> tuple[float, ...]:
    if len(values) != num_teachers:
        raise TrustError(
            f"{name} has {len(values)} numbers for {num_teachers} teachers; give one for each, in "
            "the order of the list"
        )
    return values


def trusts_chrf(fusion: Fusion) -> bool:
    """Whether weights are made from `chrf_errors`."""
    strategy = fusion.strategy
    if fusion.compatibility == "reference" or isinstance(strategy, Average | Fixed | Confidence):
        return False
    return strategy.trust == "teacher_forced_chrf" and strategy.scope != "corpus"


def table_for(table: TrustTable, digests: Sequence[str]) -> TrustTable:
    """The table's rates for these teachers, in their order.

    Args:
        table: as it was measured.
        digests: of the run's teachers, in the order of the list.

    Raises:
        TrustError: naming the teachers that the table does not have.
    """
    rates = dict(zip(table.teachers, table.error_percent, strict=True))
    missing = [digest for digest in digests if digest not in rates]
    if missing:
        raise TrustError(
            f"the table of error rates on {table.split!r} does not have teacher(s) "
            f"{', '.join(missing)}; measure them on that split too, or take them off the list"
        )
    return TrustTable(
        split=table.split,
        measure=table.measure,
        teachers=tuple(digests),
        error_percent=tuple(rates[digest] for digest in digests),
    )


def check_trust(strategy: Strategy, *, num_teachers: int, labels: bool, rollouts: bool) -> None:
    """Refuse trust that these teachers, or the prefixes of this run, cannot give.

    Along a rollout the decoder's argmax follows the student's mistakes: its errors against the
    reference say how bad the student is, not the teacher. The CTC path reads no prefix, so
    `ctc_greedy` is as good there as anywhere, where all teachers have one (text experts do not).

    Args:
        strategy: how teachers are weighed.
        num_teachers: one teacher needs no trust.
        labels: all teachers write CTC paths.
        rollouts: some prefixes are the student's own.

    Raises:
        TrustError: with the ways out.
    """
    if isinstance(strategy, Average | Fixed | Confidence) or num_teachers == 1:
        return
    if strategy.scope == "corpus" or strategy.trust == "confidence":
        return
    if labels if strategy.trust == "ctc_greedy" else not rollouts:
        return
    why = (
        "errors of CTC paths, which not all of these teachers write"
        if strategy.trust == "ctc_greedy"
        else "an error rate along the student's own prefix, which tells the student's mistakes, "
        "not the teacher's"
    )
    along_references = "" if rollouts else "trust 'teacher_forced', "
    raise TrustError(
        f"strategy {strategy.type!r} with trust {strategy.trust!r} in scope {strategy.scope!r} "
        f"would weigh {num_teachers} teachers by {why}. Ways out: {along_references}scope 'corpus' "
        "with a table of error rates (1 - chrF for text experts), trust 'confidence', or strategy "
        "'average', 'fixed' or 'confidence'"
    )


def trust_weights(rule: Rule, evidence: Evidence, strategy: str) -> NDArray[np.float64]:
    """Weights of M teachers among themselves, each column summing to one.

    Except for `top_m`, a group's weights are proportional to those its teachers have in any larger
    group; the m best of a larger group are among the m best of its parts. A group whose `fixed`
    weights are all zero shares equally: in a larger group its share is zero.

    Args:
        rule: how to weigh.
        evidence: about these teachers. An empty reference counts as one token, so that its error
            rate is finite.
        strategy: its name, for the error message.

    Returns:
        (M, B) float64.

    Raises:
        TrustError: if the rule needs error rates or confidence, and some are unknown.
    """
    shape = evidence.errors.shape
    if rule.kind == "average":
        return np.full(shape, 1.0 / shape[0])
    if rule.kind == "fixed":
        given = np.array(rule.given)[evidence.teachers]
        given = given if given.sum() > 0 else np.ones(len(given))
        return np.broadcast_to((given / given.sum())[:, None], shape).copy()
    if rule.kind == "confidence":
        return _softmax(rule.scale * _known_confidence(evidence, strategy))
    distrust = _distrust(rule, evidence, strategy)
    if rule.kind == "best":
        winners = distrust == distrust.min(axis=0)
        if rule.ties == "first":
            winners = np.arange(len(distrust))[:, None] == winners.argmax(axis=0)
        return np.asarray(winners / winners.sum(axis=0), dtype=np.float64)
    if rule.kind == "top_m":
        # Equal rates: the stable order keeps the lower index.
        ranks = distrust.argsort(axis=0, kind="stable").argsort(axis=0, kind="stable")
        percent = _percent(rule, distrust, evidence)
        return _softmax(np.where(ranks < rule.m, -rule.scale * percent, -np.inf))
    return _softmax(-rule.scale * _percent(rule, distrust, evidence))


def _distrust(rule: Rule, evidence: Evidence, strategy: str) -> NDArray[np.float64]:
    """(M, B) what teachers are ranked by, lowest first.

    At utterance scope these are error counts: against one reference they rank as the rates do, and
    ties of integers are ties on every machine.
    """
    shape = evidence.errors.shape
    if rule.scope == "corpus":
        rates = np.array(rule.given)[evidence.teachers]
        return np.broadcast_to(rates[:, None], shape)
    if rule.trust == "confidence":
        distrust = 100.0 * -np.expm1(_known_confidence(evidence, strategy))
        return _batch_mean(distrust) if rule.scope == "batch" else distrust
    lengths = evidence.wholes
    unknown = (evidence.errors < 0).any(axis=0) | (lengths < 0)
    if unknown.any():
        rows = ", ".join(map(str, np.flatnonzero(unknown)[:8]))
        raise TrustError(
            f"strategy {strategy!r} trusts teachers by their {rule.trust} error rate, but row(s) "
            f"{rows} of the batch have no reference to compare with; use strategy `average`, "
            "which needs none, trust `confidence`, scope `corpus`, or leave out rows without "
            "references"
        )
    errors = evidence.errors.astype(np.float64)
    if rule.capped:
        errors = np.minimum(errors, np.maximum(lengths, 1))
    return _batch_mean(100.0 * errors / np.maximum(lengths, 1)) if rule.scope == "batch" else errors


def _percent(rule: Rule, distrust: NDArray[np.float64], evidence: Evidence) -> NDArray[np.float64]:
    """Error rates in percentage points, of `_distrust`."""
    counts = rule.scope == "utterance" and rule.trust != "confidence"
    return 100.0 * distrust / np.maximum(evidence.wholes, 1) if counts else distrust


def _known_confidence(evidence: Evidence, strategy: str) -> NDArray[np.float64]:
    confidence = np.asarray(evidence.confidence, dtype=np.float64)
    broken = ~np.isfinite(confidence).all(axis=0)
    if broken.any():
        rows = ", ".join(map(str, np.flatnonzero(broken)[:8]))
        raise TrustError(
            f"strategy {strategy!r} trusts teachers by their confidence, which is not a finite "
            f"number for row(s) {rows} of the batch; use strategy `average`"
        )
    return confidence


def _batch_mean(rates: NDArray[np.float64]) -> NDArray[np.float64]:
    means = rates.sum(axis=1, keepdims=True) / max(1, rates.shape[1])
    return np.broadcast_to(means, rates.shape)


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Over teachers."""
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
