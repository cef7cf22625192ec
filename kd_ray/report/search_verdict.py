"""Who won a search, and how sure that is: the winner against every other complete setting.

Settings are ranked by their validation scores alone. An evaluation of the trials, on another split,
then says how sure the differences are: a paired bootstrap over utterances, the counts of a
setting's seeds added up.

Shapes: U utterances, R resamples.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
from numpy.typing import NDArray

from kd_ray.core.bootstrap import RESAMPLES, Comparison, Interval, compare
from kd_ray.core.translation_scores import resampled_scores, score_of
from kd_ray.report.bootstrap import resample_rates
from kd_ray.report.evaluations import read_any_results
from kd_ray.report.results import Results, read_hypotheses
from kd_ray.report.search import Measure, SearchResults, SettingResult, setting_text
from kd_ray.report.systems import ReportError
from kd_ray.report.tables import MINUS
from kd_ray.report.translations import RANKS, TranslationResults, read_translations

_T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Of Student's t, for 1 to 9 degrees of freedom; 2.262 is on the safe side for more."""


@dataclass(frozen=True)
class Scored:
    """A setting on the split of the evaluation, in the unit of its measure."""

    by_seed: Mapping[int, float]
    resampled: NDArray[np.float64]
    """(R,): of all seeds together, on resampled sets of utterances."""
    together: float
    """Of all seeds together: the counts added up."""

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return fmean(self.by_seed.values())

    @property
    def deviation(self) -> float | None:
        """Over the seeds; None of one."""
        return stdev(self.by_seed.values()) if len(self.by_seed) > 1 else None


@dataclass(frozen=True)
class Against:
    """The winner against another setting; differences are winner minus other, as shown."""

    number: int
    by_seed: Mapping[int, float]
    """Seed to difference: on the split of the evaluation, else of validation scores."""
    interval: Interval | None
    """95 %: of the bootstrap, else of the seeds (Student's t); None where nothing gives one."""
    p_value: float | None
    """Of the bootstrap."""
    difference: float
    better: bool | None
    """The winner is better; False: it is worse; None: the two cannot be told apart."""


@dataclass(frozen=True)
class Verdict:
    """Who won, against whom, on what grounds."""

    winner: int | None
    """Number of a setting."""
    split: str | None
    """Of the evaluation."""
    title: str
    """What differences are of."""
    text: str
    against: Mapping[int, Against] = field(default_factory=dict)
    """By the number of the other setting, best first."""
    scored: Mapping[int, Scored] = field(default_factory=dict)
    """By the number of the setting; empty without an evaluation."""
    notes: tuple[str, ...] = ()


def verdict_of(results: SearchResults, evaluation: Path | None) -> Verdict:
    """Judge a search.

    Args:
        results: what its folders tell.
        evaluation: folder of the evaluation of its finished trials; None: there is none.
    """
    ranked = results.ranked
    title = results.measure.title
    if not ranked:
        text = "No setting was trained to its end with every seed, so there is no winner."
        return Verdict(None, None, title, text)
    split: str | None = None
    scored: dict[int, Scored] = {}
    lower_is_better = not results.measure.from_hundred
    if evaluation is not None:
        split, title, lower_is_better, scored = _scored(evaluation, ranked)
    winner = ranked[0]
    against = {
        other.number: _judge(winner, other, results.measure, scored, lower_is_better)
        for other in ranked[1:]
    }
    text = _text(results, winner, against, split, title)
    return Verdict(winner.number, split, title, text, against, scored, _notes(results, split))


def _scored(
    folder: Path, settings: Sequence[SettingResult]
) -> tuple[str, str, bool, dict[int, Scored]]:
    """(split, what is measured, whether less is better, settings on the evaluation's split)."""
    found = read_any_results(folder)
    split = found.ranked_split
    if isinstance(found, TranslationResults):
        translations = read_translations(folder, found)
        if translations is None:
            raise ReportError(f"{folder} holds no hypotheses on {split}: evaluate again")
        counts = {label: each[RANKS] for label, each in translations.counts.items()}
        scored = {
            each.number: _scored_texts(each, counts) for each in settings if _has(each, counts)
        }
        return split, f"{found.measure} on {split}", False, scored
    assert isinstance(found, Results)
    hypotheses = read_hypotheses(folder, found)
    if hypotheses is None or hypotheses.lengths is None:
        raise ReportError(f"{folder} holds no hypotheses on {split} that can be counted")
    errors, lengths = hypotheses.errors, hypotheses.lengths
    scored = {
        each.number: _scored_rates(each, errors, lengths) for each in settings if _has(each, errors)
    }
    return split, f"{found.measure} on {split}", True, scored


def _has(setting: SettingResult, labels: Mapping[str, object]) -> bool:
    return all(trial.label in labels for trial in setting.counted)


def _scored_rates(
    setting: SettingResult, errors: Mapping[str, NDArray[np.int64]], lengths_U: NDArray[np.int64]
) -> Scored:
    units = max(1, int(lengths_U.sum()))
    by_seed = {
        trial.seed: 100.0 * int(errors[trial.label].sum()) / units for trial in setting.counted
    }
    summed_U = np.sum([errors[trial.label] for trial in setting.counted], axis=0)
    many = len(setting.counted)
    rates = resample_rates(summed_U[None], lengths_U * many)
    return Scored(by_seed, rates[:, 0], 100.0 * int(summed_U.sum()) / (units * many))


