"""1, 2, 4 hosts whose teachers take a fixed time and compute nothing.

Copies: every host can answer alone, and throughput should grow with the hosts. Split: each host
has a teacher more, every request needs all of them, and latency should stay.
"""

import math
import statistics
import time
from collections.abc import Mapping
from typing import Any

from kd_ray.bench.pool.goals import Goal
from kd_ray.bench.pool.load import closed_loop, for_seconds, rate, signals
from kd_ray.bench.pool.requests import make_requests
from kd_ray.bench.pool.setup import Setup
from kd_ray.cluster.pool import PoolAddress, PoolSource
from kd_ray.config.bench import BenchScaling
from kd_ray.core.contracts import Score

GOAL = Goal(
    "efficiency of the most hosts, throughput over that of one times their number",
    0.9,
    at_least=True,
)
SPLIT_GOAL = Goal("efficiency of the most hosts with teachers split over them", 0.9, at_least=True)


def measure_scaling(setup: Setup) -> dict[str, Any]:
    """Throughput and latency for each number of hosts."""
    part, fleet = setup.config.scaling, setup.fleet
    requests = make_requests(setup.config.batch, 16)
    copies: dict[int, float] = {}
    split: dict[int, float] = {}
    latency_s: dict[int, float] = {}
    for hosts in part.hosts:
        alone = fleet.view([fleet.waiting[:1]] * hosts)
        shared = fleet.spread(fleet.waiting[:hosts], hosts)
        copies[hosts] = _throughput(alone, requests, part, part.in_flight * hosts)
        # All hosts work on every request: as many in flight keep each as busy.
        split[hosts] = _throughput(shared, requests, part, part.in_flight)
        latency_s[hosts] = _latency_s(shared, requests, part.idle_requests)
    least, most = min(part.hosts), max(part.hosts)
    efficiency, kept = efficiencies(copies), {n: split[n] / split[least] for n in split}
    return {
        "goals": [GOAL.judge(efficiency[most]), SPLIT_GOAL.judge(kept[most])],
        "nodes": fleet.nodes,
        "pass_s": setup.config.fleet.pass_s,
        "copies": {
            str(n): {"requests_per_s": copies[n], "efficiency": efficiency[n]} for n in copies
        },
        "split": {
            str(n): {
                "requests_per_s": split[n],
                "efficiency": kept[n],
                "idle_latency_s": latency_s[n],
                "latency_to_fewest": latency_s[n] / latency_s[least],
            }
            for n in split
        },
    }


def efficiencies(throughput: Mapping[int, float]) -> dict[int, float]:
    """Throughput for each host, over that of the smallest number of hosts."""
    least = min(throughput)
    each = throughput[least] / least
    return {hosts: found / (hosts * each) for hosts, found in throughput.items()}


def _throughput(
    address: PoolAddress, requests: list[Score], part: BenchScaling, in_flight: int
) -> float:
    """Requests per second while load lasts, without its first answers."""
    source = PoolSource(address)
    try:
        started = time.perf_counter()
        answered = closed_loop(source, for_seconds(requests, part.seconds), in_flight)
    finally:
        source.close()
    signals(answered)
    times = [each.done_s for each in answered]
    return rate(times, times[min(in_flight, len(times) - 1)], started + part.seconds)


def _latency_s(address: PoolAddress, requests: list[Score], count: int) -> float:
    """Median of requests that come one after another."""
    source = PoolSource(address)
    try:
        few = (requests * math.ceil(count / len(requests)))[:count]
        answered = closed_loop(source, few, 1)
    finally:
        source.close()
    signals(answered)
    return statistics.median(each.latency_s for each in answered)
