"""Who is trusted where, as one self-contained page: bars of all teachers, a heat map by column."""

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import islice

from kd_ray.report.document import document
from kd_ray.report.drawing import (
    INK,
    SURFACE,
    TEACHER,
    Look,
    figure,
    grid,
    short_names,
    to_svg,
)
from kd_ray.report.html import Html, h, joined
from kd_ray.report.tables import NONE, between, p_value, percent
from kd_ray.report.trust import FEW, MEASURES, TrustedGroup, TrustReport
from kd_ray.report.trust_tables import best_text, choices_text, lead_text, ranked

MANY_TEACHERS = 24
"""More than this: those that are best anywhere and the best overall; the others behind a click."""
MANY_GROUPS = 40
"""More groups of a column than this: the largest; all are in groups.csv."""
TIES = 0.5
"""A larger share of utterances with ties is warned of."""

_DARKEST = 0.55


def trust_page(found: TrustReport, title: str, *, now: datetime | None = None) -> Html:
    """The page; the same report and date give the same bytes."""
    parts = [
        ("teachers", "Teachers", _teachers(found)),
        *(
            (f"by-{place}", f"By {column}", _column(found, column, groups))
            for place, (column, groups) in enumerate(found.groups.items())
        ),
        ("what", "What was asked", _facts(found)),
    ]
    return document(
        title,
        parts,
        origin=found.asked.pool,
        now=now or datetime.now(UTC),
        lead=_lead(found),
        warnings=_warnings(found),
        footer="Written by kd_ray pool report; error counts were made where the teachers live.",
    )


def _lead(found: TrustReport) -> str:
    """The best teacher, how sure that is, and whether groups differ."""
    whole, names = found.whole, [teacher.name for teacher in found.teachers]
    rates = whole.error_percent
    count = f"{len(names)} teachers" if len(names) > 1 else "One teacher"
    start = f"{count} on {whole.utterances:,} utterances of {found.asked.split}, by {found.measure}"
    best = f"{' and '.join(names[index] for index in whole.best[:3])}: {percent(min(rates))} %"
    if len(names) == 1:
        return f"{start}; {best}."
    sentence = f"{start}; {best}, the worst {percent(max(rates))} %."
    if whole.runner_up is not None and not whole.sure:
        sentence += f" That it is ahead of {names[whole.runner_up]} is not sure."
    elsewhere = []
    for column, groups in found.groups.items():
        others = [group for group in groups if not set(group.best) & set(whole.best)]
        sure = sum(group.sure for group in others)
        elsewhere.append(f"{len(others)} of {len(groups)} groups by {column} ({sure} surely)")
    if elsewhere:
        sentence += f" Another teacher is best in {', '.join(elsewhere)}."
    return sentence


def _warnings(found: TrustReport) -> list[str]:
    warnings = list(found.notes)
    whole = found.whole
    if len(found.teachers) > 1 and max(whole.tie_share, whole.zero_share) > TIES:
        warnings.append(
            f"On {100 * whole.tie_share:.0f} % of the utterances several teachers have equally few "
            f"errors, on {100 * whole.zero_share:.0f} % some teacher makes none: utterance by "
            "utterance, error rates hardly choose between them."
        )
    return warnings


