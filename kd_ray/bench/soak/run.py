"""The soak: clients ask a named pool of a private Ray, and check every answer, while it is hurt."""

import logging
import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kd_ray.bench.load import Question, ask_locally
from kd_ray.bench.small_teachers import save_small_teachers, small_requests
from kd_ray.bench.soak.clients import Client
from kd_ray.bench.soak.faults import Faults
from kd_ray.bench.soak.processes import descendants, look
from kd_ray.bench.soak.verdict import Sample, computed_s, judge
from kd_ray.cluster.pool import service
from kd_ray.cluster.pool.address import NAMESPACE
from kd_ray.cluster.pool.plan import PoolSpec
from kd_ray.cluster.pool.views import PoolError
from kd_ray.cluster.runtime import ensure_ray, named_actors, object_store_used, placement_groups
from kd_ray.config.bench import BenchSoakConfig
from kd_ray.config.pool import PoolConfig
from kd_ray.config.sources import PoolSource as PoolSection
from kd_ray.teachers.teacher import load_teachers

logger = logging.getLogger(__name__)

POOL = "soak"
JUDGED = ("driver", "host", "manager", "gcs", "raylet")
"""Kinds of processes whose memory is judged."""

_KEPT_TASKS = 2000
_TELL_S = 60.0
_HUNG_AFTER_S = 6.0
_PAUSE_S = 3.0
_START_S = 150.0
"""Longest time for a host to load its small teachers: one that is stopped meanwhile is noticed by
this alone."""
_WHOLE_S = 240.0
"""Longest wait for what must be so in the end."""
_GONE_S = 30.0
"""Longest wait for what must be gone."""


class SoakFailed(RuntimeError):
    """Answers were lost or wrong, memory grew, or something stayed behind."""


def measure_soak(config: BenchSoakConfig) -> tuple[dict[str, Any], list[Sample]]:
    """Figures, `problems` among them, and the samples they are made of.

    Raises:
        RuntimeError: this process is connected to Ray already.
    """
    # Ray keeps what it knows of this many tasks, by default 100,000: the soak would end before.
    os.environ.update({"RAY_task_events_max_num_task_in_gcs": str(_KEPT_TASKS)})
    with TemporaryDirectory(prefix="kd_ray-soak-") as folder:
        folders = save_small_teachers(Path(folder), config.teachers, seed=config.seed)
        questions = [
            ask_locally(small_requests(config.questions, seed=number), load_teachers(folders))
            for number in range(config.clients)
        ]
        with ensure_ray(config.hosts + 1, object_store_mib=256, private=True):
            figures, samples, problems = _soak(config, folders, questions)
        behind = _await_gone(lambda: descendants(os.getpid()))
    if behind:
        problems.append(f"{len(behind)} processes stayed behind when Ray had ended: {behind}")
    return {**figures, "problems": problems}, samples


def _soak(
    config: BenchSoakConfig, folders: Sequence[Path], questions: Sequence[list[Question[Any]]]
) -> tuple[dict[str, Any], list[Sample], list[str]]:
    """What happens between the start of Ray and its end."""
    store_before = object_store_used()
    spec = PoolSpec(_pool_config(config), tuple(map(str, folders)))
    address = service.up(spec)
    began_s = time.monotonic()
    clients = [
        Client(
            f"job-{number}",
            _section(number),
            asked,
            per_s=config.requests_per_s,
            stay_s=_stays(config),
            seed=config.seed + number,
        )
        for number, asked in enumerate(questions)
    ]
    faults = Faults(
        [address.hosts[0].pid], every_s=config.fault_every_s, pause_s=_PAUSE_S, seed=config.seed
    )
    samples: list[Sample] = []
    told_s = 0.0
    try:
        while (at_s := time.monotonic() - began_s) < 60 * config.minutes:
            samples.append(_sample(at_s, clients))
            if at_s >= told_s + _TELL_S:
                told_s = at_s
                _tell(samples[-1], clients, len(faults.done))
            time.sleep(config.sample_every_s)
        faults.stop()
        # What was hurt last has its time to come back, so that the end is whole.
        _await(lambda: _whole(config))
    finally:
        for client in clients:
            client.stop()
        for client in clients:
            client.join()
    seconds = time.monotonic() - began_s
    status, actors = service.status(POOL), len(named_actors(NAMESPACE))
    service.down(POOL, force=True)
    problems = [text for client in clients for text in _problems_of(client)]
    answering = [host.name for host in status.hosts if host.status is not None]
    if status.state != "up" or len(answering) != config.hosts or actors != config.hosts + 1:
        problems.append(
            f"at the end the pool was {status.state}, hosts {answering} answered, and there were "
            f"{actors} actors"
        )
    if status.jobs:
        problems.append(f"jobs that had gone were still attached: {status.jobs}")
    judged, grown = judge(
        samples,
        kinds=JUDGED,
        warm_up_s=config.warm_up_s,
        max_mib_per_hour=config.max_mib_per_hour,
        max_store_mib=config.max_store_mib,
    )
    after, left = _behind(store_before)
    figures = {
        "seconds": seconds,
        "cpu_s_per_s": computed_s(samples) / seconds,
        "config": config.model_dump(mode="json"),
        "clients": {client.job: client.tally.plain() for client in clients},
        "visits": sum(client.visits for client in clients),
        "totals": _totals(clients),
        "events": dict(sum((client.kinds for client in clients), Counter[str]())),
        "faults": faults.done,
        **judged,
        "after_down": after,
    }
    return figures, samples, [*problems, *grown, *left]


