"""All parts of `kd-ray bench pool`, one after another."""

import logging
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, get_args

from kd_ray.bench.pool.edges import measure_bytes
from kd_ray.bench.pool.failover import measure_failover
from kd_ray.bench.pool.goals import sentence
from kd_ray.bench.pool.registered import measure_registered
from kd_ray.bench.pool.round_trip import measure_round_trip
from kd_ray.bench.pool.saturation import measure_saturation
from kd_ray.bench.pool.scaling import measure_scaling
from kd_ray.bench.pool.setup import Setup
from kd_ray.bench.pool.tail import measure_tail
from kd_ray.config.bench import BenchPoolConfig, PoolPart

logger = logging.getLogger(__name__)

PARTS: Mapping[PoolPart, Callable[[Setup], dict[str, Any]]] = {
    "saturation": measure_saturation,
    "round_trip": measure_round_trip,
    "tail": measure_tail,
    "registered": measure_registered,
    "bytes": measure_bytes,
    "scaling": measure_scaling,
    "failover": measure_failover,
}


def measure_pool(config: BenchPoolConfig) -> dict[str, Any]:
    """Figures of each part, by its name; a part that failed says why, under `failed`."""
    figures: dict[str, Any] = {"load_average": os.getloadavg()[0], "parts": {}}
    with Setup(config) as setup:
        for part in get_args(PoolPart):
            if part in config.parts:
                logger.info("%s ...", part)
                figures["parts"][part] = _measure(part, setup)
                _tell(part, figures["parts"][part])
    return figures


def _measure(part: PoolPart, setup: Setup) -> dict[str, Any]:
    started = time.perf_counter()
    try:
        figures = PARTS[part](setup)
    except Exception as error:
        # Whatever it is: minutes of measurement by the other parts are not to be lost with it.
        logger.exception("%s failed; the others go on", part)
        figures = {"failed": f"{type(error).__name__}: {error}"}
    return {**figures, "seconds": time.perf_counter() - started}


def _tell(part: str, figures: Mapping[str, Any]) -> None:
    for judged in figures.get("goals", ()):
        logger.info("%s: %s", part, sentence(judged))
    for line in flat_lines({key: value for key, value in figures.items() if key != "goals"}):
        logger.info("  %s", line)


def flat_lines(figures: Mapping[str, Any]) -> list[str]:
    """Figures for the log: those of one level on one line, each table row on its own."""
    plain = {
        key: value
        for key, value in figures.items()
        if isinstance(value, str | int | float) and not isinstance(value, bool)
    }
    lines = [", ".join(f"{key} {_short(value)}" for key, value in plain.items())] if plain else []
    for key, value in figures.items():
        if isinstance(value, Mapping):
            lines += [f"{key}: {line}" for line in flat_lines(value)]
        if isinstance(value, list) and value and isinstance(value[0], Mapping):
            lines += [line for row in value for line in flat_lines(row)]
    return lines


def _short(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"
