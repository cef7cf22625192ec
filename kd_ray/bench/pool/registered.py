"""Hundreds of small teachers on one host that can hold some of them."""

import time
from pathlib import Path
from typing import Any

from kd_ray.bench.pool.goals import Goal
from kd_ray.bench.pool.load import closed_loop, signals
from kd_ray.bench.pool.models import write_teachers
from kd_ray.bench.pool.processes import memory_of
from kd_ray.bench.pool.requests import make_requests
from kd_ray.bench.pool.setup import OneHost, Setup
from kd_ray.config.bench import BenchRegistered
from kd_ray.core.contracts import Score
from kd_ray.teachers.residency import ResidencyStatus
from kd_ray.teachers.residents import paged_from_folders

_MIB = 1 << 20
OFFLINE = Goal("loads of a teacher in an offline pass", 1.0)
ONLINE = Goal("loads of a teacher in a look-ahead window", 1.0)
MEMORY = Goal("most bytes of loaded weights over the bound", 1.0)


def measure_registered(setup: Setup) -> dict[str, Any]:
    """Start-up, requests per second and loads, with all requests waiting and with a window."""
    part = setup.config.registered
    size = setup.config.batch.vocabulary_size
    folders = write_teachers(setup.folder / "many", part.model, size, part.teachers)
    max_bytes = int(part.memory_mib * _MIB)
    cards_s = _seconds_of_cards(folders, max_bytes)
    batch = setup.config.batch.model_copy(
        update={"utterances": part.utterances, "duration_s": part.duration_s}
    )
    requests = make_requests(batch, max(part.requests, part.window * part.windows))
    with setup.one_host(folders, memory_mib=part.memory_mib, max_batch_utterances=32) as host:
        before = memory_of(host.pid)
        offline = _load(host, requests[: part.requests], part.requests)
        online = _load(host, requests[: part.window * part.windows], part.window)
        after = memory_of(host.pid)
        held = _residency(host)
    offline["loads_per_teacher"] = offline["loads"] / part.teachers
    online["loads_per_teacher_and_window"] = online["loads"] / part.teachers / part.windows
    return {
        "goals": [
            OFFLINE.judge(offline["loads_per_teacher"]),
            ONLINE.judge(online["loads_per_teacher_and_window"]),
            MEMORY.judge(held.resident_bytes / max_bytes),
        ],
        "teachers": part.teachers,
        "weights_mib": sum((each / "model.safetensors").stat().st_size for each in folders) / _MIB,
        "memory_mib": part.memory_mib,
        "resident_teachers": len(held.resident),
        "cards_s": cards_s,
        "start_s": host.start_s,
        "offline": offline,
        "online": {**online, **_window(part)},
        "host_mib_after_start": before.resident / _MIB,
        "host_mib_peak": after.peak / _MIB,
        "host_own_mib_after_start": before.own / _MIB,
        "host_own_mib_after_load": after.own / _MIB,
    }


def _seconds_of_cards(folders: list[Path], max_bytes: int) -> float:
    """What a host needs to know who its teachers are."""
    started = time.perf_counter()
    paged_from_folders(folders, range(len(folders)), device="cpu", max_bytes=max_bytes)
    return time.perf_counter() - started


def _load(host: OneHost, requests: list[Score], in_flight: int) -> dict[str, Any]:
    before, started = _residency(host), time.perf_counter()
    answers = signals(closed_loop(host.source, requests, in_flight))
    seconds = time.perf_counter() - started
    after = _residency(host)
    return {
        "requests": len(requests),
        "in_flight": in_flight,
        "seconds": seconds,
        "requests_per_s": len(requests) / seconds,
        "loads": after.loads - before.loads,
        "share_of_loading": (after.load_s - before.load_s) / seconds,
        "teacher_s_share": sum(answer.teacher_s for answer in answers) / seconds,
    }


def _window(part: BenchRegistered) -> dict[str, int]:
    return {"window": part.window, "windows": part.windows}


def _residency(host: OneHost) -> ResidencyStatus:
    found = host.status().residency
    assert found is not None, "teachers are paged"
    return found
