"""`kd-ray pool up | update | status | drain | down CONFIG`: teachers that run by themselves."""

import dataclasses
import json
import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from kd_ray.cluster.pool import service
from kd_ray.cluster.pool.manager import HostView, PoolStatus
from kd_ray.cluster.pool.plan import PoolSpec
from kd_ray.config.pool import PoolConfig
from kd_ray.evaluation.system import read_teacher_list
from kd_ray.teachers.batching import JobStatistics
from kd_ray.teachers.cards import Blueprints, card_of
from kd_ray.teachers.costs import JobCost
from kd_ray.teachers.transcriber import TranscriberSpec

logger = logging.getLogger(__name__)

Action = Literal["up", "update", "status", "drain", "down"]


def pool(
    config: PoolConfig,
    root: Path,
    action: Action,
    *,
    force: bool = False,
    replace: bool = False,
    as_json: bool = False,
    watch: float | None = None,
) -> PoolStatus | None:
    """Start, look at, drain or end a named pool.

    Args:
        config: of the pool.
        root: where relative paths begin.
        action: what is done.
        force: `down` also while jobs are attached.
        replace: `up` of a pool that runs starts new hosts beside the old, which then leave.
        as_json: the status as one line of JSON.
        watch: look again every so many seconds, until interrupted.

    Raises:
        PoolError: there is no such pool, or another one of this name; jobs are attached.
        PoolStartError: a host could not be started.
        PoolChangeError: the running pool could not be changed, and was not.
    """
    with service.join_cluster():
        match action:
            case "up":
                return _up(config, root, replace=replace, as_json=as_json)
            case "update":
                return _update(config, root, as_json=as_json)
            case "status":
                return _show(config.name, as_json=as_json, watch=watch)
            case "drain":
                attached = service.drain(config.name)
                logger.info("pool %s: takes no further jobs; %d attached", config.name, attached)
            case "down":
                service.down(config.name, force=force)
                logger.info("pool %s: down", config.name)
    return None


def _up(config: PoolConfig, root: Path, *, replace: bool, as_json: bool) -> PoolStatus:
    started = time.monotonic()
    address = service.up(spec_of(config, root), replace=replace)
    logger.info(
        "pool %s: %d teachers on %d hosts, up after %.0f s",
        config.name,
        len(address.info.teachers),
        len(address.hosts),
        time.monotonic() - started,
    )
    return _show(config.name, as_json=as_json, watch=None)


def _update(config: PoolConfig, root: Path, *, as_json: bool) -> PoolStatus:
    changed = service.update(spec_of(config, root))
    logger.info(
        "pool %s: %d teachers added, %d removed, %d replaced, %d stay",
        config.name,
        len(changed.added),
        len(changed.removed),
        len(changed.replaced),
        changed.kept,
    )
    return _show(config.name, as_json=as_json, watch=None)


def spec_of(config: PoolConfig, root: Path) -> PoolSpec:
    """What a file says a pool shall be.

    Raises:
        CheckpointError, UnusableSystem: a teacher's folder is broken.
    """
    folders = read_teacher_list(config.teachers.list, root)
    blueprints = Blueprints()
    cards = [card_of(folder, index, blueprints) for index, folder in enumerate(folders)]
    section = config.teachers.recognizer
    recognizer = None if section is None else TranscriberSpec(root / section.system, section)
    return PoolSpec(
        config,
        tuple(map(str, folders)),
        recognizer,
        digests=tuple(card.info.digest for card in cards),
    )


def _show(name: str, *, as_json: bool, watch: float | None) -> PoolStatus:
    while True:
        status = service.status(name)
        if as_json:
            sys.stdout.write(json.dumps(as_plain(status)) + "\n")
            sys.stdout.flush()
        else:
            show(status)
        if watch is None:
            return status
        time.sleep(watch)


def show(status: PoolStatus) -> None:
    """Tables of hosts and jobs, and the latest events."""
    console = Console()
    console.print(
        f"pool {status.name}: {status.state} for {status.up_s:.0f} s, {status.teachers} teachers, "
        f"{len(status.hosts)} hosts ({status.deaths} died, {status.respawns} started again)"
    )
    columns = "host node pid teachers loaded open queued passes batch cache quarantined"
    hosts = Table(*columns.split(), box=None)
    for view in status.hosts:
        hosts.add_row(*_host_row(view))
    console.print(hosts)
    totals = job_totals(status)
    costs = job_costs(status)
    columns = "job weight attached rows remembered teacher_s MiB_out waits_p50 p95 p99"
    jobs = Table(*columns.split(), box=None)
    for job in status.jobs:
        done, cost = totals.get(job.name, JobStatistics()), costs.get(job.name, JobCost())
        waits = [done.waits.quantile(q) if done.waits.count else 0.0 for q in (0.5, 0.95, 0.99)]
        jobs.add_row(job.name, f"{job.weight:g}", f"{job.attached_s:.0f} s", str(cost.rows),
                     str(cost.known_rows), f"{cost.teacher_s:.1f}", f"{cost.bytes_out / 2**20:.1f}",
                     *(f"{1e3 * wait:.1f} ms" for wait in waits))  # fmt: skip
    console.print(jobs if status.jobs else "no jobs attached")
    for event in status.events[-5:]:
        details = {key: value for key, value in event.items() if key not in ("time", "kind")}
        when = time.strftime("%H:%M:%S", time.localtime(event["time"]))
        console.print(f"{when} {event['kind']} {details}")


def job_totals(status: PoolStatus) -> Mapping[str, JobStatistics]:
    """What all hosts did for each job."""
    totals: dict[str, JobStatistics] = {}
    for view in status.hosts:
        if view.status is not None:
            for name, done in view.status.jobs.items():
                totals.setdefault(name, JobStatistics()).merge(done)
    return totals


def job_costs(status: PoolStatus) -> Mapping[str, JobCost]:
    """What each job cost all hosts together."""
    totals: dict[str, JobCost] = {}
    for view in status.hosts:
        if view.status is not None:
            for name, cost in view.status.costs.items():
                totals.setdefault(name, JobCost()).add(cost)
    return totals


def as_plain(status: PoolStatus) -> dict[str, Any]:
    """For JSON; histograms of waits become their quantiles."""
    plain: dict[str, Any] = dataclasses.asdict(status)
    for host in plain["hosts"]:
        for done in (host["status"] or {}).get("jobs", {}).values():
            done.pop("waits")
    plain["by_job"] = {
        name: {
            **dataclasses.asdict(job_costs(status).get(name, JobCost())),
            "utterances": done.units,
            "passes": done.passes,
            "wait_s": {
                f"p{int(100 * q)}": done.waits.quantile(q) if done.waits.count else None
                for q in (0.5, 0.95, 0.99)
            },
        }
        for name, done in job_totals(status).items()
    }
    return plain


def _host_row(view: HostView) -> list[str]:
    name = view.name.rsplit("-", 1)[-1]
    row = [name, view.node[:8], str(view.pid)]
    if view.status is None:
        return [*row, "no answer", *[""] * 7]
    status, residency, cache = view.status, view.status.residency, view.status.cache
    loaded = len(status.teachers) if residency is None else len(residency.resident)
    return [
        *row,
        str(len(status.teachers)),
        str(loaded),
        str(status.open_requests),
        str(status.queued_utterances),
        str(status.batches.passes),
        f"{status.batches.units_per_pass:.1f}",
        "" if cache is None else f"{cache.entries} rows, {cache.num_bytes / 2**20:.1f} MiB",
        ", ".join(map(str, status.quarantined)) or "none",
    ]
