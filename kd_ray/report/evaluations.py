"""An evaluation folder, read and put into a table: error rates or translations."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd_ray.report.bootstrap import Statistics, statistics_of, translation_statistics
from kd_ray.report.results import Hypotheses, Results, parse_results, read_hypotheses
from kd_ray.report.systems import Evaluation, read_json, results_path
from kd_ray.report.tables import View, error_view
from kd_ray.report.translation_tables import translation_view
from kd_ray.report.translations import (
    TranslationResults,
    Translations,
    parse_translations,
    read_translations,
)


@dataclass(frozen=True, eq=False)
class ErrorRates:
    """An evaluation of error rates."""

    results: Results
    hypotheses: Hypotheses | None
    statistics: Statistics
    view: View


@dataclass(frozen=True, eq=False)
class TranslationQuality:
    """An evaluation of translations."""

    results: TranslationResults
    hypotheses: Translations | None
    statistics: Statistics
    view: View


Evaluated = ErrorRates | TranslationQuality


def read_any_results(folder: Path) -> Results | TranslationResults:
    """`results.json` of an evaluation folder, of whichever family."""
    path = results_path(folder)
    content: Mapping[str, Any] = read_json(path)
    if content.get("family") == "translation":
        return parse_translations(content, str(path))
    return parse_results(content, str(path))


def read_evaluated(folder: Path) -> Evaluated:
    """Results, hypotheses, their statistics and the table.

    Raises:
        ReportError: a file is missing or broken, or files contradict each other.
    """
    results: Evaluation[Any] = read_any_results(folder)
    if isinstance(results, TranslationResults):
        translations = read_translations(folder, results)
        figures = translation_statistics(results, translations)
        view = translation_view(results, figures)
        return TranslationQuality(results, translations, figures, view)
    assert isinstance(results, Results)
    hypotheses = read_hypotheses(folder, results)
    statistics = statistics_of(results, hypotheses)
    return ErrorRates(results, hypotheses, statistics, error_view(results, statistics))