def _teachers(found: TrustReport) -> Html:
    order = ranked(found)
    names, measures = list(found.strategies), list(found.teachers[0].also)
    trusting = [name for name, strategy in found.strategies.items() if hasattr(strategy, "scope")]
    head = joined(
        [
            h('<th scope="col">teacher</th>'),
            *(
                h('<th scope="col" class="num">{t}</th>', t=title)
                for title in (
                    "error, %", "95 % interval",
                    *(f"{MEASURES[measure]},\n%" for measure in measures),
                    *(f"weight,\n{name}" for name in names),
                    *(f"weight,\n{name}, corpus" for name in trusting),
                )
            ),
        ]
    )  # fmt: skip
    rows = []
    for index in order:
        teacher = found.teachers[index]
        texts = [
            percent(found.whole.error_percent[index]),
            between(found.whole.intervals[index]),
            *(percent(teacher.also[measure]) for measure in measures),
            *(f"{found.whole.shares[name][index]:.3f}" for name in names),
            *(f"{teacher.corpus_shares[name]:.3f}" for name in trusting),
        ]
        rows.append(
            h(
                '<tr class="{c}"><th scope="row">{name}</th>{cells}</tr>',
                c="best" if index in found.whole.best else "",
                name=teacher.name,
                cells=joined(h('<td class="num">{t}</td>', t=text) for text in texts),
            )
        )
    plot = _bars(found, order) if len(order) <= MANY_TEACHERS else None
    drawn = (
        h(
            '<div class="plots"><figure class="card wide"><div class="scroll">{svg}</div>'
            "<figcaption>Lines across the ends of bars: 95 % bootstrap intervals.</figcaption>"
            "</figure></div>",
            svg=Html(plot),
        )
        if plot
        else Html("")
    )
    notes = [
        choices_text(found),
        "Weights are means over utterances, each of which weighs teachers by its own trust; "
        "“corpus”: what a strategy with scope corpus would give them, with the table of "
        "this report.",
        f"Intervals: {found.resamples} bootstrap resamples of the utterances, the same draws for "
        "all teachers; they take utterances for independent although speakers repeat.",
    ]
    return h(
        '{drawn}<div class="card scroll under"><table class="data"><thead><tr>{head}</tr></thead>'
        '<tbody>{rows}</tbody></table></div><div class="note under">{notes}</div>',
        drawn=drawn,
        head=head,
        rows=joined(rows),
        notes=joined(h("<p>{n}</p>", n=note) for note in notes),
    )


