"""Sample translations: transcript, reference and every system's text, one under the other."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kd_ray.core.translation_scores import TITLES
from kd_ray.report.html import Html, h, joined
from kd_ray.report.systems import Kind
from kd_ray.report.tables import NONE
from kd_ray.report.translations import SHOWS, TranslationResults, Translations

WORST, RANDOM = 10, 10
MAX_TEACHERS = 4
"""More teachers than this: only the best, the middle and the worst are shown."""


@dataclass(frozen=True)
class TextSample:
    """One utterance in the page."""

    id: str
    mean_score: float
    """Mean chrF++ of the shown students on this utterance (of all systems, without students)."""
    transcript: str | None
    reference: str
    systems: tuple[tuple[str, float, str, str | None], ...]
    """Label, chrF++, text, and what the translator of a cascade read."""


def shown_systems(results: TranslationResults, translations: Translations) -> list[str]:
    """Students, cascades, experts, then teachers: all if few, else best, middle and worst."""
    kinds: tuple[Kind, ...] = ("student", "cascade", "expert")
    ranked = [system.label for kind in kinds for system in results.of_kind(kind)]
    others = [label for label in ranked if label in translations.outputs]
    teachers = [s.label for s in results.of_kind("teacher") if s.label in translations.outputs]
    if len(teachers) > MAX_TEACHERS:
        teachers = [teachers[0], teachers[len(teachers) // 2], teachers[-1]]
    return [*others, *teachers]


def pick_texts(
    results: TranslationResults, translations: Translations, *, seed: int = 1
) -> tuple[list[TextSample], list[TextSample]]:
    """(worst, random): utterances with the lowest chrF++, and a seeded draw of the others."""
    labels = shown_systems(results, translations)
    scores = {label: translations.sentence_scores(label, SHOWS) for label in labels}
    students = {system.label for system in results.of_kind("student")}
    judged = [label for label in labels if label in students] or labels
    means = np.mean([scores[label] for label in judged], axis=0)
    order = sorted(range(len(means)), key=lambda i: (means[i], translations.ids[i]))
    worst, others = order[:WORST], sorted(order[WORST:])
    chosen = [int(i) for i in np.random.default_rng(seed).permutation(others)[:RANDOM]]

    def sample(index: int) -> TextSample:
        return TextSample(
            id=translations.ids[index],
            mean_score=float(means[index]),
            transcript=translations.transcripts[index],
            reference=translations.references[index],
            systems=tuple(
                (
                    label,
                    float(scores[label][index]),
                    translations.outputs[label][index],
                    translations.heard[label][index] if label in translations.heard else None,
                )
                for label in labels
            ),
        )

    return [sample(i) for i in worst], [sample(i) for i in chosen]


def texts_section(results: TranslationResults, translations: Translations | None) -> Html:
    """The page's part with sample translations."""
    if translations is None or not translations.ids:
        return Html("")
    worst, random = pick_texts(results, translations)
    blocks = [
        h(
            '<p class="note">From {split}. The number before a text is its {metric}; by it the '
            "utterances are sorted.</p>",
            split=translations.split,
            metric=TITLES[SHOWS],
        ),
        h("<h3>The {n} with the lowest {metric}</h3>", n=len(worst), metric=TITLES[SHOWS]),
        *_cards(worst),
    ]
    if random:
        blocks += [h("<h3>{n} drawn at random from the others</h3>", n=len(random))]
        blocks += _cards(random)
    return joined(blocks)


def _cards(samples: Sequence[TextSample]) -> list[Html]:
    return [h('<div class="card sample">{s}</div>', s=text_html(sample)) for sample in samples]


def text_html(sample: TextSample) -> Html:
    """An utterance as a small table."""
    rows = []
    if sample.transcript is not None:
        rows.append(_row("transcript", "", sample.transcript, "ref"))
    rows.append(_row("reference", "", sample.reference, "ref"))
    for label, score, text, heard in sample.systems:
        if heard is not None:
            rows.append(_row(f"{label}: heard", "", heard, "ref"))
        rows.append(_row(label, f"{score:.0f}", text, ""))
    return h(
        '<figure class="utterance"><figcaption><b>{id}</b> <span>mean {metric} {score}</span>'
        '</figcaption><div class="scroll"><table class="texts">{rows}</table></div></figure>',
        id=sample.id,
        metric=TITLES[SHOWS],
        score=f"{sample.mean_score:.0f}",
        rows=joined(rows),
    )


def _row(label: str, score: str, text: str, kind: str) -> Html:
    return h(
        '<tr class="{kind}"><th scope="row" title="{label}">{label}</th><td class="n">{score}</td>'
        "<td>{text}</td></tr>",
        kind=kind,
        label=label,
        score=score,
        text=text or NONE,
    )
