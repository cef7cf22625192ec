"""A search as one self-contained HTML page."""

from collections.abc import Sequence
from datetime import UTC, datetime

from kd_ray import __version__
from kd_ray.report import search_plots as plots
from kd_ray.report.html import Html, h, joined
from kd_ray.report.run_sections import runs_section
from kd_ray.report.runs import environment_facts
from kd_ray.report.search import SearchResults, setting_text, short_axes, value_text
from kd_ray.report.search_axes import AxisEffect, axis_effects, work_sentences
from kd_ray.report.search_tables import setting_head, setting_row
from kd_ray.report.search_verdict import Verdict
from kd_ray.report.style import CSS
from kd_ray.report.tables import NONE

_MOST_RUNS = 40
"""Of more trials only the best are shown run by run."""


def search_page(results: SearchResults, verdict: Verdict, *, now: datetime | None = None) -> Html:
    """The page; the same results and date give the same bytes."""
    effects = axis_effects(results)
    sections = [
        ("settings", "Settings", _settings(results, verdict)),
        ("plots", "Plots", _plots(results)),
        ("axes", "Axes", _axes(results, effects)),
        ("trials", "Trials", _trials(results)),
        ("what", "What was run", _facts(results)),
        ("runs", "Runs", _runs(results)),
    ]
    links = joined(h('<a href="#{id}">{name}</a>', id=i, name=n) for i, n, _ in sections)
    body = joined(
        h('<section id="{id}"><h2>{name}</h2>{inside}</section>', id=i, name=n, inside=inside)
        for i, n, inside in sections
    )
    moment = now or datetime.now(UTC)
    return h(
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<title>{title}</title>\n<style>{css}</style>\n</head>\n<body>\n<main>\n"
        '<header><h1>{title}</h1><div class="byline">{byline}</div>'
        '<p class="lead">{lead}</p>{failures}<nav>{links}</nav></header>\n'
        "{body}\n<footer>Written by kd_ray from run folders.</footer>\n</main>\n</body>\n</html>\n",
        title=f"Search {results.name}",
        css=Html(CSS),
        byline=f"kd_ray {__version__} · base {results.config['base']} · {moment:%Y-%m-%d %H:%M} "
        f"{moment.tzname() or ''}".rstrip(),
        lead=verdict.text,
        failures=_failures(results),
        links=links,
        body=body,
    )


def _failures(results: SearchResults) -> Html:
    failed = [trial for trial in results.counted if trial.state == "failed"]
    if not failed:
        return Html("")
    items = joined(
        h(
            "<li>#{n}, seed {seed} ({setting}) failed: {reason}</li>",
            n=trial.number,
            seed=trial.seed,
            setting=setting_text(trial.setting),
            reason=trial.reason,
        )
        for trial in failed
    )
    return h('<div class="warnings"><h2>To bear in mind</h2><ul>{items}</ul></div>', items=items)


def _settings(results: SearchResults, verdict: Verdict) -> Html:
    numeric_from = 1 + len(results.axes)
    rows = [
        (
            "best" if setting.number == verdict.winner else "",
            setting_row(results, setting, verdict),
        )
        for setting in results.settings
    ]
    notes = joined(h("<p>{n}</p>", n=note) for note in verdict.notes)
    return h(
        '{table}<div class="note under">{notes}</div>',
        table=_table(setting_head(results, verdict), rows, numeric_from),
        notes=notes,
    )


def _table(
    head: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]], numeric_from: int
) -> Html:
    """Cells from `numeric_from` to the last but one are numbers."""

    def kind(column: int) -> Html:
        is_numeric = numeric_from <= column < len(head) - 1
        return Html(' class="num"') if is_numeric else Html("")

    top = joined(
        h('<th scope="col"{k}>{t}</th>', k=kind(column), t=text) for column, text in enumerate(head)
    )
    lines = joined(
        h(
            '<tr class="{c}"><th scope="row">{first}</th>{rest}</tr>',
            c=classes,
            first=cells[0],
            rest=joined(
                h("<td{k}>{t}</td>", k=kind(column), t=text)
                for column, text in enumerate(cells[1:], start=1)
            ),
        )
        for classes, cells in rows
    )
    return h(
        '<div class="card scroll"><table class="data"><thead><tr>{top}</tr></thead>'
        "<tbody>{lines}</tbody></table></div>",
        top=top,
        lines=lines,
    )


