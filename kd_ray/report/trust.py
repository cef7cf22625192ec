"""Who is trusted where: teachers' errors on groups of utterances, and the weights that follow.

Shapes: N teachers, U utterances, G utterances of a group, R resamples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kd_ray.config.strategies import Fixed, Strategy, Trust, TrustTable
from kd_ray.core.bootstrap import RESAMPLES, SEED, Comparison, Interval, compare, interval_of
from kd_ray.core.contracts import CHRF_WHOLE, Fusion, TeacherInfo
from kd_ray.core.trust import Evidence, Rule, rules, trust_statistics, trust_weights
from kd_ray.report.bootstrap import resample_rates
from kd_ray.report.systems import ReportError
from kd_ray.report.trust_groups import Group

MEASURES: Mapping[Trust, str] = {
    "ctc_greedy": "ctc error rate",
    "teacher_forced": "teacher-forced error rate",
    "teacher_forced_chrf": "teacher-forced 1 - chrF",
    "confidence": "1 - confidence",
}
"""What a table of error rates calls its numbers."""

EVERYTHING = "all"

FEW = 5
"""Resampling fewer utterances than this says nothing."""


@dataclass(frozen=True, eq=False)
class TrustRecords:
    """What N teachers said about U utterances, each of which has a reference.

    `errors` (N, U) by measure, as in `TeacherOutput` and -1 where a teacher did not answer;
    `confidence` (N, U), NaN there; `reference_lengths` (U,).
    """

    teachers: tuple[TeacherInfo, ...]
    errors: Mapping[Trust, NDArray[np.int64]]
    confidence: NDArray[np.float64]
    reference_lengths: NDArray[np.int64]


@dataclass(frozen=True)
class TrustedTeacher:
    """A teacher of the report."""

    name: str
    folder: str
    digest: str
    also: Mapping[Trust, float]
    """The whole split by the other measures, in percent."""
    corpus_shares: Mapping[str, float]
    """Its weight by strategy in scope `corpus`, with the table that the report makes."""


@dataclass(frozen=True)
class TrustedGroup:
    """A group; lists have one number for each teacher, in order."""

    column: str
    name: str
    utterances: int
    units: int
    """Reference tokens."""
    error_percent: tuple[float, ...]
    intervals: tuple[Interval, ...]
    shares: Mapping[str, tuple[float, ...]]
    """Mean weight over the group's utterances, by strategy."""
    best: tuple[int, ...]
    """Who has the fewest errors: several that have equally few."""
    runner_up: int | None
    """Who has the next fewest."""
    lead: Comparison | None
    """The runner-up's error minus the best one's."""
    tie_share: float
    """Of utterances on which several teachers have equally few errors."""
    zero_share: float
    """Of utterances on which some teacher makes none."""

    @property
    def sure(self) -> bool:
        """Whether the best one is ahead of the next by more than chance."""
        if self.lead is None or len(self.best) > 1 or self.utterances < FEW:
            return False
        return not self.lead.includes_zero


@dataclass(frozen=True)
class Choices:
    """Error in percent if the best teacher were chosen in hindsight."""

    once: float
    by_column: Mapping[str, float]
    """In each group of a column."""
    each_utterance: float


@dataclass(frozen=True)
class Asked:
    """Who was asked about what."""

    pool: str
    split: str
    """What the table calls it."""
    manifest: str
    manifest_digest: str


@dataclass(frozen=True)
class TrustReport:
    """All of it."""

    asked: Asked
    trust: Trust
    measure: str
    strategies: Mapping[str, Strategy]
    """By the names that `shares` use."""
    teachers: tuple[TrustedTeacher, ...]
    whole: TrustedGroup
    groups: Mapping[str, tuple[TrustedGroup, ...]]
    """By column."""
    choices: Choices
    table: TrustTable
    resamples: int
    notes: tuple[str, ...]