def _pool_config(config: BenchSoakConfig) -> PoolConfig:
    return PoolConfig.model_validate(
        {
            "command": "pool",
            "name": POOL,
            "teachers": {"list": "made by the soak"},
            "hosts": {
                "hosts": config.hosts,
                "replicas": config.replicas,
                "cache_mib": config.cache_mib,
                "cpus_per_host": 0.5,
                "start_timeout_s": _START_S,
                "hung_after_s": _HUNG_AFTER_S,
                "max_deaths": 1000,
            },
            "lease_s": 10,
        }
    )


def _section(number: int) -> PoolSection:
    return PoolSection(
        name=POOL, deadline_s=30, retry_after_s=2, recover_s=60, weight=1.0 + number % 2
    )


def _stays(config: BenchSoakConfig) -> tuple[float, float]:
    return min(60.0, 6 * config.minutes), min(300.0, 30 * config.minutes)


def _sample(at_s: float, clients: Sequence[Client]) -> Sample:
    return Sample(
        at_s,
        tuple(look()),
        object_store_used(),
        len(named_actors(NAMESPACE)),
        len(placement_groups()),
        sum(client.tally.right for client in clients),
    )


def _tell(sample: Sample, clients: Sequence[Client], faults: int) -> None:
    """How it goes, so that nobody waits for the end of a soak that has failed."""
    logger.info(
        "soak: after %.0f min %d answers, %d wrong, %d lost, %d faults",
        sample.at_s / 60,
        sample.answers,
        sum(client.tally.wrong for client in clients),
        sum(client.tally.lost for client in clients),
        faults,
    )


def _whole(config: BenchSoakConfig) -> bool:
    try:
        status = service.status(POOL)
    except PoolError:
        return False
    answering = [host for host in status.hosts if host.status is not None]
    return status.state == "up" and len(answering) == config.hosts


def _problems_of(client: Client) -> list[str]:
    tally = client.tally
    if tally.sound and not tally.gone:
        return []
    return [
        f"{client.job}: of {tally.asked} requests {tally.right} were answered rightly, "
        f"{tally.wrong} wrongly, {tally.lost} were lost, for {tally.gone} too few teachers "
        f"answered ({'; '.join(tally.problems[:3])})"
    ]


def _totals(clients: Sequence[Client]) -> dict[str, Any]:
    counted = sum((client.counts for client in clients), Counter[str]())
    names = ("asked", "right", "shortened", "gone", "lost", "wrong")
    return {
        **{name: sum(getattr(client.tally, name) for client in clients) for name in names},
        "longest_gap_s": max(client.tally.longest_gap_s for client in clients),
        "sources": dict(counted),
    }


def _behind(store_before: int) -> tuple[dict[str, Any], list[str]]:
    """What is left of the pool after `down`, and what should not be."""
    actors = _await_gone(lambda: named_actors(NAMESPACE))
    groups = _await_gone(placement_groups)
    processes = _await_gone(lambda: [p.pid for p in look() if p.kind in ("host", "manager")])
    _await(lambda: object_store_used() <= store_before)
    store = object_store_used()
    left = {"actors": actors, "placement_groups": groups, "processes": processes}
    problems = [f"after down {name} are left: {found}" for name, found in left.items() if found]
    if store > store_before:
        problems.append(f"after down the object store holds {store - store_before} bytes more")
    counts = {name: len(found) for name, found in left.items()}
    return {**counts, "store_bytes_more": store - store_before}, problems


def _await(condition: Any) -> None:
    """Wait for something to become true, at most for a while."""
    limit_s = time.monotonic() + _WHOLE_S
    while not condition() and time.monotonic() < limit_s:
        time.sleep(0.5)


def _await_gone(find: Any) -> list[Any]:
    """What is still found after a while."""
    limit_s = time.monotonic() + _GONE_S
    while (found := find()) and time.monotonic() < limit_s:
        time.sleep(0.2)
    return list(found)
