"""A comparison of two systems as JSON, as Markdown and as a page that fetches nothing."""

import json
from collections.abc import Sequence
from dataclasses import asdict

from kd_ray.report.comparison import (
    CorpusDifference,
    Measure,
    SystemComparison,
    UtteranceDifference,
    measure_title,
    sides,
)
from kd_ray.report.html import Html, h, joined
from kd_ray.report.style import CSS
from kd_ray.report.tables import NONE, p_value, signed


def comparison_json(found: SystemComparison) -> str:
    """All of it, with unrounded numbers."""
    return json.dumps(asdict(found), indent=2, ensure_ascii=False) + "\n"


def _lead(found: SystemComparison) -> str:
    return (
        f"{found.utterances} utterances of {found.split}, by {measure_title(found.measure)} of "
        f"each: {found.system} is better on {found.better}, equal on {found.equal}, worse on "
        f"{found.worse}."
    )


def _notes(found: SystemComparison) -> str:
    return (
        f"Paired bootstrap: {found.resamples} resamples of the utterances, the same for both, "
        f"seed {found.seed}; the middle 95 % of the differences; p is two-sided. It covers the "
        "choice of utterances only, not the training seed."
    )


_HEAD = ("", "system", "baseline", "difference", "95 % interval", "p", "better is")


def _corpus_cells(
    found: SystemComparison, measure: Measure, each: CorpusDifference
) -> tuple[str, ...]:
    interval = each.comparison.interval
    return (
        measure_title(measure),
        f"{each.system:.2f}",
        f"{each.baseline:.2f}",
        signed(each.comparison.difference),
        f"{signed(interval.low)} to {signed(interval.high)}",
        p_value(each.comparison.p_value, found.resamples),
        "lower" if each.lower_is_better else "higher",
    )


def comparison_markdown(found: SystemComparison) -> str:
    """For a terminal, an editor or a merge request."""
    lines = [f"# {_md(found.system)} against {_md(found.baseline)}", "", _md(_lead(found)), ""]
    lines += [_md_row(_HEAD), _md_row(["---"] * len(_HEAD))]
    lines += [
        _md_row([_md(cell) for cell in _corpus_cells(found, measure, each)])
        for measure, each in found.corpus.items()
    ]
    lines += ["", _notes(found)]
    for title, rows in _parts(found):
        lines += ["", f"## {title}"]
        for row in rows:
            lines += ["", f"### {_md(row.id)} ({signed(row.gain)})", ""]
            lines += [
                f"- {_md(who)}{'' if score is None else f' ({score:.1f})'}: {_md(text) or NONE}"
                for who, score, text in sides(row, found.system, found.baseline)
            ]
    return "\n".join(lines) + "\n"


def _parts(found: SystemComparison) -> Sequence[tuple[str, Sequence[UtteranceDifference]]]:
    parts = (("Largest gains", found.gains), ("Largest losses", found.losses))
    return [(f"{title} ({len(rows)})", rows) for title, rows in parts]


def _md_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


_SPECIAL = str.maketrans({character: f"\\{character}" for character in "\\`*_[]<>|#"})


def _md(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return " ".join(text.split()).translate(_SPECIAL)


def comparison_page(found: SystemComparison) -> Html:
    """One self-contained page."""
    title = f"{found.system} against {found.baseline}"
    body = joined(
        h("<h2>{title}</h2>{cards}", title=title, cards=joined(_card(found, row) for row in rows))
        for title, rows in _parts(found)
        if rows
    )
    return h(
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<title>{title}</title>\n<style>{css}</style>\n</head>\n<body>\n<main>\n"
        '<header><h1>{title}</h1><div class="byline">evaluation {evaluation}</div>'
        '<p class="lead">{lead}</p></header>\n{table}'
        '<div class="note under"><p>{notes}</p></div>{body}\n</main>\n</body>\n</html>\n',
        title=title,
        css=Html(CSS),
        evaluation=found.evaluation,
        lead=_lead(found),
        table=_table(found),
        notes=_notes(found),
        body=body,
    )


def _table(found: SystemComparison) -> Html:
    rows = []
    for measure, each in found.corpus.items():
        first, *others = _corpus_cells(found, measure, each)
        rows.append(
            h(
                '<tr><th scope="row">{first}</th>{others}</tr>',
                first=first,
                others=joined(h('<td class="num">{t}</td>', t=text) for text in others),
            )
        )
    return h(
        '<div class="card scroll"><table class="data"><thead><tr>{head}</tr></thead>'
        "<tbody>{rows}</tbody></table></div>",
        head=joined(h('<th scope="col">{t}</th>', t=text) for text in _HEAD),
        rows=joined(rows),
    )


def _card(found: SystemComparison, row: UtteranceDifference) -> Html:
    lines = joined(
        h(
            '<tr class="{kind}"><th scope="row">{who}</th><td class="n">{score}</td>'
            "<td>{text}</td></tr>",
            kind="ref" if score is None else "",
            who=who,
            score="" if score is None else f"{score:.1f}",
            text=text or NONE,
        )
        for who, score, text in sides(row, found.system, found.baseline)
    )
    return h(
        '<div class="card sample"><figure class="utterance"><figcaption><b>{id}</b> '
        '<span>{gain}</span></figcaption><div class="scroll"><table class="texts">{lines}</table>'
        "</div></figure></div>",
        id=row.id,
        gain=signed(row.gain),
        lines=lines,
    )