def _scored_texts(setting: SettingResult, counts: Mapping[str, NDArray[np.float64]]) -> Scored:
    own = {trial.seed: counts[trial.label] for trial in setting.counted}
    summed_UK = np.sum(list(own.values()), axis=0)
    return Scored(
        {seed: score_of(each.sum(axis=0), RANKS) for seed, each in own.items()},
        resampled_scores(summed_UK, RANKS),
        score_of(summed_UK.sum(axis=0), RANKS),
    )


def _judge(
    winner: SettingResult,
    other: SettingResult,
    measure: Measure,
    scored: Mapping[int, Scored],
    lower_is_better: bool,
) -> Against:
    mine, theirs = scored.get(winner.number), scored.get(other.number)
    if mine is None or theirs is None:
        return _judge_by_seeds(winner, other, measure)
    common = mine.by_seed.keys() & theirs.by_seed.keys()
    by_seed = {seed: mine.by_seed[seed] - theirs.by_seed[seed] for seed in sorted(common)}
    found: Comparison = compare(mine.resampled, theirs.resampled, mine.together - theirs.together)
    sign = -1.0 if lower_is_better else 1.0
    better = None
    if not found.includes_zero and (
        all(each > 0 for each in by_seed.values()) or all(each < 0 for each in by_seed.values())
    ):
        better = bool(sign * found.difference > 0)
    return Against(other.number, by_seed, found.interval, found.p_value, found.difference, better)


def _judge_by_seeds(winner: SettingResult, other: SettingResult, measure: Measure) -> Against:
    """By validation scores, seed by seed."""
    common = sorted(winner.errors.keys() & other.errors.keys())
    by_seed = {
        seed: measure.shown(winner.errors[seed]) - measure.shown(other.errors[seed])
        for seed in common
    }
    assert winner.mean is not None
    assert other.mean is not None
    difference = measure.shown(winner.mean) - measure.shown(other.mean)
    interval = _t_interval(list(by_seed.values()))
    apart = interval is not None and not interval.low <= 0 <= interval.high
    return Against(other.number, by_seed, interval, None, difference, True if apart else None)


def _t_interval(differences: Sequence[float]) -> Interval | None:
    if len(differences) < 2:
        return None
    t = _T_975[min(len(differences) - 1, len(_T_975)) - 1]
    reach = t * stdev(differences) / math.sqrt(len(differences))
    return Interval(fmean(differences) - reach, fmean(differences) + reach)


def _text(
    results: SearchResults,
    winner: SettingResult,
    against: Mapping[int, Against],
    split: str | None,
    title: str,
) -> str:
    measure = results.measure
    count = len(results.ranked)
    seeds = len(winner.counted)
    score = _score(winner, measure)
    over = f" over {seeds} seeds" if seeds > 1 else ""
    said = (
        f"Best of {count} complete settings by validation ({measure.title}): "
        f"#{winner.number} {setting_text(winner.setting)}, {score}{over}."
    )
    if not against:
        return f"{said} There is no second setting to compare it with."
    second = results.ranked[1]
    found = against[second.number]
    said += f" Second: #{second.number} {setting_text(second.setting)}, "
    said += f"{_score(second, measure)}."
    if found.interval is None:
        return (
            f"{said} With one seed and no evaluation nothing says how sure this is: the two cannot "
            "be told apart."
        )
    evaluated = split is not None and found.p_value is not None
    what = f"On {split}" if evaluated else "Seed by seed"
    said += (
        f" {what} they differ by {signed(found.difference)} "
        f"({title if evaluated else measure.title}; 95 % interval "
        f"{signed(found.interval.low)} to {signed(found.interval.high)}): "
    )
    if found.better is None:
        said += "the two cannot be told apart."
    elif found.better:
        said += "the winner is better."
    else:
        said += "there the second is the better one."
    alike = [each.number for each in against.values() if each.better is None]
    if len(alike) > 1:
        said += f" Not told apart from the winner: {', '.join(f'#{n}' for n in alike)}."
    return said


def _score(setting: SettingResult, measure: Measure) -> str:
    assert setting.mean is not None
    return with_deviation(measure.shown(setting.mean), setting.deviation)


def with_deviation(mean: float, deviation: float | None) -> str:
    """A mean and how far its parts are from it: `31.00 ± 1.41`."""
    return f"{mean:.2f}" if deviation is None else f"{mean:.2f} ± {deviation:.2f}"


def signed(value: float) -> str:
    """A difference, its sign always shown."""
    return f"{'+' if value >= 0 else MINUS}{abs(value):.2f}"


def _notes(results: SearchResults, split: str | None) -> tuple[str, ...]:
    if split is None:
        notes = [
            "Intervals are Student's t over the differences of the seeds, of validation scores. "
            "Settings were chosen by these scores, so that of the winner flatters it."
        ]
    else:
        notes = [
            f"Intervals: paired bootstrap, {RESAMPLES} resamples of the utterances of {split}, the "
            "errors of all seeds added up. Two settings count as told apart if the interval "
            "excludes zero and every seed says the same. It is not corrected for the number of "
            "settings."
        ]
        if all(len(setting.counted) == 1 for setting in results.ranked):
            notes.append("One seed: nothing is known of how much another one would change.")
    stopped = [setting.number for setting in results.settings if not setting.complete]
    if stopped:
        notes.append(
            "Not ranked, as not every seed was trained to its end: "
            f"{', '.join(f'#{number}' for number in stopped)}. In brackets: the best validation "
            "score of what was trained."
        )
    return tuple(notes)
