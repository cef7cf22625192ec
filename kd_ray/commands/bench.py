"""`kd-ray bench WHAT CONFIG`: what a step, a rollout, a loss or the pool costs."""

import logging
from pathlib import Path
from typing import Any

from kd_ray.config.bench import (
    BenchPoolConfig,
    BenchRolloutsConfig,
    BenchSoakConfig,
    BenchSparseConfig,
)
from kd_ray.config.commands import BenchStepConfig
from kd_ray.evaluation.environment import environment
from kd_ray.evaluation.run_folder import write_json

logger = logging.getLogger(__name__)

BenchAny = (
    BenchStepConfig | BenchRolloutsConfig | BenchSparseConfig | BenchPoolConfig | BenchSoakConfig
)


class PartsFailed(RuntimeError):
    """Parts of a measurement came to nothing; the figures of the others are written."""


def bench(config: BenchAny, root: Path) -> dict[str, Any]:
    """Measure, log the ratios, write `runs/<name>/<what>.json`."""
    match config:
        case BenchStepConfig():
            return bench_step(config, root)
        case BenchRolloutsConfig():
            return bench_rollouts(config, root)
        case BenchSparseConfig():
            return bench_sparse(config, root)
        case BenchSoakConfig():
            return bench_soak(config, root)
        case BenchPoolConfig():
            return bench_pool(config, root)


def bench_step(config: BenchStepConfig, root: Path) -> dict[str, Any]:
    """A step from the store against a supervised step."""
    from kd_ray.bench.step import measure_step

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
    return _write(config, root, figures)


def bench_rollouts(config: BenchRolloutsConfig, root: Path) -> dict[str, Any]:
    """Greedy decoding with a cache against decoding without one, and against Transformers.

    Raises:
        RolloutsDiffer: the cache changed a token.
        NeedsTransformers: it is asked for and not installed.
    """
    from kd_ray.bench.rollouts import measure_rollouts

    figures = measure_rollouts(config)
    logger.info(
        "%d rollouts of %d tokens, %.1f M parameters, %d encoder states, %d tokens to choose from",
        figures["batch_size"],
        figures["length"],
        figures["parameters"] / 1e6,
        figures["encoder_states"],
        figures["vocabulary_size"],
    )
    for way, times in figures["ways"].items():
        logger.info(
            "%-14s %9.3f s %7.2f   of computation %9.3f s %7.2f",
            way, times["seconds"], times["to_cache"], times["cpu_seconds"], times["cpu_to_cache"],
        )  # fmt: skip
    return _write(config, root, figures)


def bench_sparse(config: BenchSparseConfig, root: Path) -> dict[str, Any]:
    """Learning k teacher tokens against learning one label."""
    from kd_ray.bench.sparse import measure_sparse

    figures = measure_sparse(config)
    logger.info("%d positions, k = %d, forward and backward", figures["positions"], config.top_k)
    for vocabulary, losses in figures["vocabularies"].items():
        for name, loss in losses.items():
            logger.info(
                "V = %-6s %-15s %8.1f ms %5.2f   of computation %8.1f ms %5.2f   %7.1f MiB %5.2f",
                vocabulary,
                name,
                1e3 * loss["seconds"],
                loss["to_cross_entropy"],
                1e3 * loss["cpu_seconds"],
                loss["cpu_to_cross_entropy"],
                loss["peak_bytes"] / 2**20,
                loss["peak_to_cross_entropy"],
            )
    return _write(config, root, figures)


def bench_soak(config: BenchSoakConfig, root: Path) -> dict[str, Any]:
    """A pool under load for long, while its processes are killed.

    Raises:
        SoakFailed: answers were lost or wrong, memory grew, or something stayed behind; the
            figures are written all the same.
    """
    from kd_ray.bench.soak import SoakFailed, log_soak, measure_soak, write_samples

    folder = root / "runs" / config.name
    figures, samples = measure_soak(config)
    write_samples(folder, samples, figures["faults"])
    log_soak(figures)
    written = _write(config, root, figures)
    if figures["problems"]:
        raise SoakFailed(
            f"the soak found {len(figures['problems'])} problems: {'; '.join(figures['problems'])} "
            f"(figures: {folder})"
        )
    return written


def bench_pool(config: BenchPoolConfig, root: Path) -> dict[str, Any]:
    """The teacher pool, part by part, against its goals.

    Raises:
        PartsFailed: some part did; what the others found is written all the same.
    """
    from kd_ray.bench.pool.measure import measure_pool

    figures = _write(config, root, measure_pool(config))
    failed = {name: part["failed"] for name, part in figures["parts"].items() if "failed" in part}
    if failed:
        raise PartsFailed("; ".join(f"part {name}: {reason}" for name, reason in failed.items()))
    return figures


def _write(config: BenchAny, root: Path, figures: dict[str, Any]) -> dict[str, Any]:
    path = root / "runs" / config.name / f"{config.what}.json"
    write_json(path, {**figures, "environment": environment()})
    logger.info("figures: %s", path)
    return figures
