"""A search as a table in the terminal, and as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from kd_ray.report.console import log_console
from kd_ray.report.search import (
    SearchResults,
    SettingResult,
    Trial,
    short_axes,
    value_text,
)
from kd_ray.report.search_axes import AxisEffect, axis_effects, work_sentences
from kd_ray.report.search_verdict import Against, Verdict, signed, with_deviation
from kd_ray.report.tables import NONE, parameters


def setting_head(results: SearchResults, verdict: Verdict) -> list[str]:
    """Headings of the table of settings."""
    axes = short_axes(list(results.axes))
    evaluated = [verdict.title] if verdict.scored else []
    return ["#", *axes.values(), f"validation\n{results.measure.title}", *evaluated,
            "winner minus it\n(95 % interval)", "parameters", "trials"]  # fmt: skip


def setting_row(results: SearchResults, setting: SettingResult, verdict: Verdict) -> list[str]:
    """One line of it."""
    row = [str(setting.number), *(value_text(setting.setting[key]) for key in results.axes)]
    row.append(_validation(results, setting))
    if verdict.scored:
        found = verdict.scored.get(setting.number)
        row.append(NONE if found is None else with_deviation(found.mean, found.deviation))
    row.append(against_text(verdict.against.get(setting.number)))
    count = setting.parameters
    return [*row, NONE if count is None else parameters(count), setting.status]


def _validation(results: SearchResults, setting: SettingResult) -> str:
    shown = results.measure.shown
    if setting.reached is None:
        return NONE
    if setting.complete:
        return with_deviation(shown(setting.reached), setting.deviation)
    return f"({shown(setting.reached):.2f})"


def against_text(found: Against | None) -> str:
    """The winner's difference from a setting; `≈` where the two cannot be told apart."""
    if found is None:
        return NONE
    text = signed(found.difference)
    if found.interval is not None:
        text += f" ({signed(found.interval.low)} to {signed(found.interval.high)})"
    return f"{text} ≈" if found.better is None else text


def show_search(results: SearchResults, verdict: Verdict) -> None:
    """The table of settings and the verdict, in the terminal."""
    console = log_console()
    table = Table(box=SIMPLE_HEAD, title=Text(f"search {results.name}"), title_justify="left")
    for heading in setting_head(results, verdict):
        table.add_column(Text(heading))
    for setting in results.settings:
        style = "bold" if setting.number == verdict.winner else ""
        row = setting_row(results, setting, verdict)
        table.add_row(*(Text(cell) for cell in row), style=style)
    console.print(table)
    for trial in results.counted:
        if trial.state == "failed":
            console.print(Text(f"#{trial.number}, seed {trial.seed} failed: {trial.reason}"))
    for line in [verdict.text, *verdict.notes, *work_sentences(results, axis_effects(results))]:
        console.print(Text(line))


def search_json(results: SearchResults, verdict: Verdict) -> dict[str, Any]:
    """All of it as plain data, with unrounded numbers."""
    effects = axis_effects(results)
    return {
        "name": results.name,
        "base": results.config["base"],
        "measure": results.measure.title,
        "axes": results.axes,
        "settings": [_setting_json(results, each, verdict) for each in results.settings],
        "verdict": {
            "winner": verdict.winner,
            "text": verdict.text,
            "split": verdict.split,
            "measured": verdict.title,
            "against": [asdict(each) for each in verdict.against.values()],
            "notes": list(verdict.notes),
        },
        "effects": [_effect_json(each) for each in effects],
        "teacher_work": work_sentences(results, effects),
    }


def _setting_json(
    results: SearchResults, setting: SettingResult, verdict: Verdict
) -> Mapping[str, Any]:
    mean = setting.mean
    scored = verdict.scored.get(setting.number)
    return {
        "number": setting.number,
        "setting": dict(setting.setting),
        "status": setting.status,
        "complete": setting.complete,
        "score": None if mean is None else results.measure.shown(mean),
        "mean_error": mean,
        "deviation": setting.deviation,
        "evaluated": None
        if scored is None
        else {"mean": scored.mean, "deviation": scored.deviation, "by_seed": dict(scored.by_seed)},
        "parameters": setting.parameters,
        "trials": [_trial_json(trial) for trial in setting.trials],
    }


def _trial_json(trial: Trial) -> Mapping[str, Any]:
    work = trial.teacher_work
    return {
        "run": trial.name,
        "seed": trial.seed,
        "state": trial.state,
        "reason": trial.reason or None,
        "error": trial.error,
        "lowest_error": trial.best_so_far,
        "epochs": trial.epochs,
        "curve": [list(point) for point in trial.curve],
        "seconds": round(trial.seconds, 1),
        "teacher_work": None
        if work is None
        else {**asdict(work), "computed_share": work.computed_share},
        "repeat": trial.repeat or None,
    }


def _effect_json(effect: AxisEffect) -> Mapping[str, Any]:
    values: Sequence[Mapping[str, Any]] = [
        {"value": value, "settings": count, "mean_error": mean}
        for value, (count, mean) in effect.values.items()
    ]
    return {**asdict(effect), "values": values}
