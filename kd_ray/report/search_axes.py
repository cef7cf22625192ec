"""What each axis of a search did: to the score, and to the teachers' work."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import correlation, fmean
from typing import Any

from kd_ray.report.search import SearchResults, SettingResult, Trial, value_text

COSTS_WORK = 0.05
"""An axis along which teachers compute more than this share of the rows again costs them work."""


@dataclass(frozen=True)
class AxisEffect:
    """An axis over all complete settings."""

    key: str
    values: Mapping[str, tuple[int, float]]
    """Value, as text, to the number of complete settings and their mean error; best first."""
    spread: float | None
    """Largest minus smallest of these means, in percentage points; None with less than two."""
    correlation: float | None
    """Rank correlation (Spearman) of a number with the error; None for values of another kind."""
    computed_share: float | None
    """Share of rows that teachers computed anew for trials that differ from one before them in
    this axis alone; None where no two trials do, or teachers are in no pool."""


def axis_effects(results: SearchResults) -> list[AxisEffect]:
    """Each axis, in the order of the space."""
    return [_effect(results, key) for key in results.axes]


def _effect(results: SearchResults, key: str) -> AxisEffect:
    groups: dict[str, list[float]] = {}
    for setting in results.ranked:
        assert setting.mean is not None
        groups.setdefault(value_text(setting.setting[key]), []).append(setting.mean)
    means = {value: (len(errors), fmean(errors)) for value, errors in groups.items()}
    ordered = dict(sorted(means.items(), key=lambda item: item[1][1]))
    errors = [error for _, error in ordered.values()]
    return AxisEffect(
        key=key,
        values=ordered,
        spread=errors[-1] - errors[0] if len(errors) > 1 else None,
        correlation=_correlation(results.ranked, key),
        computed_share=_computed_share(results.trials, key),
    )


def is_number(value: Any) -> bool:
    """Whether a value has a place on a line."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _correlation(settings: Sequence[SettingResult], key: str) -> float | None:
    values = [setting.setting[key] for setting in settings]
    if len(values) < 3 or not all(map(is_number, values)) or len(set(values)) < 3:
        return None
    ranks = [_ranks(values), _ranks([setting.mean or 0.0 for setting in settings])]
    if any(len(set(each)) == 1 for each in ranks):
        return None
    return correlation(*ranks)


def _ranks(values: Sequence[float]) -> list[float]:
    """Equal values share the mean of their places."""
    return [
        fmean(place for place, other in enumerate(sorted(values)) if other == value)
        for value in values
    ]


def _computed_share(trials: Sequence[Trial], key: str) -> float | None:
    shares = [
        trial.teacher_work.computed_share
        for trial in trials
        if trial.teacher_work is not None
        and any(_differ_in_this(before, trial, key) for before in trials)
    ]
    return fmean(shares) if shares else None


def _differ_in_this(before: Trial, after: Trial, key: str) -> bool:
    if before.ended is None or before.ended > after.started or before.teacher_work is None:
        return False
    if before.seed != after.seed:
        return False
    different = [name for name in after.setting if before.setting[name] != after.setting[name]]
    return different == [key]


def work_sentences(results: SearchResults, effects: Sequence[AxisEffect]) -> list[str]:
    """What teachers had to do for the search."""
    works = [trial.teacher_work for trial in results.trials if trial.teacher_work is not None]
    if not works:
        source = _source(results)
        if source == "store":
            return ["All trials read one store: no axis cost teachers any work."]
        if source is None:
            return []
        return ["Teachers lived in each trial, which asked them anew: every trial cost their work."]
    rows = sum(work.rows for work in works)
    made = sum(work.rows - work.known_rows for work in works)
    seconds = sum(work.teacher_s for work in works)
    said = [
        f"One pool answered {len(works)} trials: {rows:,} rows (utterances times teachers), of "
        f"which {made:,} were computed ({100 * made / max(1, rows):.1f} %, {seconds:.0f} s of "
        "teacher computation) and the rest remembered."
    ]
    known = [effect for effect in effects if effect.computed_share is not None]
    costly = [each for each in known if (each.computed_share or 0.0) > COSTS_WORK]
    free = [each for each in known if each not in costly]
    if costly:
        shown = ", ".join(
            f"{each.key} ({100 * (each.computed_share or 0):.0f} %)" for each in costly
        )
        said.append(f"Axes that cost teacher work again: {shown}.")
    if free:
        shown = ", ".join(each.key for each in free)
        said.append(f"Axes that cost no teacher work: {shown}.")
    unknown = [effect.key for effect in effects if effect.computed_share is None]
    if unknown:
        said.append(
            f"Not known of {', '.join(unknown)}: no trial began after the end of one that differs "
            "in this axis alone."
        )
    return said


def _source(results: SearchResults) -> str | None:
    """Where the base's teachers are; None of a training without teachers."""
    for run in results.runs.values():
        source = run.config.get("teachers", {}).get("source", {}).get("type")
        return None if source is None else str(source)
    return None