def trust_report(
    records: TrustRecords,
    groups: Mapping[str, Sequence[Group]],
    *,
    asked: Asked,
    trust: Trust,
    strategies: Sequence[Strategy],
    resamples: int = RESAMPLES,
    seed: int = SEED,
    notes: Sequence[str] = (),
) -> TrustReport:
    """Error rates, intervals and weights, overall and in each group.

    Rates are pooled: errors over reference tokens of a group; of 1 - chrF and of confidence, means
    over utterances. Teachers that did not answer for every utterance are left out, and named.

    Args:
        records: what teachers said.
        groups: of the utterances, by column.
        asked: who, about what.
        trust: which errors count.
        strategies: whose weights are shown; their `trust` is replaced by this one.
        resamples: of the bootstrap.
        seed: of the bootstrap.
        notes: what the reader should know beside.

    Raises:
        ReportError: no teacher answered for every utterance, or there is none.
    """
    records, kept, left_out = _whole_teachers(records)
    errors, wholes = _counts(records, trust)
    named = {_label(each, strategies): _among(_by(each, trust), kept) for each in strategies}
    weights = {name: _weights(name, each, records, trust) for name, each in named.items()}

    def look(group: Group) -> TrustedGroup:
        rows = group.rows
        resampled = resample_rates(errors[:, rows], wholes[rows], resamples=resamples, seed=seed)
        return _look(group, records, errors[:, rows], wholes[rows], weights, resampled)

    everybody = Group("", EVERYTHING, np.arange(len(wholes)))
    whole = look(everybody)
    looked = {column: tuple(map(look, found)) for column, found in groups.items()}
    corpus = {
        name: _corpus_shares(each, records, whole.error_percent) for name, each in named.items()
    }
    also = {
        other: _rates(*_counts(records, other))
        for other, counts in records.errors.items()
        if other != trust and (counts >= 0).all()
    }
    teachers = tuple(
        TrustedTeacher(
            name=info.name,
            folder=info.folder,
            digest=info.digest,
            also={other: float(rates[index]) for other, rates in also.items()},
            corpus_shares={name: float(shares[index]) for name, shares in corpus.items()},
        )
        for index, info in enumerate(records.teachers)
    )
    return TrustReport(
        asked=asked,
        trust=trust,
        measure=MEASURES[trust],
        strategies=named,
        teachers=teachers,
        whole=whole,
        groups=looked,
        choices=_choices(errors, wholes, groups),
        table=TrustTable(
            split=asked.split,
            measure=MEASURES[trust],
            teachers=tuple(info.digest for info in records.teachers),
            error_percent=whole.error_percent,
        ),
        resamples=resamples,
        notes=(*notes, *left_out),
    )


def _whole_teachers(records: TrustRecords) -> tuple[TrustRecords, list[int], list[str]]:
    """Those that answered for every utterance, their places, and a note about each other one."""
    if not len(records.reference_lengths):
        raise ReportError("no utterance has a reference, so there are no error rates to report")
    answered = ~np.isnan(records.confidence)
    whole: NDArray[np.bool_] = np.asarray(answered.all(axis=1))
    notes = [
        f"{info.name} answered for {said} of {len(row)} utterances and is left out."
        for info, row, said in zip(
            records.teachers, answered, answered.sum(axis=1).tolist(), strict=True
        )
        if said < len(row)
    ]
    if not whole.any():
        raise ReportError(
            "no teacher answered for every utterance, so there is nothing to compare: "
            + " ".join(notes)
        )
    kept = np.flatnonzero(whole).tolist()
    records = replace(
        records,
        teachers=tuple(
            info for info, is_whole in zip(records.teachers, whole, strict=True) if is_whole
        ),
        errors={name: counts[whole] for name, counts in records.errors.items()},
        confidence=records.confidence[whole],
    )
    return records, kept, notes


