"""How a pool is doing, as tables in the terminal and as plain data for JSON."""

import dataclasses
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from kd_ray.cluster.pool.status import HostView, PoolStatus
from kd_ray.report.console import log_console
from kd_ray.teachers.batching import JobStatistics
from kd_ray.teachers.cache import Lookups
from kd_ray.teachers.costs import JobCost
from kd_ray.teachers.host import HostStatus
from kd_ray.teachers.latency import LatencyHistogram

_MIB = 2**20
_QUANTILES = (0.5, 0.95, 0.99)
_EVENTS = 5


def show(status: PoolStatus, console: Console | None = None) -> None:
    """Tables of nodes, hosts and jobs, and the latest events."""
    console = console or log_console()
    console.print(
        f"pool {status.name}: {status.state} for {_lasted(status.up_s)}, kd_ray {status.package}, "
        f"protocol {status.protocol}, change {status.version}; {status.teachers} teachers, "
        f"{len(status.hosts)} hosts "
        f"({status.deaths} died, {status.respawns} started again)",
        highlight=False,
    )
    if status.nodes:
        console.print(_nodes(status))
    if status.hosts:
        console.print(_hosts(status))
        answering = [(view, view.status) for view in status.hosts if view.status is not None]
        console.print(_work(answering))
        remembered = _remembered(answering)
        if remembered is not None:
            console.print(remembered)
    for view in status.hosts:
        for index, reason in view.status.quarantined.items() if view.status else ():
            console.print(f"teacher {index} is quarantined on {view.name}: {reason}")
    console.print(_jobs(status) if status.jobs else "no jobs attached")
    for event in status.events[-_EVENTS:]:
        details = {key: value for key, value in event.items() if key not in ("time", "kind")}
        console.print(f"{_clock(event['time'])} {event['kind']} {details}")


def job_totals(status: PoolStatus) -> Mapping[str, JobStatistics]:
    """What all hosts did for each job."""
    totals: dict[str, JobStatistics] = {}
    for view in status.hosts:
        if view.status is not None:
            for name, done in view.status.jobs.items():
                totals.setdefault(name, JobStatistics()).merge(done)
    return totals


def job_costs(status: PoolStatus) -> Mapping[str, JobCost]:
    """What each job cost all hosts together; jobs that have gone are still there."""
    totals: dict[str, JobCost] = {}
    for view in status.hosts:
        if view.status is not None:
            for name, cost in view.status.costs.items():
                totals.setdefault(name, JobCost()).add(cost)
    return totals


def errors_of(status: PoolStatus) -> Mapping[str, int]:
    """What went wrong on all hosts together, by kind."""
    total: Counter[str] = Counter()
    for view in status.hosts:
        if view.status is not None:
            total.update(view.status.errors)
    return dict(total)


def as_plain(status: PoolStatus) -> dict[str, Any]:
    """For JSON; histograms become their quantiles, in seconds."""
    plain: dict[str, Any] = dataclasses.asdict(status)
    for view, host in zip(status.hosts, plain["hosts"], strict=True):
        if view.status is None:
            continue
        batches = view.status.batches
        host["status"]["batches"] |= {
            "units_per_pass": batches.units_per_pass,
            "size": {_name(q): batches.size_quantile(q) for q in _QUANTILES},
        }
        host["status"]["answer_s"] = _seconds(_answers(view.status.costs.values()))
        for name, done in view.status.jobs.items():
            host["status"]["jobs"][name] |= {"waits": _seconds(done.waits)}
        for name, cost in view.status.costs.items():
            host["status"]["costs"][name] |= {"answers": _seconds(cost.answers)}
    plain["errors"] = errors_of(status)
    plain["by_job"] = _by_job(status)
    return plain


def _by_job(status: PoolStatus) -> dict[str, Any]:
    totals, costs = job_totals(status), job_costs(status)
    found = {}
    for name in dict.fromkeys((*costs, *totals)):
        done, cost = totals.get(name, JobStatistics()), costs.get(name, JobCost())
        found[name] = {
            **{
                field.name: getattr(cost, field.name)
                for field in dataclasses.fields(cost)
                if field.name != "answers"
            },
            "per_row": {
                each: getattr(cost, each) / max(1, cost.rows)
                for each in ("teacher_s", "loads", "bytes_in", "bytes_out")
            },
            "utterances": done.units,
            "passes": done.passes,
            "wait_s": _seconds(done.waits),
            "answer_s": _seconds(cost.answers),
        }
    return found


def _nodes(status: PoolStatus) -> Table:
    rows = [
        (
            node.node[:8], node.hostname, "" if node.alive else "gone", f"{node.cpus:g}",
            f"{node.gpus:g} {node.gpu_type}".rstrip(), str(node.hosts), f"{node.gpus_of_hosts:g}",
        )
        for node in status.nodes
    ]  # fmt: skip
    return _table("node name state CPUs GPUs hosts GPUs_of_hosts", rows)


