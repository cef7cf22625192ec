"""A host is killed under load: what is lost, and for how long nobody is answered.

Once with two copies of every teacher, once with one, where its teachers must come back first. Every
answer is checked against the same teachers in this process.
"""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from kd_ray.bench.pool.fleet import Events
from kd_ray.bench.pool.goals import Goal
from kd_ray.bench.pool.load import Answered, closed_loop, longest_gap, until_set
from kd_ray.bench.pool.requests import make_requests, wrong_because
from kd_ray.bench.pool.setup import Setup
from kd_ray.cluster.pool import PoolSource
from kd_ray.core.contracts import Signal

_VICTIM = 1
WITHOUT_PROGRESS = Goal("longest time without an answer, a copy of each teacher left, seconds", 2.0)
LOST = Goal("requests lost, wrong or answered twice", 0.0)


def measure_failover(setup: Setup) -> dict[str, Any]:
    """With a copy of each teacher elsewhere, and without."""
    with_copies = _kill_one(setup, 2)
    alone = _kill_one(setup, 1)
    bad = sum(each[key] for each in (with_copies, alone) for key in ("lost", "wrong", "twice"))
    return {
        "goals": [
            WITHOUT_PROGRESS.judge(with_copies["longest_without_answer_s"]),
            LOST.judge(bad),
        ],
        "hosts": setup.fleet.hosts,
        "in_flight": setup.config.failover.in_flight,
        "pass_s": setup.config.fleet.pass_s,
        "with_copies": with_copies,
        "without_copies": alone,
    }


def _kill_one(setup: Setup, copies: int) -> dict[str, Any]:
    part, fleet = setup.config.failover, setup.fleet
    requests = make_requests(setup.config.batch, 16, seed=copies)
    expected = dict(
        zip(
            (request.utterance_ids for request in requests),
            fleet.expected(fleet.waiting, requests),
            strict=True,
        )
    )
    events, stop = Events(), threading.Event()
    source = PoolSource(fleet.spread(fleet.waiting, fleet.hosts, copies), on_event=events)
    with ThreadPoolExecutor(1) as thread:
        began_s = time.perf_counter()
        load = thread.submit(closed_loop, source, until_set(requests, stop), part.in_flight)
        try:
            time.sleep(part.before_s)
            killed_s = fleet.kill(_VICTIM)
            started = fleet.wait_until_back(_VICTIM, killed_s, part.recover_s)
            back = events.wait_for("teacher_host_back", killed_s, part.recover_s)
            time.sleep(part.after_s)
        finally:
            stop.set()
        answered = load.result()
    counts = source.counts
    source.close()
    left_out = events.since(killed_s, "teacher_host_left_out")
    died = fleet.events.since(killed_s, "host_died")
    assert left_out is not None, "it was asked all the time"
    assert died is not None, "it was started again"
    return {
        **judge_answers(answered, expected, began_s, killed_s),
        "retries": counts.get("retries", 0),
        "shortened": counts.get("shortened_signals", 0),
        "client_noticed_s": left_out.when_s - killed_s,
        "keeper_noticed_s": died.when_s - killed_s,
        "process_and_teachers_s": started.details["seconds"],
        "up_again_s": started.when_s - killed_s,
        "client_uses_it_s": back.when_s - killed_s,
    }


def judge_answers(
    answered: Sequence[Answered],
    expected: dict[tuple[str, ...], Signal],
    began_s: float,
    killed_s: float,
) -> dict[str, Any]:
    """Count losses, and find the longest time without an answer before and after the kill."""
    whole = [each for each in answered if isinstance(each.answer, Signal)]
    reasons = [wrong_because(s, expected[s.utterance_ids]) for s in _signals(whole)]
    times = [each.done_s for each in whole]
    end_s = max(times)
    after = [when for when in times if when > killed_s]
    return {
        "requests": len(answered),
        "lost": len(answered) - len(whole),
        "wrong": sum(reason is not None for reason in reasons),
        "twice": sum(len(set(s.answered)) < len(s.answered) for s in _signals(whole)),
        "reasons": sorted({reason for reason in reasons if reason is not None}),
        "errors": sorted({repr(e.answer) for e in answered if isinstance(e.answer, Exception)}),
        "longest_before_s": longest_gap(times, began_s, killed_s),
        "longest_without_answer_s": longest_gap(times, killed_s, end_s),
        "first_answer_s": min(after) - killed_s,
        "slowest_request_s": max(each.latency_s for each in whole),
    }


def _signals(answered: Sequence[Answered]) -> list[Signal]:
    return [each.answer for each in answered if isinstance(each.answer, Signal)]
