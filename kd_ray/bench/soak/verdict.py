"""What samples of a soak say: does memory grow, and did anything stay behind?

Memory is judged within the life of each process: hosts are killed and started again, and a sum over
all of them would rise and fall with their number. A slope is of all processes of a kind together,
each with a level of its own; its first minutes, in which it loads and warms up, do not count.
"""

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_ray.bench.soak.processes import Process

_MIB = 1 << 20
_HOUR_S = 3600.0
_MORE_PROCESSES = 2.0
"""In the mean: hosts that start are one or two more or less at any time."""
_FEWEST = 20
"""Samples of a kind below which a slope says nothing."""


@dataclass(frozen=True)
class Sample:
    """The pool and its load at one moment; `at_s` from the start of the soak."""

    at_s: float
    processes: tuple[Process, ...]
    store_bytes: int
    """In use in the object store."""
    actors: int
    """Named actors of kd_ray: hosts and the manager."""
    placement_groups: int
    answers: int

    def bytes_of(self, kind: str) -> int:
        """Private memory of all processes of a kind together."""
        return sum(each.memory.private for each in self.processes if each.kind == kind)


@dataclass(frozen=True)
class Slope:
    """Growth of one process of a kind, and how sure that is."""

    mib_per_hour: float
    error: float
    """Standard error, MiB per hour."""
    samples: int

    def plain(self) -> dict[str, float]:
        """For JSON; the interval holds the true slope with 95 %."""
        return {
            "mib_per_hour": self.mib_per_hour,
            "low": self.mib_per_hour - 1.96 * self.error,
            "high": self.mib_per_hour + 1.96 * self.error,
            "samples": self.samples,
        }


def slope_within(series: Iterable[Sequence[tuple[float, float]]]) -> Slope | None:
    """The common slope of several series of (seconds, bytes), each with a level of its own.

    Its error allows for neighbouring samples that are alike: as if there were fewer by
    (1 - r) / (1 + r), where r is the correlation of neighbouring residuals.
    """
    times, values, groups = [], [], []
    for number, points in enumerate(series):
        if len(points) > 2:
            time_s, size = np.array(points, dtype=np.float64).T
            times.append(time_s - time_s.mean())
            values.append(size - size.mean())
            groups.append(np.full(len(points), number))
    if not times:
        return None
    t, y, group = np.concatenate(times), np.concatenate(values), np.concatenate(groups)
    spread = float(t @ t)
    if len(t) < _FEWEST or spread == 0:
        return None
    slope = float(t @ y) / spread
    residuals = y - slope * t
    freedom = len(t) - len(times) - 1
    variance = float(residuals @ residuals) / max(1, freedom) / spread
    alike = _neighbours(residuals, group)
    error = math.sqrt(variance * (1 + alike) / (1 - alike))
    scale = _HOUR_S / _MIB
    return Slope(slope * scale, error * scale, len(t))


def _neighbours(residuals: NDArray[np.float64], group: NDArray[np.int64]) -> float:
    """Correlation of neighbours in the same series, from 0 to 0.98."""
    same = group[1:] == group[:-1]
    total = float(residuals @ residuals)
    if total == 0:
        return 0.0
    found = float((residuals[1:] * residuals[:-1])[same].sum()) / total
    return min(0.98, max(0.0, found))


def lives(
    samples: Sequence[Sample], kind: str, warm_up_s: float
) -> list[list[tuple[float, float]]]:
    """(seconds, private bytes) of each process of a kind, without its first `warm_up_s`."""
    found: dict[int, list[tuple[float, float]]] = {}
    for sample in samples:
        for process in sample.processes:
            if process.kind == kind:
                found.setdefault(process.pid, []).append((sample.at_s, process.memory.private))
    return [[p for p in points if p[0] >= points[0][0] + warm_up_s] for points in found.values()]


def computed_s(samples: Sequence[Sample]) -> float:
    """Seconds of computation of all processes, between the first sample and the last."""
    first: dict[int, float] = {}
    last: dict[int, float] = {}
    for sample in samples:
        for process in sample.processes:
            # One that began later has everything counted, up to when it was last seen.
            first.setdefault(process.pid, process.cpu_s if sample is samples[0] else 0.0)
            last[process.pid] = process.cpu_s
    return math.fsum(last[pid] - first[pid] for pid in last)


def quarters(samples: Sequence[Sample], value: Callable[[Sample], float]) -> dict[str, float]:
    """Means of a figure over the second and the last quarter of the time, and the most of it."""
    end_s = samples[-1].at_s

    def mean(low: float, high: float) -> float:
        inside = [value(each) for each in samples if low * end_s <= each.at_s <= high * end_s]
        return float(np.mean(inside)) if inside else math.nan

    most = max(map(value, samples))
    return {"second_quarter": mean(0.25, 0.5), "last_quarter": mean(0.75, 1.0), "most": most}


def _mib_of(kind: str, sample: Sample) -> float:
    return sample.bytes_of(kind) / _MIB


def judge(
    samples: Sequence[Sample],
    *,
    kinds: Sequence[str],
    warm_up_s: float,
    max_mib_per_hour: float,
    max_store_mib: float,
) -> tuple[dict[str, Any], list[str]]:
    """Figures of memory and processes, and what is wrong with them.

    Memory of a kind counts as growing where its slope, of one process, is above `max_mib_per_hour`
    and surely above 0.
    """
    problems = []
    memory: dict[str, Mapping[str, Any]] = {}
    for kind in kinds:
        slope = slope_within(lives(samples, kind, warm_up_s))
        sizes = functools.partial(_mib_of, kind)
        memory[kind] = {
            "slope": None if slope is None else slope.plain(),
            "mib_of_all": quarters(samples, sizes),
        }
        if slope is not None and slope.plain()["low"] > 0 and slope.mib_per_hour > max_mib_per_hour:
            problems.append(
                f"memory of a {kind} process grows by {slope.mib_per_hour:.1f} MiB an hour, "
                f"allowed are {max_mib_per_hour:g}"
            )
    store = quarters(samples, lambda sample: sample.store_bytes / _MIB)
    if store["most"] > max_store_mib:
        problems.append(
            f"the object store held {store['most']:.1f} MiB, allowed are {max_store_mib:g}"
        )
    processes = quarters(samples, lambda sample: float(len(sample.processes)))
    if processes["last_quarter"] > processes["second_quarter"] + _MORE_PROCESSES:
        problems.append(
            f"in the last quarter there were {processes['last_quarter']:.1f} processes, in the "
            f"second {processes['second_quarter']:.1f}"
        )
    groups = max(sample.placement_groups for sample in samples)
    if groups:
        problems.append(f"there were {groups} placement groups, and a pool makes none")
    figures = {
        "memory": memory,
        "object_store_mib": store,
        "processes": processes,
        "actors": quarters(samples, lambda sample: float(sample.actors)),
    }
    return figures, problems