def _plots(results: SearchResults) -> Html:
    better = "above" if results.measure.from_hundred else "below"
    figures = [
        (
            plots.parallel_coordinates(results),
            "A line is a setting; the best one is orange, dashed grey ones were not trained to "
            "their end. Better scores are further up.",
        ),
        (
            plots.by_axis(results),
            f"A dot is a complete setting, bars are deviations over seeds, short lines means of a "
            f"value; better is {better}.",
        ),
        (
            plots.learning_curves(results),
            "Each trial; crosses are trials that were stopped early or failed.",
        ),
        (plots.against_size(results), f"Complete settings; better is {better}."),
    ]
    return h(
        '<div class="plots">{figures}</div>',
        figures=joined(
            h(
                '<figure class="card wide"><div class="scroll">{svg}</div>'
                "<figcaption>{caption}</figcaption></figure>",
                svg=Html(svg),
                caption=caption,
            )
            for svg, caption in figures
            if svg
        ),
    )


def _axes(results: SearchResults, effects: Sequence[AxisEffect]) -> Html:
    head = ["axis", "values and mean score of their complete settings", "spread\npoints",
            "rank correlation\nwith the error", "rows computed\nagain", ""]  # fmt: skip
    names = short_axes(list(results.axes))
    rows = [
        (
            "",
            [
                names[effect.key],
                _values(results, effect),
                NONE if effect.spread is None else f"{effect.spread:.2f}",
                NONE if effect.correlation is None else f"{effect.correlation:+.2f}",
                NONE if effect.computed_share is None else f"{100 * effect.computed_share:.1f} %",
                "",
            ],
        )
        for effect in effects
    ]
    notes = [
        "Means over settings that differ in the other axes too, and without those that were "
        "stopped early: they show where to look, not what causes what.",
        *work_sentences(results, effects),
    ]
    return h(
        '{table}<div class="note under">{notes}</div>',
        table=_table(head, rows, 2),
        notes=joined(h("<p>{n}</p>", n=note) for note in notes),
    )


def _values(results: SearchResults, effect: AxisEffect) -> str:
    shown = results.measure.shown
    parts = [
        f"{value}: {shown(error):.2f} ({count})" for value, (count, error) in effect.values.items()
    ]
    return "; ".join(parts[:8]) + (f"; and {len(parts) - 8} more" if len(parts) > 8 else "")


def _trials(results: SearchResults) -> Html:
    head = ["trial", "seed", "state", "epochs", "best validation", "seconds",
            "teacher rows\ncomputed", "again, alone"]  # fmt: skip
    rows = []
    for trial in results.trials:
        best = trial.error if trial.error is not None else trial.best_so_far
        work = trial.teacher_work
        last = trial.curve[-1][0] if trial.curve else 0
        rows.append(
            (
                "best" if results.ranked and trial.number == results.ranked[0].number else "",
                [
                    f"#{trial.number} {setting_text(trial.setting)}",
                    str(trial.seed),
                    f"failed: {trial.reason}"
                    if trial.state == "failed"
                    else trial.reason or trial.state,
                    f"{last} of {trial.epochs}",
                    NONE if best is None else f"{results.measure.shown(best):.2f}",
                    f"{trial.seconds:.0f}",
                    NONE if work is None else f"{work.rows - work.known_rows:,} of {work.rows:,}",
                    trial.repeat or NONE,
                ],
            )
        )
    return _table(head, rows, 3)


def _facts(results: SearchResults) -> Html:
    config = results.config
    facts: list[tuple[str, object]] = [
        ("Base", config["base"]),
        ("Overrides", value_text(config["overrides"]) if config["overrides"] else NONE),
        ("Algorithm", value_text(config["algorithm"])),
        ("Early stopping", value_text(config["scheduler"])),
        ("Seeds", ", ".join(map(str, config["seeds"]))),
        ("Again", h("<code>kd-ray search runs/{name}/config.json</code>", name=results.name)),
    ]
    facts += environment_facts([run.environment for run in results.runs.values()]).items()
    lines = joined(h("<dt>{k}</dt><dd>{v}</dd>", k=key, v=value) for key, value in facts)
    return h('<dl class="facts card">{lines}</dl>', lines=lines)


def _runs(results: SearchResults) -> Html:
    shown = [trial.key for trial in results.trials][:_MOST_RUNS]
    more = len(results.trials) - len(shown)
    note = (
        h('<p class="note">{n} more trials are not shown here.</p>', n=more) if more else Html("")
    )
    return h("{note}{runs}", note=note, runs=runs_section([results.runs[key] for key in shown]))
