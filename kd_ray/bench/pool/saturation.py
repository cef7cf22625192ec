"""A host that always has work, against the same teacher called in this process.

Every request fills a pass, so both compute the same batches: features, forward pass, label strings,
error rates, fusing. They take turns; ratios are of each round's two turns.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kd_ray.bench.pool.goals import Goal
from kd_ray.bench.pool.load import closed_loop, signals
from kd_ray.bench.pool.processes import cpu_seconds_of
from kd_ray.bench.pool.requests import check_answers, make_requests
from kd_ray.bench.pool.setup import OneHost, Setup, torch_threads
from kd_ray.core.contracts import Score, Signal
from kd_ray.core.strategies import fuse
from kd_ray.teachers.teacher import Teacher, load_teachers

GOAL = Goal("throughput of a saturated host over the same teacher in process", 0.9, at_least=True)


@dataclass(frozen=True)
class Turn:
    """Seconds of one turn; `model_s`: of its calls of the model alone, where they are known."""

    wall_s: float
    cpu_s: float
    model_s: float = float("nan")


def measure_saturation(setup: Setup) -> dict[str, Any]:
    """Requests per second of both, and their ratio."""
    part = setup.config.saturation
    requests = make_requests(setup.config.batch, part.requests)
    teacher = load_teachers([setup.teacher])[0]
    with torch_threads(setup.threads), setup.one_host([setup.teacher]) as host:
        few = requests[: 2 * part.in_flight]
        answers = signals(closed_loop(host.source, few, part.in_flight))
        said = {signal.utterance_ids: signal for signal in answers}
        check_answers([(said[each.utterance_ids], answer_here(teacher, each)[0]) for each in few])
        turns = [
            (pool_turn(host, requests, part.in_flight), turn_here(teacher, requests))
            for _ in range(part.rounds)
        ]
        batches = host.status().batches
    figures = ratios(turns, part.requests)
    return {
        "goals": [GOAL.judge(figures["to_in_process"])],
        **figures,
        "parameters": teacher.info.parameters,
        "utterances_per_pass": batches.units_per_pass,
        "threads": setup.threads,
        "in_flight": part.in_flight,
        "all_ratios": [mine.wall_s / pool.wall_s for pool, mine in turns],
    }


def ratios(turns: Sequence[tuple[Turn, Turn]], requests: int) -> dict[str, float]:
    """Medians over rounds of (pool, in process), all as the pool's share of the other."""
    return {
        "to_in_process": statistics.median(mine.wall_s / pool.wall_s for pool, mine in turns),
        "to_model_alone": statistics.median(mine.model_s / pool.wall_s for pool, mine in turns),
        "host_cpu_to_in_process": statistics.median(
            pool.cpu_s / mine.cpu_s for pool, mine in turns
        ),
        "requests_per_s": statistics.median(requests / pool.wall_s for pool, _ in turns),
        "in_process_requests_per_s": statistics.median(requests / mine.wall_s for _, mine in turns),
    }


def pool_turn(host: OneHost, requests: Sequence[Score], in_flight: int) -> Turn:
    """All requests through the pool."""
    cpu_s, started = cpu_seconds_of(host.pid), time.perf_counter()
    signals(closed_loop(host.source, requests, in_flight))
    return Turn(time.perf_counter() - started, cpu_seconds_of(host.pid) - cpu_s)


def turn_here(teacher: Teacher, requests: Sequence[Score]) -> Turn:
    """All requests in this process, one after another."""
    cpu_s, started = time.process_time(), time.perf_counter()
    model_s = sum(answer_here(teacher, request)[1] for request in requests)
    return Turn(time.perf_counter() - started, time.process_time() - cpu_s, model_s)


def answer_here(teacher: Teacher, request: Score) -> tuple[Signal, float]:
    """What a pool with this teacher alone says, and the seconds of its forward pass."""
    inputs, lengths = teacher.reader(request.audio.waveforms(), None)
    started = time.perf_counter()
    output = teacher.score(
        inputs, lengths, request.decoder_prefix(), request.references, request.wanted
    )
    model_s = time.perf_counter() - started
    return fuse([output], request.fusion, 1).signal(request.utterance_ids), model_s
