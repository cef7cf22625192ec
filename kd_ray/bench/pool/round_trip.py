"""A request to an idle pool against a bare actor call with the same payload, in turns.

The teacher computes nothing. The bare actor gets the same audio and question, and gives back the
same target; a second one also makes the target as a host would.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from kd_ray.bench.pool.fakes import BenchTeacher, fake_folders, fake_loader
from kd_ray.bench.pool.goals import Goal
from kd_ray.bench.pool.requests import make_requests
from kd_ray.bench.pool.setup import Setup
from kd_ray.cluster.bare import BareActor
from kd_ray.cluster.pool.address import arrays_bytes
from kd_ray.core.contracts import Audio, Score
from kd_ray.core.strategies import FusedTargets, fuse

GOAL = Goal("idle round trip over a bare actor call, milliseconds", 3.0)


def answer_with(teacher: BenchTeacher, audio: Audio, question: Score) -> FusedTargets:
    """What a pool of one teacher makes of a request."""
    inputs, lengths = teacher.reader(audio.waveforms(), None)
    output = teacher.score(
        inputs, lengths, question.decoder_prefix(), question.references, question.wanted
    )
    return fuse([output], question.fusion, 1)


def measure_round_trip(setup: Setup) -> dict[str, Any]:
    """Median milliseconds of each, and what the pool adds."""
    part = setup.config.round_trip
    size = setup.config.batch.vocabulary_size
    requests = make_requests(setup.config.batch, 8)
    folders: list[Path] = fake_folders(1, 0)
    load = fake_loader(size)
    (teacher,) = load(folders, "cpu")
    target = answer_with(teacher, requests[0].audio, requests[0])
    with setup.one_host(folders, load=load) as host:
        bare = BareActor(target, partial(answer_with, teacher))
        ways: dict[str, Callable[[Score], object]] = {
            "pool": lambda request: host.source.ask(request).result(60.0),
            "bare": bare.hand_back,
            "bare_computing": bare.make,
        }
        milliseconds: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(-part.warmup, part.requests):
            request = requests[turn % len(requests)]
            for name, way in ways.items():
                started = time.perf_counter()
                way(request)
                if turn >= 0:
                    milliseconds[name].append(1e3 * (time.perf_counter() - started))
        bare.close()
    medians = {f"{name}_ms": statistics.median(each) for name, each in milliseconds.items()}
    over = medians["pool_ms"] - medians["bare_ms"]
    return {
        "goals": [GOAL.judge(over)],
        **medians,
        "over_bare_ms": over,
        "over_computing_ms": medians["pool_ms"] - medians["bare_computing_ms"],
        "audio_bytes": requests[0].audio.samples.nbytes,
        "target_bytes": arrays_bytes(target),
        "requests": part.requests,
    }
