"""The page's first paragraph, made from the numbers, and what a reader must bear in mind."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from kd_ray.report.bootstrap import Comparison, Statistics
from kd_ray.report.losses import missing_teachers
from kd_ray.report.results import Results, SystemResult
from kd_ray.report.runs import Run, event_counts
from kd_ray.report.systems import Evaluation
from kd_ray.report.tables import TIMES, p_value, parameters, signed, speed


def summary_sentence(results: Results, statistics: Statistics) -> str:
    """Best student, its distance to the undistilled one and to the teachers, size and speed."""
    best = results.best_student
    teachers = results.of_kind("teacher")
    split = results.ranked_split
    where = f"on {split} ({results.decoding} decoding)"
    if best is None:
        top = min(results.systems, key=results.percent)
        noun = "teacher" if len(teachers) == len(results.systems) else "system"
        return (
            f"The best of {_many(len(results.systems), noun)} is {quoted(top.label)} with "
            f"{results.percent(top):.1f} % error {where}. No student was evaluated."
        )
    sentences = [_against_baseline(results, best, statistics, where)]
    if teachers:
        sentences.append(_against_teachers(results, best, teachers))
    return " ".join(sentences)


def _against_baseline(
    results: Results, best: SystemResult, statistics: Statistics, where: str
) -> str:
    rate, base = results.percent(best), results.baseline
    students = results.of_kind("student")
    start = (
        f"The best of {_many(len(students), 'student')}, {quoted(best.label)}, makes {rate:.1f} % "
        f"errors {where}"
        if len(students) > 1
        else f"The student {quoted(best.label)} makes {rate:.1f} % errors {where}"
    )
    if base is None:
        return f"{start}; no student without distillation was evaluated to compare it with."
    if base.label == best.label:
        if len(students) == 1:
            return f"{start}; it learned from references alone."
        return f"{start}: no distilled student beats the one that learned from references alone."
    base_rate = results.percent(base)
    less = base_rate - rate
    relative = f", {100 * less / base_rate:.1f} % relative" if base_rate > 0 else ""
    return (
        f"{start}, {less:.1f} points fewer ({base_rate:.1f} % without teachers{relative})"
        f"{_chance(statistics.comparisons.get(best.label), statistics.resamples)}."
    )


def _chance(comparison: Comparison | None, resamples: int) -> str:
    if comparison is None:
        return ""
    low, high = comparison.interval.low, comparison.interval.high
    chance = p_value(comparison.p_value, resamples)
    text = (
        f"; the 95 % interval of the difference is {signed(low)} to {signed(high)} points "
        f"(p {chance if chance.startswith('≤') else f'= {chance}'})"
    )
    if comparison.includes_zero:
        text += ", which includes zero: these utterances cannot tell the two apart"
    return text


def _against_teachers(
    results: Results, best: SystemResult, teachers: Sequence[SystemResult]
) -> str:
    rates = [results.percent(teacher) for teacher in teachers]
    if len(teachers) > 1:
        text = (
            f"The {len(teachers)} teachers make {fmean(rates):.1f} % on average, between "
            f"{min(rates):.1f} and {max(rates):.1f} %"
        )
    else:
        text = f"The teacher makes {rates[0]:.1f} %"
    return f"{text}. {_size_and_speed(best, teachers)}"


def _size_and_speed(best: SystemResult, teachers: Sequence[SystemResult]) -> str:
    mean = fmean(teacher.parameters for teacher in teachers)
    average = " on average" if len(teachers) > 1 else ""
    times = mean / best.parameters if best.parameters > 0 else 0.0
    many = f", {times:.1f} times as many" if times >= 1.05 else ""
    text = (
        f"The student has {parameters(best.parameters)} parameters (a teacher has "
        f"{parameters(mean)}{average}{many})"
    )
    if best.real_time_factor is None:
        return f"{text}."
    paces = [t.real_time_factor for t in teachers if t.real_time_factor is not None]
    theirs = f" (a teacher's is {speed(fmean(paces))}{average})" if paces else ""
    return f"{text} and a real-time factor of {speed(best.real_time_factor)}{theirs}."


def quoted(label: str) -> str:
    """A label inside a sentence; labels may be words such as best."""
    return f"\N{LEFT DOUBLE QUOTATION MARK}{label}\N{RIGHT DOUBLE QUOTATION MARK}"


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def warnings_of(results: Evaluation[Any], runs: Sequence[Run]) -> list[str]:
    """What stands above the results: unfinished runs, faults, ties, mixed commits."""
    warnings = []
    if results.of_kind("student") and results.baseline is None:
        warnings.append("There is no student without distillation, so no relative change.")
    unfinished = [run for run in runs if not run.finished]
    if unfinished:
        named = _names([f"{quoted(run.label)} ({run.status})" for run in unfinished])
        warnings.append(f"Not every run finished: {named}.")
    for run in runs:
        if run.warns_of_ties:
            warnings.append(
                f"In the run {quoted(run.label)} teachers tied on "
                f"{_share(run.ties.get('share_of_ties'))} of the utterances and made no error on "
                f"{_share(run.ties.get('share_of_zero_error'))}: where that is more than half, "
                "error rates hardly choose between teachers."
            )
        signal = run.summary.get("signal") or {}
        missing = signal.get("missing_teacher_answers")
        if missing:
            shortened, names = signal.get("shortened_signals"), missing_teachers(run.events)
            warnings.append(
                f"In the run {quoted(run.label)} {missing} teacher answers were missing"
                f"{f', in {shortened} signals' if shortened else ''}"
                f"{f' (teachers {_names(names)})' if names else ''}; weights were renormalised "
                "over the others."
            )
    faulty = [run for run in runs if run.faults]
    if faulty:
        named = _names([f"{quoted(run.label)} ({_kinds(run)})" for run in faulty])
        warnings.append(f"Faults and decisions were logged in {named}.")
    commits = {str(run.environment["commit"]) for run in runs if run.environment.get("commit")}
    if len(commits) > 1:
        warnings.append(f"The runs come from {len(commits)} different commits.")
    return warnings


def _share(value: object) -> str:
    return f"{100 * value:.0f} %" if isinstance(value, int | float) else "an unknown share"


def _kinds(run: Run) -> str:
    return ", ".join(f"{count} {TIMES} {kind}" for kind, count in event_counts(run.faults))


def _names(names: Sequence[str], limit: int = 6) -> str:
    if len(names) <= limit:
        return ", ".join(names)
    return ", ".join(names[:limit]) + f" and {len(names) - limit} more"