def _counts(records: TrustRecords, trust: Trust) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(N, U) errors, and (U,) how many make 100 percent."""
    lengths = records.reference_lengths
    if trust == "confidence":
        millionths = np.rint(-CHRF_WHOLE * np.expm1(records.confidence)).astype(np.int64)
        return millionths, np.full_like(lengths, CHRF_WHOLE)
    if trust == "teacher_forced_chrf":
        return records.errors[trust], np.full_like(lengths, CHRF_WHOLE)
    return records.errors[trust], lengths


def _rates(errors: NDArray[np.int64], wholes: NDArray[np.int64]) -> NDArray[np.float64]:
    """(N,) pooled, in percent."""
    rates: NDArray[np.float64] = 100.0 * errors.sum(axis=1) / max(1, int(wholes.sum()))
    return rates


def _by(strategy: Strategy, trust: Trust) -> Strategy:
    if not hasattr(strategy, "trust"):
        return strategy
    return strategy.model_copy(update={"trust": trust})


def _among(strategy: Strategy, kept: Sequence[int]) -> Strategy:
    """The strategy over some of its teachers."""
    # Of too few weights, whoever uses them says so.
    if not isinstance(strategy, Fixed) or len(strategy.weights) <= max(kept):
        return strategy
    return strategy.model_copy(update={"weights": tuple(strategy.weights[i] for i in kept)})


def _label(strategy: Strategy, others: Sequence[Strategy]) -> str:
    """Its type; with its settings where another one has the same type."""
    if sum(other.type == strategy.type for other in others) == 1:
        return strategy.type
    settings = strategy.model_dump(exclude={"type", "trust", "scope", "table"})
    shown = ", ".join(f"{key} {value}" for key, value in settings.items())
    return f"{strategy.type} ({shown})"


def _weights(
    name: str, strategy: Strategy, records: TrustRecords, trust: Trust
) -> NDArray[np.float64]:
    """(N, U), each column summing to one."""
    rule, _ = rules(Fusion(strategy), len(records.teachers))
    return trust_weights(rule, _evidence(records, trust), name)


def _evidence(records: TrustRecords, trust: Trust) -> Evidence:
    lengths = records.reference_lengths
    errors = records.errors.get(trust, np.full(records.confidence.shape, -1))
    wholes = np.full_like(lengths, CHRF_WHOLE) if trust == "teacher_forced_chrf" else lengths
    return Evidence(np.arange(len(records.teachers)), errors, records.confidence, wholes)


def _corpus_shares(
    strategy: Strategy, records: TrustRecords, rates: Sequence[float]
) -> NDArray[np.float64]:
    """(N,) weights in scope `corpus`; strategies without scopes weigh as ever, on average."""
    rule: Rule = rules(Fusion(strategy), len(records.teachers))[0]
    if rule.kind in ("best", "weighted", "top_m"):
        rule = replace(rule, scope="corpus", given=tuple(rates))
    weights = trust_weights(rule, _evidence(records, rule.trust), strategy.type)
    return np.asarray(weights.mean(axis=1), dtype=np.float64)


def _look(
    group: Group,
    records: TrustRecords,
    errors: NDArray[np.int64],
    wholes: NDArray[np.int64],
    weights: Mapping[str, NDArray[np.float64]],
    resampled: NDArray[np.float64],
) -> TrustedGroup:
    """`errors` (N, G) and `wholes` (G,) of the group; `resampled` (R, N) rates."""
    rows, sums = group.rows, errors.sum(axis=1)
    rates = _rates(errors, wholes)
    order = np.argsort(sums, kind="stable")
    best = np.flatnonzero(sums == sums.min())
    others = order[len(best) :]
    runner_up = int(others[0]) if len(others) else None
    lead = None
    if runner_up is not None:
        observed = float(rates[runner_up] - rates[best[0]])
        lead = compare(resampled[:, runner_up], resampled[:, best[0]], observed)
    statistics = trust_statistics(errors, wholes)
    return TrustedGroup(
        column=group.column,
        name=group.name,
        utterances=len(rows),
        units=int(records.reference_lengths[rows].sum()),
        error_percent=tuple(rates.tolist()),
        intervals=tuple(interval_of(resampled[:, index]) for index in range(len(rates))),
        shares={name: tuple(each[:, rows].mean(axis=1).tolist()) for name, each in weights.items()},
        best=tuple(best.tolist()),
        runner_up=runner_up,
        lead=lead,
        tie_share=statistics.tie_share if len(rates) > 1 else 0.0,
        zero_share=statistics.zero_share,
    )


def _choices(
    errors: NDArray[np.int64],
    wholes: NDArray[np.int64],
    groups: Mapping[str, Sequence[Group]],
) -> Choices:
    total = max(1, int(wholes.sum()))

    def percent(count: int) -> float:
        return 100.0 * count / total

    return Choices(
        once=percent(int(errors.sum(axis=1).min())),
        by_column={
            column: percent(sum(int(errors[:, part.rows].sum(axis=1).min()) for part in parts))
            for column, parts in groups.items()
        },
        each_utterance=percent(int(errors.min(axis=0).sum())),
    )
