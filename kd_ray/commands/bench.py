"""`kd-ray bench step CONFIG`: what a distillation step costs against a supervised one."""

import logging
from pathlib import Path
from typing import Any

from kd_ray.bench.step import measure_step
from kd_ray.config.commands import BenchStepConfig
from kd_ray.evaluation.run_folder import environment, write_json

logger = logging.getLogger(__name__)


def bench_step(config: BenchStepConfig, root: Path) -> dict[str, Any]:
    """Measure, log the ratios, write `runs/<name>/step.json`."""
    figures = measure_step(config, root)
    logger.info(
        "supervised step %.1f ms, step from the store of %d teachers %.1f ms: ratio %.3f",
        1e3 * figures["supervised_step_s"],
        figures["teachers"],
        1e3 * figures["store_step_s"],
        figures["store_to_supervised"],
    )
    for count, loss in figures["decoder_loss"].items():
        logger.info(
            "decoder loss at %3s teachers: %.2f ms (fusing on the teachers' side %.2f ms)",
            count, 1e3 * loss["loss_s"], 1e3 * loss["fuse_s"],
        )  # fmt: skip
    path = root / "runs" / config.name / "step.json"
    write_json(path, {**figures, "environment": environment()})
    logger.info("figures: %s", path)
    return figures
