"""The first paragraph of a page about translations, made from the numbers, and its notes."""

from kd_ray.core.translation_scores import REPORTED, TITLES
from kd_ray.report.bootstrap import Comparison, Statistics
from kd_ray.report.summary import quoted
from kd_ray.report.tables import DECODINGS, p_value, parameters, signed, speed
from kd_ray.report.translations import RANKS, TranslatedSystem, TranslationResults

_NAME = TITLES[RANKS]


def translation_sentence(results: TranslationResults, statistics: Statistics) -> str:
    """Best student, its distance to the undistilled one, to experts and cascades."""
    best = results.best_student
    where = f"on {results.ranked_split} ({DECODINGS[results.decoding]} decoding)"
    if best is None:
        top = max(results.systems, key=results.value)
        return (
            f"The best of {len(results.systems)} systems is {quoted(top.label)} with "
            f"{results.value(top):.1f} {_NAME} {where}. No student was evaluated."
        )
    sentences = [_against_baseline(results, best, statistics, where)]
    for kind, noun in (("teacher", "teacher"), ("expert", "text expert"), ("cascade", "cascade")):
        others = results.of_kind(kind)  # type: ignore[arg-type]
        if others:
            first = "best " if len(others) > 1 else ""
            sentences.append(
                f"The {first}{noun}, {quoted(others[0].label)}, has {results.value(others[0]):.1f} "
                f"{_NAME} and {parameters(others[0].parameters)} parameters."
            )
    pace = best.real_time_factor
    timed = "" if pace is None else f" and a real-time factor of {speed(pace)}"
    sentences.append(f"The student has {parameters(best.parameters)} parameters{timed}.")
    return " ".join(sentences)


def _against_baseline(
    results: TranslationResults, best: TranslatedSystem, statistics: Statistics, where: str
) -> str:
    score, base = results.value(best), results.baseline
    count = len(results.of_kind("student"))
    start = (
        f"The best of {count} students, {quoted(best.label)}, has {score:.1f} {_NAME} {where}"
        if count > 1
        else f"The student {quoted(best.label)} has {score:.1f} {_NAME} {where}"
    )
    if base is None:
        return f"{start}; no student without distillation was evaluated to compare it with."
    if base.label == best.label:
        if count == 1:
            return f"{start}; it learned from references alone."
        return f"{start}: no distilled student beats the one that learned from references alone."
    more = score - results.value(base)
    chance = _chance(statistics.comparisons.get(best.label), statistics.resamples)
    return f"{start}, {more:.1f} more than without teachers ({results.value(base):.1f}){chance}."


def _chance(comparison: Comparison | None, resamples: int) -> str:
    if comparison is None:
        return ""
    chance = p_value(comparison.p_value, resamples)
    text = (
        f"; the 95 % interval of the difference is {signed(comparison.interval.low)} to "
        f"{signed(comparison.interval.high)} "
        f"(p {chance if chance.startswith('≤') else f'= {chance}'})"
    )
    if comparison.includes_zero:
        text += ", which includes zero: these utterances cannot tell the two apart"
    return text


def translation_notes(results: TranslationResults) -> list[str]:
    """What the numbers are: directions, references, signatures."""
    protocol = (
        "References are those of the manifest."
        if results.protocol == "raw"
        else "References went through the Moses tokeniser and back, as those of published systems; "
        "such scores must not be compared with scores against raw references."
    )
    signatures = "; ".join(f"{TITLES[m]} {results.signatures[m]}" for m in REPORTED)
    return [
        f"{_NAME} and chrF++: higher is better; TER: lower is better. Hypotheses are detokenised "
        f"texts. {protocol}",
        f"sacrebleu signatures: {signatures}.",
        "Length ratio: tokens of the hypotheses to tokens of the references, as BLEU cuts them.",
    ]
