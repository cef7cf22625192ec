"""Seconds by the wall and seconds of this process's computation, side by side.

On a machine that does other work too, the second number tells more: waiting for a core is not in
it.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Stopwatch:
    """Times of one thing that is measured again and again."""

    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)

    def run(self, function: Callable[[], object]) -> None:
        """Measure one call."""
        wall, cpu = time.perf_counter(), time.process_time()
        function()
        self.cpu_s.append(time.process_time() - cpu)
        self.wall_s.append(time.perf_counter() - wall)


def compare(watches: Mapping[str, Stopwatch], to: str, name: str) -> dict[str, dict[str, Any]]:
    """Medians, and their ratios to those of `to`; `name` is what the ratios are called after."""
    wall = {each: statistics.median(watch.wall_s) for each, watch in watches.items()}
    cpu = {each: statistics.median(watch.cpu_s) for each, watch in watches.items()}
    return {
        each: {
            "seconds": wall[each],
            "cpu_seconds": cpu[each],
            f"to_{name}": wall[each] / wall[to],
            f"cpu_to_{name}": cpu[each] / cpu[to],
        }
        for each in watches
    }
