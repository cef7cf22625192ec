"""Runs independent commands side by side as Ray tasks."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray

from kd_ray.storage import waiting_to_hold

logger = logging.getLogger(__name__)


def run_side_by_side(
    function: Callable[..., Any],
    calls: Mapping[str, Sequence[Any]],
    *,
    cpus: float,
    gpus: float,
    max_parallel: int | None,
    on_tick: Callable[[], None] = lambda: None,
    tick_s: float = 1.0,
) -> dict[str, Any]:
    """Call `function(*calls[name])` for every name in Ray tasks; needs a running Ray.

    A call that raises does not stop the others; its exception stands in the result in its place.
    A worker process that dies is started again by Ray up to twice, so calls must be resumable.

    Args:
        function: importable by its module and name.
        calls: name to arguments.
        cpus: that each call reserves; likewise `gpus`.
        gpus: fractions share a device.
        max_parallel: calls at a time; None: as many as the resources allow.
        on_tick: called about every `tick_s` seconds, in the caller's thread.
        tick_s: seconds.
    """
    task = ray.remote(_restartable).options(
        name=function.__name__, num_cpus=cpus, num_gpus=gpus, max_retries=2
    )
    waiting = list(calls)
    limit = max_parallel or len(waiting)
    running: dict[Any, str] = {}
    results: dict[str, Any] = {}
    try:
        while waiting or running:
            while waiting and len(running) < limit:
                name = waiting.pop(0)
                running[task.remote(function, *calls[name])] = name
            done, _ = ray.wait(list(running), num_returns=1, timeout=tick_s)
            for reference in done:
                name = running.pop(reference)
                try:
                    results[name] = ray.get(reference)
                except ray.exceptions.RayError as error:
                    cause = getattr(error, "cause", None) or error
                    logger.error("%s failed: %s", name, cause)
                    results[name] = cause
            on_tick()
    finally:
        for reference in running:
            ray.cancel(reference, force=True)
    return {name: results[name] for name in calls}


def _restartable(function: Callable[..., Any], *given: Any) -> Any:
    """What a task does. Its first process may have died on another node a moment ago."""
    with waiting_to_hold():
        return function(*given)
