"""One self-contained HTML page about an evaluation and the runs behind it.

Nothing is fetched: the style sheet and all plots are inside the page. All text is escaped.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kd_ray.evaluation.run_folder import write_atomically
from kd_ray.report import plots
from kd_ray.report.bootstrap import Statistics
from kd_ray.report.diagnostics import diagnostics
from kd_ray.report.document import document
from kd_ray.report.evaluations import ErrorRates, Evaluated, read_evaluated
from kd_ray.report.html import Html, h, joined
from kd_ray.report.results import Hypotheses, Results
from kd_ray.report.run_sections import runs_section
from kd_ray.report.runs import Run, environment_facts, read_runs, repeat_command
from kd_ray.report.summary import summary_sentence, warnings_of
from kd_ray.report.systems import Evaluation, read_json
from kd_ray.report.tables import NONE, TIMES, Line, View
from kd_ray.report.texts import texts_section
from kd_ray.report.translation_summary import translation_notes, translation_sentence
from kd_ray.report.utterances import pick, sample_html

MANY_ROWS = 12
"""More teachers than this stand behind a click."""


def write_report(
    evaluation_folder: Path,
    run_folders: Mapping[str, Path],
    out: Path,
    title: str,
    *,
    now: datetime | None = None,
) -> Path:
    """Write the page.

    Args:
        evaluation_folder: `runs/<name>` of a `kd-ray evaluate`.
        run_folders: label to run folder of every model whose training is to be shown; labels that
            the evaluation uses too get the same colour. Error rates in metrics are in percent.
        out: the HTML file; its folder is made, and the file appears at once or not at all.
        title: heading of the page.
        now: date of writing; the same inputs and date give the same bytes.

    Returns:
        `out`.

    Raises:
        ReportError: a folder lacks what the report needs, or files contradict each other.
    """
    evaluated = read_evaluated(evaluation_folder)
    page = _page(
        title,
        evaluated,
        read_runs(run_folders, evaluated.results),
        _Origin.read(evaluation_folder),
        now or datetime.now(UTC),
    )
    write_atomically(out, page)
    return out


class _Origin:
    """Name and environment of the evaluation run, as far as its folder tells."""

    def __init__(self, name: str, environment: Mapping[str, object]) -> None:
        self.name = name
        self.environment = environment

    @classmethod
    def read(cls, folder: Path) -> "_Origin":
        found = {
            name: read_json(path) if (path := folder / f"{name}.json").exists() else {}
            for name in ("config", "environment")
        }
        return cls(str(found["config"].get("name", folder.name)), found["environment"])


def _page(
    title: str, evaluated: Evaluated, runs: Sequence[Run], origin: _Origin, now: datetime
) -> Html:
    results, statistics = evaluated.results, evaluated.statistics
    if isinstance(evaluated, ErrorRates):
        lead = summary_sentence(evaluated.results, statistics)
        samples = _utterances_section(evaluated.results, evaluated.hypotheses)
        own_notes = []
    else:
        lead = translation_sentence(evaluated.results, statistics)
        samples = texts_section(evaluated.results, evaluated.hypotheses)
        own_notes = translation_notes(evaluated.results)
    notes = [*own_notes, *_notes(results, statistics)]
    sections = [
        ("results", "Results", _results_section(results, evaluated.view, notes)),
        ("plots", "Plots", _plots_section(results, statistics, runs)),
        ("what", "What was run", _facts_section(evaluated, runs, origin)),
        ("runs", "Runs", runs_section(runs)),
        ("utterances", "Utterances", samples),
    ]
    return document(
        title,
        sections,
        origin=f"evaluation {origin.name}",
        now=now,
        lead=lead,
        warnings=warnings_of(results, runs),
        footer="Written by kd_ray from run folders; every figure is computed from the counts and "
        "metrics in them.",
    )


def _results_section(results: Evaluation[Any], view: View, notes: Sequence[str]) -> Html:
    lines = view.lines
    teachers = [line for line in lines if line.kind == "teacher"]
    hidden = Html("")
    if len(teachers) > MANY_ROWS:
        hidden = h(
            '<details class="more"><summary>All {count} teachers</summary>{table}</details>',
            count=len(teachers),
            table=_table(results, view, teachers),
        )
        shown = [teachers[0], teachers[-1]]
        lines = (*shown, *(line for line in lines if line.kind != "teacher"))
    return h(
        '{table}{hidden}<div class="note under">{notes}</div>',
        table=_table(results, view, lines),
        hidden=hidden,
        notes=joined(h("<p>{n}</p>", n=n) for n in notes),
    )


def _table(results: Evaluation[Any], view: View, lines: Sequence[Line]) -> Html:
    looks = plots.looks(results)
    head = joined(
        h(
            '<th scope="col"{numeric}>{title}</th>',
            numeric=_numeric(heading.numeric),
            title=heading.title,
        )
        for heading in view.headings
        if heading.shown
    )
    rows = []
    before: Line | None = None
    for line in lines:
        swatch = plots.swatch(looks.get(line.label) if line.kind == "student" else None)
        first = h('<th scope="row">{swatch}{label}</th>', swatch=swatch, label=line.texts[0])
        others = joined(
            h("<td{numeric}>{text}</td>", numeric=_numeric(heading.numeric), text=text)
            for text, heading in zip(line.texts[1:], view.headings[1:], strict=True)
            if heading.shown
        )
        classes = [
            *(["mean"] if line.kind == "teacher mean" else []),
            *(["best"] if line.best_student else []),
            *(["section"] if before is not None and before.group != line.group else []),
        ]
        rows.append(
            h(
                '<tr class="{c}">{first}{others}</tr>',
                c=" ".join(classes),
                first=first,
                others=others,
            )
        )
        before = line
    return h(
        '<div class="card scroll"><table class="data"><thead><tr>{head}</tr></thead>'
        "<tbody>{rows}</tbody></table></div>",
        head=head,
        rows=joined(rows),
    )


def _numeric(numeric: bool) -> Html:
    return Html(' class="num"') if numeric else Html("")


def _notes(results: Evaluation[Any], statistics: Statistics) -> list[str]:
    split = results.ranked_split
    count = results.splits[split].utterances
    notes = []
    teachers = len(results.of_kind("teacher"))
    if teachers > MANY_ROWS:
        notes.append(f"Of {teachers} teachers the best and the worst on {split} are in the table.")
    if statistics.intervals:
        notes.append(
            f"Intervals: {statistics.resamples} bootstrap resamples of the {count} utterances of "
            f"{split}, the same draws for all systems (paired). They cover the choice of test "
            "utterances only, not the training seed, and take utterances for independent although "
            "speakers repeat."
        )
    if statistics.comparisons:
        compared = len(statistics.comparisons)
        students = len(results.of_kind("student")) - 1
        noun = "students" if students == compared else "systems"
        correction = (
            f" The values are not corrected for looking at {compared} {noun}, and the best "
            "student was chosen on the same utterances."
            if compared > 1
            else ""
        )
        notes.append(
            f"p: two-sided, against {results.baseline.label if results.baseline else NONE}, which "
            f"learned from references alone.{correction}"
        )
    if any(system.real_time_factor is not None for system in results.systems):
        notes.append(
            "Real-time factor: seconds of computation per second of audio, one thread, one "
            "utterance at a time; lower is faster."
        )
    return [*notes, *statistics.notes]


def _plots_section(results: Evaluation[Any], statistics: Statistics, runs: Sequence[Run]) -> Html:
    teachers = len(results.of_kind("teacher"))
    band = (
        " The band spans all teachers; its darker part is the middle 80 %."
        if teachers > plots.MANY
        else ""
    )
    bars = (
        "Lines across the ends of bars: 95 % bootstrap intervals. " if statistics.intervals else ""
    )
    grey = (
        "teachers, text experts and cascades"
        if results.of_kind("expert") or results.of_kind("cascade")
        else "teachers"
    )
    corner = "Lower left" if results.lower_is_better else "Upper left"
    wide = [
        (
            plots.scores(results, statistics),
            f"{bars}Students in colour, {grey} in grey.",
        ),
        (
            plots.learning_curves(results, runs),
            "Losses of distilled and undistilled students are different quantities: compare their "
            f"course, not their height.{band}",
        ),
        (
            diagnostics(results, runs),
            "Of runs that train on the student's own prefixes; means over the updates of an epoch.",
        ),
    ]
    pair = [
        (
            plots.score_against_speed(results),
            f"{corner} is better; {plots.size_note(results)}.",
        ),
        (
            plots.time_split(results, runs),
            "Where the time of an update goes, mean over the updates of a run. What teachers "
            "compute while the student is busy costs no waiting and is not shown.",
        ),
    ]
    return h(
        '<div class="plots">{wide}<div class="pair">{pair}</div></div>',
        wide=joined(_figure(svg, caption, "wide") for svg, caption in wide if svg),
        pair=joined(_figure(svg, caption, "half") for svg, caption in pair if svg),
    )


def _figure(svg: str, caption: str, width: str) -> Html:
    return h(
        '<figure class="card {width}"><div class="scroll">{svg}</div>'
        "<figcaption>{caption}</figcaption></figure>",
        width=width,
        svg=Html(svg),
        caption=caption,
    )


def _facts_section(evaluated: Evaluated, runs: Sequence[Run], origin: _Origin) -> Html:
    kinds: dict[str, int] = {}
    for run in runs:
        kinds[run.command] = kinds.get(run.command, 0) + 1
    commands = ", ".join(
        f"{count} {TIMES} kd-ray {command}" if count > 1 else f"kd-ray {command}"
        for command, count in kinds.items()
    )
    facts: list[tuple[str, object]] = [("Training", commands)] if commands else []
    command = repeat_command("evaluate", origin.name)
    facts.append(("Evaluation", h("<code>{command}</code>", command=command)))
    for name, split in evaluated.results.splits.items():
        units = _reference_units(evaluated, name)
        text = f"{split.utterances:,} utterances, {units}, {split.manifest}"
        facts.append((f"Split {name}", text))
    environments = [origin.environment, *(run.environment for run in runs)]
    facts += environment_facts(environments).items()
    lines = joined(h("<dt>{k}</dt><dd>{v}</dd>", k=key, v=value) for key, value in facts)
    return h('<dl class="facts card">{lines}</dl>', lines=lines)


def _reference_units(evaluated: Evaluated, split: str) -> str:
    """How long the references of a split are; TER counts their words."""
    if isinstance(evaluated, ErrorRates):
        results = evaluated.results
        length = results.systems[0].scores[split][results.decoding].reference_length
        return f"{length:,} {results.unit}"
    words = evaluated.results.systems[0].scores[split].counts["ter"][1]
    return f"{words:,.0f} words of reference translations"


def _utterances_section(results: Results, hypotheses: Hypotheses | None) -> Html:
    if hypotheses is None or not hypotheses.ids:
        return Html("")
    worst, random = pick(results, hypotheses)
    key = Html(
        '<p class="note key"><span class="s">substituted</span>'
        '<span class="d">&ndash; deleted</span>'
        '<span class="i">+ inserted</span> The number before a hypothesis counts its errors.</p>'
    )
    blocks = [
        h("<h3>The {n} with most errors per unit</h3>", n=len(worst)),
        *(h('<div class="card sample">{s}</div>', s=sample_html(sample)) for sample in worst),
    ]
    if random:
        blocks += [
            h("<h3>{n} drawn at random from the others</h3>", n=len(random)),
            *(h('<div class="card sample">{s}</div>', s=sample_html(sample)) for sample in random),
        ]
    intro = h(
        '<p class="note">From {split}, {decoding} decoding.</p>',
        split=results.ranked_split,
        decoding=results.decoding,
    )
    return joined([intro, key, *blocks])