def _bars(found: TrustReport, order: Sequence[int]) -> str:
    look = Look(TEACHER, "o", "-")
    names = short_names([found.teachers[index].name for index in order], 44)
    with figure(10, 0.75 + 0.27 * len(order)) as drawing:
        axes = drawing.subplots()
        for place, index in enumerate(order):
            value, interval = found.whole.error_percent[index], found.whole.intervals[index]
            axes.barh(place, value, height=0.62, color=look.color, linewidth=0)
            axes.plot([interval.low, interval.high], [place, place], color=SURFACE, linewidth=3)
            axes.plot([interval.low, interval.high], [place, place], color=INK, linewidth=1.1)
            axes.annotate(
                f"{value:.1f}",
                (max(value, interval.high), place),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                fontsize=8.5,
            )
        axes.set_yticks(range(len(order)), [names[found.teachers[index].name] for index in order])
        axes.set_ylim(len(order) - 0.4, -0.6)
        axes.margins(x=0.06)
        axes.set_xlim(left=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(f"{found.measure} on {found.asked.split}, %")
        grid(axes, "x")
        return to_svg(drawing, "teachers", f"{found.measure} of every teacher with 95 % intervals")


def _column(found: TrustReport, column: str, groups: Sequence[TrustedGroup]) -> Html:
    """Who is best in each group, and heat maps of errors and of weights."""
    shown = list(groups)
    if len(shown) > MANY_GROUPS:
        largest = sorted(groups, key=lambda group: -group.utterances)[:MANY_GROUPS]
        shown = [group for group in groups if group in largest]
    note = (
        h(
            '<p class="note">The {n} largest of {all} groups; all are in groups.csv.</p>',
            n=len(shown),
            all=len(groups),
        )
        if len(shown) < len(groups)
        else Html("")
    )
    maps = [
        h(
            "<h3>{title}</h3>{map}",
            title=f"{found.measure}, % (darker: nearer to the best of the group)",
            map=_heat_map(found, shown, None),
        )
    ]
    for name, strategy in found.strategies.items():
        if strategy.type in ("average", "fixed"):
            continue  # The same everywhere.
        maps.append(
            h(
                "<h3>Share of weight under {name}, %</h3>{map}",
                name=name,
                map=_heat_map(found, shown, name),
            )
        )
    return joined([note, _best(found, column, shown), *maps])


def _best(found: TrustReport, column: str, groups: Sequence[TrustedGroup]) -> Html:
    head = ("utterances", "tokens", "best", "error, %", "next, and its difference", "p",
            "ties", "no error")  # fmt: skip
    left = {"best", "next, and its difference"}
    rows = []
    for group in groups:
        texts = (
            f"{group.utterances:,}",
            f"{group.units:,}",
            best_text(found, group),
            percent(group.error_percent[group.best[0]]),
            lead_text(found, group) or NONE,
            _chance(found, group),
            f"{100 * group.tie_share:.0f} %",
            f"{100 * group.zero_share:.0f} %",
        )
        cells = joined(
            h("<td{c}>{t}</td>", c=Html("" if title in left else ' class="num"'), t=text)
            for title, text in zip(head, texts, strict=True)
        )
        rows.append(h('<tr><th scope="row">{g}</th>{cells}</tr>', g=group.name, cells=cells))
    return h(
        '<div class="card scroll"><table class="data"><thead><tr><th scope="col">{column}</th>'
        "{head}</tr></thead><tbody>{rows}</tbody></table></div>",
        column=column,
        head=joined(
            h(
                '<th scope="col"{c}>{t}</th>',
                c=Html("" if title in left else ' class="num"'),
                t=title,
            )
            for title in head
        ),
        rows=joined(rows),
    )


def _chance(found: TrustReport, group: TrustedGroup) -> str:
    if group.lead is None or group.utterances < FEW:
        return NONE
    return p_value(group.lead.p_value, found.resamples)


def _heat_map(found: TrustReport, groups: Sequence[TrustedGroup], strategy: str | None) -> Html:
    """Teachers by groups: errors, or weights under a strategy."""
    order = ranked(found)
    if len(order) <= MANY_TEACHERS:
        return _heat_table(found, groups, strategy, order)
    anywhere = {index for group in groups for index in group.best}
    first = set(islice(order, MANY_TEACHERS - 1)) | anywhere | {order[-1]}
    return h(
        '{some}<details class="more"><summary>All {n} teachers</summary>{every}</details>',
        some=_heat_table(found, groups, strategy, [index for index in order if index in first]),
        n=len(order),
        every=_heat_table(found, groups, strategy, order),
    )


def _heat_table(
    found: TrustReport,
    groups: Sequence[TrustedGroup],
    strategy: str | None,
    teachers: Sequence[int],
) -> Html:
    whole = [found.whole, *groups]
    # One scale for all groups, from the gaps that are common: an outlier must not flatten the rest.
    gaps = sorted(
        rate - min(group.error_percent) for group in whole for rate in group.error_percent
    )
    scale = gaps[int(0.9 * (len(gaps) - 1))] or 1.0
    largest = 1.0 if strategy is None else max(max(group.shares[strategy]) for group in whole)
    rows = []
    for index in teachers:
        cells = []
        for group in whole:
            rate, interval = group.error_percent[index], group.intervals[index]
            if strategy is None:
                text = percent(rate)
                shade = 1.0 - min(1.0, (rate - min(group.error_percent)) / scale)
            else:
                shade = group.shares[strategy][index] / largest
                text = f"{100 * group.shares[strategy][index]:.0f}"
            cells.append(
                h(
                    '<td class="num{best}" style="--heat: {shade}" title="{title}">{text}</td>',
                    best=" top" if strategy is None and index in group.best else "",
                    shade=f"{_DARKEST * shade:.2f}",
                    title=f"{found.teachers[index].name}, {group.name}: {percent(rate)} % "
                    f"({between(interval)}), {group.utterances} utterances",
                    text=text,
                )
            )
        rows.append(
            h(
                '<tr><th scope="row">{name}</th>{cells}</tr>',
                name=found.teachers[index].name,
                cells=joined(cells),
            )
        )
    head = joined(
        h(
            '<th scope="col" class="num">{name}\n{count}</th>',
            name=group.name,
            count=f"{group.utterances:,}",
        )
        for group in whole
    )
    return h(
        '<div class="card scroll"><table class="data heat"><thead><tr>'
        '<th scope="col">teacher</th>{head}</tr></thead><tbody>{rows}</tbody></table></div>',
        head=head,
        rows=joined(rows),
    )


def _facts(found: TrustReport) -> Html:
    asked = found.asked
    facts = {
        "Asked": asked.pool,
        "Split": f"{asked.split}: {asked.manifest} (digest {asked.manifest_digest})",
        "Utterances": f"{found.whole.utterances:,}, {found.whole.units:,} reference tokens",
        "Trust": f"{found.trust}: {found.measure}",
        "Strategies": ", ".join(found.strategies),
        "Table": f"trust/{asked.split}.json, for a strategy with scope corpus",
    }
    lines = joined(h("<dt>{k}</dt><dd>{v}</dd>", k=key, v=value) for key, value in facts.items())
    return h('<dl class="facts card">{lines}</dl>', lines=lines)
