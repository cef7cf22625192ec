"""`kd-ray replay`: an update that was not finite, taken again, and where that comes from."""

import logging
import math
from pathlib import Path

from kd_ray.config.commands import ReplayConfig
from kd_ray.storage import fetch_folder
from kd_ray.students.replay import Replay, replay_update

logger = logging.getLogger(__name__)

_SHOWN = 12
"""How many names a line lists."""


def replay(config: ReplayConfig, root: Path) -> Replay:
    """Repeat a failed update on this machine's CPU and say what in it is not finite."""
    result = replay_update(fetch_folder(root / config.folder))
    logger.info("update %d", result.update)
    logger.info("  loss            %s (in the run: %s)", result.loss, result.recorded_loss)
    logger.info(
        "  gradient norm   %s (in the run: %s)", result.grad_norm, result.recorded_grad_norm
    )
    logger.info("loss by utterance, highest first:")
    order = sorted(result.utterances, key=lambda name: -_height(result.utterances[name]))
    for name in order[:_SHOWN]:
        parts = "  ".join(f"{part} {value:.4g}" for part, value in result.utterances[name].items())
        logger.info("  %-24s %s", name, parts)
    for what, names in (
        ("features that are not finite", result.bad_features),
        ("utterances whose loss is not finite", result.bad_utterances),
        ("parameters that were not finite before the update", result.bad_parameters),
        ("parameters whose gradient is not finite", result.bad_gradients),
    ):
        rest = len(names) - _SHOWN
        shown = ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
        logger.info("%s: %s", what, shown or "none")
    return result


def _height(parts: dict[str, float]) -> float:
    total = sum(parts.values())
    return total if math.isfinite(total) else math.inf
