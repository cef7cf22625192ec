"""`kd-ray compare`: two systems of an evaluation, utterance by utterance."""

import logging
from pathlib import Path

from kd_ray.config.evaluation import CompareConfig
from kd_ray.evaluation.run_folder import write_atomically
from kd_ray.report.comparison import SystemComparison, compare_systems, measure_title
from kd_ray.report.comparison_page import (
    comparison_json,
    comparison_markdown,
    comparison_page,
)
from kd_ray.report.tables import p_value, signed
from kd_ray.storage import fetch_folder

logger = logging.getLogger(__name__)


def compare(config: CompareConfig, root: Path) -> SystemComparison:
    """Write `runs/<name>/comparison.{json,md,html}`; returns what is in them."""
    found = compare_systems(
        fetch_folder(root / config.evaluation),
        config.system,
        config.baseline,
        split=config.split,
        measure=config.metric,
        examples=config.examples,
        resamples=config.resamples,
        seed=config.seed,
    )
    out = root / "runs" / config.name / "comparison.html"
    write_atomically(out.with_suffix(".json"), comparison_json(found))
    write_atomically(out.with_suffix(".md"), comparison_markdown(found))
    write_atomically(out, comparison_page(found))
    for measure, each in found.corpus.items():
        between = each.comparison
        logger.info(
            "%-14s %s %.2f, %s %.2f: difference %s (95 %% interval %s to %s), p %s",
            measure_title(measure),
            found.system,
            each.system,
            found.baseline,
            each.baseline,
            signed(between.difference),
            signed(between.interval.low),
            signed(between.interval.high),
            p_value(between.p_value, found.resamples),
        )
    logger.info("comparison: %s", out)
    return found
