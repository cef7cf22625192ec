"""Latencies where requests come by chance, at a share of what a host can do.

The ideal beside them is a server without a pool around it, which takes the same time for every
request: what it makes of the same arrivals is queueing, and no pool can be faster.
"""

from typing import Any

from kd_ray.bench.pool.load import (
    closed_loop,
    ideal_latencies,
    open_loop,
    percentiles,
    poisson_arrivals,
    rate,
    signals,
)
from kd_ray.bench.pool.requests import make_requests
from kd_ray.bench.pool.setup import Setup


def measure_tail(setup: Setup) -> dict[str, Any]:
    """Percentiles, in seconds and against the ideal."""
    part, in_flight = setup.config.tail, setup.config.saturation.in_flight
    requests = make_requests(setup.config.batch, 64)
    with setup.one_host([setup.teacher]) as host:
        signals(closed_loop(host.source, requests[:in_flight], in_flight))
        full = closed_loop(host.source, requests, in_flight)
        signals(full)
        times = [each.done_s for each in full]
        saturated = rate(times, times[0], times[-1])
        arrivals = poisson_arrivals(part.load * saturated, part.requests)
        answered = open_loop(host.source, requests, arrivals)
        signals(answered)
    ideal = percentiles(ideal_latencies(arrivals, 1 / saturated))
    found = percentiles([each.latency_s for each in answered])
    return {
        **found,
        "to_ideal": {name: found[name] / ideal[name] for name in found},
        "in_services": {name: found[name] * saturated for name in found},
        "load": part.load,
        "saturated_requests_per_s": saturated,
        "requests": part.requests,
    }
