"""Micro-batches: work of several callers in shared passes, with fair shares for their jobs."""

from kd_ray.teachers.batching.batcher import Expired, MicroBatcher, WrongCountError
from kd_ray.teachers.batching.clock import Clock, LoopClock, Timer
from kd_ray.teachers.batching.fairness import Rank
from kd_ray.teachers.batching.schedule import Choose, Ready
from kd_ray.teachers.batching.statistics import BatchStatistics, JobStatistics

__all__ = [
    "BatchStatistics",
    "Choose",
    "Clock",
    "Expired",
    "JobStatistics",
    "LoopClock",
    "MicroBatcher",
    "Rank",
    "Ready",
    "Timer",
    "WrongCountError",
]
