"""Figures for Prometheus, through Ray's metrics agents.

Nothing here is on the way of a request: hosts and trainings count what they count anyway, in plain
numbers, and every few seconds what is new of them is told to Ray.

    series.py    all series that there are, and telling Ray
    hosts.py     what a host of a pool says      pools.py     what a pool's manager says
    training.py  what a training says
"""

from kd_ray.cluster.metrics.hosts import HostFigures
from kd_ray.cluster.metrics.pools import PoolFigures
from kd_ray.cluster.metrics.series import SERIES
from kd_ray.cluster.metrics.training import TrainingFigures

__all__ = ["SERIES", "HostFigures", "PoolFigures", "TrainingFigures"]
