"""How a pool is doing, as tables in the terminal and as plain data for JSON."""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from kd_ray.cluster.pool.manager import HostView, PoolStatus
from kd_ray.teachers.batching import JobStatistics
from kd_ray.teachers.costs import JobCost


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
    for view in status.hosts:
        for index, reason in view.status.quarantined.items() if view.status else ():
            console.print(f"teacher {index} is quarantined on {view.name}: {reason}")
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