def _hosts(status: PoolStatus) -> Table:
    """Who is where."""
    rows = []
    for view in status.hosts:
        seat, said = view.seat, view.status
        device = "" if seat is None else seat.device
        share = "" if seat is None else f"{seat.gpus:g}" if seat.gpus else f"{seat.cpus:g} CPU"
        row = [_number(view), view.node[:8], str(view.pid), device, share]
        if said is None:
            rows.append([*row, "no answer", *[""] * 3, _restart(view)])
            continue
        loaded = len(said.teachers) if said.residency is None else len(said.residency.resident)
        loads = "" if said.residency is None else str(said.residency.loads)
        quarantined = ", ".join(map(str, said.quarantined)) or "none"
        rows.append(
            [*row, str(len(said.teachers)), str(loaded), loads, quarantined, _restart(view)]
        )
    columns = "host node pid device share teachers loaded loads quarantined last_restart"
    return _table(columns, rows)


def _remembered(views: Iterable[tuple[HostView, HostStatus]]) -> Table | None:
    """What hosts need not compute again; None where none of them remembers anything."""
    rows = []
    for view, said in views:
        if said.cache is None and said.fused is None and said.stored is None:
            continue
        row = [_number(view)]
        for level in (said.cache, said.fused):
            if level is None:
                row += ["", "", ""]
            else:
                size = f"{level.num_bytes / _MIB:.1f} of {level.max_bytes / _MIB:.0f} MiB"
                row += [str(level.entries), size, _share(level.lookups)]
        rows.append([*row, "" if said.stored is None else _share(said.stored)])
    columns = "host outputs size found fused size found found_in_store"
    return _table(columns, rows) if rows else None


def _work(views: Iterable[tuple[HostView, HostStatus]]) -> Table:
    """What hosts do, and how fast; requests that are held wait for room of their job."""
    rows = []
    for view, said in views:
        errors = ", ".join(f"{count} {kind}" for kind, count in said.errors.items())
        rows.append(
            [
                _number(view), str(said.open_requests), str(sum(said.held.values())),
                str(said.queued_utterances),
                str(said.batches.passes), f"{said.batches.units_per_pass:.1f}",
                *(str(said.batches.size_quantile(q)) for q in _QUANTILES),
                *_milliseconds(_answers(said.costs.values())), errors or "none",
            ]
        )  # fmt: skip
    columns = "host open held queued passes batch p50 p95 p99 answer_p50 p95 p99 errors"
    return _table(columns, rows)


def _jobs(status: PoolStatus) -> Table:
    totals, costs = job_totals(status), job_costs(status)
    rows = []
    for job in status.jobs:
        done, cost = totals.get(job.name, JobStatistics()), costs.get(job.name, JobCost())
        rows.append(
            [
                job.name, f"{job.weight:g}", _lasted(job.attached_s), str(cost.rows),
                str(cost.known_rows), f"{cost.teacher_s:.1f}",
                f"{1e3 * cost.teacher_s / max(1, cost.rows):.2f}", f"{cost.loads:.0f}",
                f"{cost.bytes_in / _MIB:.1f}", f"{cost.bytes_out / _MIB:.1f}",
                *_milliseconds(done.waits), *_milliseconds(cost.answers),
            ]
        )  # fmt: skip
    columns = "job weight attached rows remembered teacher_s ms_a_row loads MiB_in MiB_out"
    return _table(f"{columns} wait_p50 p95 p99 answer_p50 p95 p99", rows)


def _table(columns: str, rows: Iterable[Sequence[str]]) -> Table:
    table = Table(*columns.split(), box=None)
    for row in rows:
        table.add_row(*row)
    return table


def _number(view: HostView) -> str:
    return view.name.rsplit("-", 1)[-1]


def _share(lookups: Lookups) -> str:
    return f"{100 * lookups.hit_share:.0f} %"


def _restart(view: HostView) -> str:
    return "none" if view.restart is None else f"{_clock(view.restart.at_s)} {view.restart.reason}"


def _answers(costs: Iterable[JobCost]) -> LatencyHistogram:
    total = LatencyHistogram()
    for cost in costs:
        total.merge(cost.answers)
    return total


def _name(q: float) -> str:
    return f"p{round(100 * q)}"


def _seconds(histogram: LatencyHistogram) -> dict[str, float | None]:
    known = histogram.count > 0
    return {_name(q): histogram.quantile(q) if known else None for q in _QUANTILES} | {
        "mean": histogram.mean_s if known else None,
        "max": histogram.max_s if known else None,
    }


def _milliseconds(histogram: LatencyHistogram) -> list[str]:
    if not histogram.count:
        return [""] * len(_QUANTILES)
    return [f"{1e3 * histogram.quantile(q):.1f} ms" for q in _QUANTILES]


def _lasted(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _clock(unix_s: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(unix_s))
