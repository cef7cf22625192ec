"""Who asks, and when: so many at a time (closed loop), or by the clock (open loop).

Times are of `time.perf_counter`.
"""

import itertools
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from kd_ray.core.contracts import Score, Signal, TeacherSource

T = TypeVar("T")

_TIMEOUT_S = 600.0


@dataclass(frozen=True, eq=False)
class Answered:
    """A request, when it was sent or should have been, and what came."""

    request: Score
    asked_s: float
    done_s: float
    answer: Signal | Exception

    @property
    def latency_s(self) -> float:
        """From the one to the other."""
        return self.done_s - self.asked_s


def closed_loop(source: TeacherSource, requests: Iterable[Score], in_flight: int) -> list[Answered]:
    """Keep `in_flight` requests going until `requests` end; in order of their answers.

    Each is asked when one before it was answered, so that a slow pool is asked less often.
    """
    feed = iter(requests)
    lock = threading.Lock()

    def work() -> list[Answered]:
        mine: list[Answered] = []
        while True:
            with lock:
                request = next(feed, None)
            if request is None:
                return mine
            mine.append(_ask(source, request, time.perf_counter()))

    with ThreadPoolExecutor(in_flight, thread_name_prefix="bench-asks") as threads:
        futures = [threads.submit(work) for _ in range(in_flight)]
        answered = [each for future in futures for each in future.result()]
    return sorted(answered, key=lambda each: each.done_s)


def open_loop(
    source: TeacherSource, requests: Sequence[Score], arrivals_s: Sequence[float]
) -> list[Answered]:
    """Ask at given times, however many requests are open; in order of their answers.

    Latencies count from the time at which a request was due: whatever keeps a pool, or this
    process, from taking it at once is part of them.

    Args:
        source: who is asked.
        requests: taken in turn.
        arrivals_s: seconds from the start, ascending.
    """
    with ThreadPoolExecutor(len(arrivals_s), thread_name_prefix="bench-waits") as threads:
        started = time.perf_counter()
        futures = []
        for number, arrival in enumerate(arrivals_s):
            due = started + arrival
            time.sleep(max(0.0, due - time.perf_counter()))
            futures.append(threads.submit(_ask, source, requests[number % len(requests)], due))
        answered = [future.result() for future in futures]
    return sorted(answered, key=lambda each: each.done_s)


def _ask(source: TeacherSource, request: Score, asked_s: float) -> Answered:
    answer: Signal | Exception
    try:
        answer = source.ask(request).result(_TIMEOUT_S)
    except Exception as error:
        # Whoever counts losses wants all of them; `signals` raises it for the others.
        answer = error
    return Answered(request, asked_s, time.perf_counter(), answer)


def signals(answered: Iterable[Answered]) -> list[Signal]:
    """The answers.

    Raises:
        Exception: the first that came instead of one.
    """
    found = []
    for each in answered:
        if isinstance(each.answer, Exception):
            raise each.answer
        found.append(each.answer)
    return found


def until_set(items: Sequence[T], stop: threading.Event) -> Iterator[T]:
    """The items again and again, until the event is set."""
    number = 0
    while not stop.is_set():
        yield items[number % len(items)]
        number += 1


def for_seconds(items: Sequence[T], seconds: float) -> Iterator[T]:
    """The items again and again for so long, from the first one on."""
    end_s = time.perf_counter() + seconds
    number = 0
    while time.perf_counter() < end_s:
        yield items[number % len(items)]
        number += 1


def rate(times_s: Sequence[float], since_s: float, until_s: float) -> float:
    """Events a second between the first and the last one within a span; NaN for fewer than two."""
    inside = sorted(when for when in times_s if since_s <= when <= until_s)
    if len(inside) < 2:
        return float("nan")
    return (len(inside) - 1) / (inside[-1] - inside[0])


def poisson_arrivals(rate_per_s: float, count: int, *, seed: int = 0) -> list[float]:
    """Times of a Poisson process, from its first event on."""
    gaps = np.random.default_rng(seed).exponential(1.0 / rate_per_s, count)
    times: list[float] = (np.cumsum(gaps) - gaps[0]).tolist()
    return times


def ideal_latencies(arrivals_s: Sequence[float], service_s: float) -> list[float]:
    """What one server makes of these arrivals that takes exactly `service_s` for each, in order."""
    latencies = []
    free_s = 0.0
    for arrival in arrivals_s:
        free_s = max(free_s, arrival) + service_s
        latencies.append(free_s - arrival)
    return latencies


def longest_gap(times_s: Sequence[float], since_s: float, until_s: float) -> float:
    """The longest time without an event in a span, its ends included."""
    inside = sorted(when for when in times_s if since_s < when < until_s)
    edges = [since_s, *inside, until_s]
    return max(after - before for before, after in itertools.pairwise(edges))


def percentiles(latencies_s: Sequence[float]) -> dict[str, float]:
    """`p50_s`, `p95_s`, `p99_s`."""
    found = np.percentile(np.asarray(latencies_s), [50, 95, 99])
    return dict(zip(("p50_s", "p95_s", "p99_s"), map(float, found), strict=True))
