"""What a teacher host says of itself, every few seconds."""

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from kd_ray.cluster.metrics.series import EXPORT_S, OTHERS, Instruments, Names, job_label
from kd_ray.teachers.cache import CacheStatistics, Lookups
from kd_ray.teachers.costs import Costs
from kd_ray.teachers.host_state import HostStatus
from kd_ray.teachers.latency import LatencyHistogram, bin_middles

logger = logging.getLogger(__name__)

Key = TypeVar("Key")

_MOST_JOBS, _MOST_TEACHERS, _MOST_KINDS = 32, 128, 24


class HostFigures:
    """Tells Ray what is new in a host's status.

    Args:
        pool: label of the pool.
        host: label of the host in it.
        instruments: to tell it to.
    """

    def __init__(self, pool: str, host: str, instruments: Instruments | None = None) -> None:
        self._tell = instruments or Instruments(pool=pool, host=host)
        self._jobs, self._teachers = Names(_MOST_JOBS), Names(_MOST_TEACHERS)
        self._kinds = Names(_MOST_KINDS)
        self._accounts: defaultdict[str, dict[str, float]] = defaultdict(dict)
        self._busy_s: dict[int, float] = {}
        self._bins: defaultdict[str, dict[str, list[int]]] = defaultdict(dict)
        self._task: asyncio.Task[None] | None = None

    def start(
        self, status: Callable[[], HostStatus], names: Callable[[], Mapping[int, str]]
    ) -> None:
        """Tell it again and again, on the running event loop; a second call does nothing.

        The status is asked for on the loop, where it is kept; telling it takes a thread.
        """
        if self._task is None:
            self._task = asyncio.create_task(self._tell_on(status, names))

    async def _tell_on(
        self, status: Callable[[], HostStatus], names: Callable[[], Mapping[int, str]]
    ) -> None:
        loop, warned = asyncio.get_running_loop(), False
        while True:
            await asyncio.sleep(EXPORT_S)
            try:
                await loop.run_in_executor(None, self.tell, status(), names())
            except Exception:
                # A host without figures still answers.
                if not warned:
                    logger.exception("figures could not be told to Ray; trying again and again")
                warned = True

    def tell(self, status: HostStatus, names: Mapping[int, str]) -> None:
        """What is new; `names` of teachers by their indices in the pool."""
        self._work(status)
        self._by_job(status)
        self._by_teacher(status, names)
        self._memory(status)

    def _work(self, status: HostStatus) -> None:
        tell, batches = self._tell, status.batches
        tell.gauge("kd_ray_open_requests", status.open_requests)
        tell.gauge("kd_ray_queued_utterances", status.queued_utterances)
        tell.gauge("kd_ray_held_requests", sum(status.held.values()))
        tell.total("kd_ray_passes", batches.passes)
        tell.total("kd_ray_frames", batches.cost)
        tell.total("kd_ray_padded_frames", batches.padded)
        tell.total("kd_ray_expired", batches.expired)
        most = max(batches.sizes, default=0)
        counts = [batches.sizes.get(size, 0) for size in range(most + 1)]
        self._observe("kd_ray_batch_utterances", {"": counts}, range(most + 1))
        for kind, count in _summed(status.errors, self._kinds).items():
            tell.total("kd_ray_errors", count, kind=kind)

    def _by_job(self, status: HostStatus) -> None:
        waits = {job: each.waits.counts for job, each in status.jobs.items()}
        answers = LatencyHistogram()
        for cost in status.costs.values():
            answers.merge(cost.answers)
        self._observe("kd_ray_wait_seconds", waits, bin_middles())
        self._observe("kd_ray_answer_seconds", {"": answers.counts}, bin_middles())
        for field in ("requests", "rows", "known_rows", "bytes_in", "bytes_out"):
            totals = {job: float(getattr(each, field)) for job, each in status.costs.items()}
            grown = _grown_accounts(totals, self._accounts[field])
            self._accounts[field] = totals
            for job, more in _summed(grown, self._job).items():
                self._tell.add(f"kd_ray_{field}", more, job=job)

    def _job(self, name: str) -> str:
        """Label of a job of the accounts; those that were added up count as others."""
        return OTHERS if name == Costs.GONE else self._jobs(job_label(name))

    def _by_teacher(self, status: HostStatus, names: Mapping[int, str]) -> None:
        def label(index: int) -> str:
            return self._teachers(names.get(index, str(index)))

        grown = {index: s - self._busy_s.get(index, 0.0) for index, s in status.busy_s.items()}
        # A teacher that left may come back, and its seconds go on.
        self._busy_s |= status.busy_s
        for teacher, more in _summed(grown, label).items():
            self._tell.add("kd_ray_teacher_seconds", more, teacher=teacher)
        for index in status.quarantined:
            self._tell.gauge("kd_ray_quarantined", 1, teacher=label(index))

    def _memory(self, status: HostStatus) -> None:
        tell, residency = self._tell, status.residency
        tell.gauge(
            "kd_ray_resident_teachers",
            len(status.teachers) if residency is None else len(residency.resident),
        )
        if residency is not None:
            tell.gauge("kd_ray_resident_bytes", residency.resident_bytes)
            tell.total("kd_ray_teacher_loads", residency.loads)
            tell.total("kd_ray_load_seconds", residency.load_s)
        levels: dict[str, CacheStatistics | Lookups | None] = {
            "rows": status.cache, "fused": status.fused, "store": status.stored
        }  # fmt: skip
        for level, found in levels.items():
            if found is None:
                continue
            lookups = found if isinstance(found, Lookups) else found.lookups
            tell.total("kd_ray_cache_hits", lookups.hits, level=level)
            tell.total("kd_ray_cache_misses", lookups.misses, level=level)
            if isinstance(found, CacheStatistics):
                tell.gauge("kd_ray_cache_bytes", found.num_bytes, level=level)
                tell.total("kd_ray_cache_evictions", found.evictions, level=level)

    def _observe(
        self, name: str, histograms: Mapping[str, list[int]], values: Iterable[float]
    ) -> None:
        """What histograms of our own have grown by; one value stands for each of their bins.

        Args:
            name: of the series.
            histograms: counts by bin, of each job or of all together.
            values: of the bins.
        """
        before, grown = self._bins[name], Counter[int]()
        for job, counts in histograms.items():
            known = before.get(job, [])
            # A job that was forgotten in between began anew.
            known = known if sum(known) <= sum(counts) else []
            grown.update(dict(enumerate(counts)))
            grown.subtract(dict(enumerate(known)))
        self._bins[name] = {job: list(counts) for job, counts in histograms.items()}
        for place, value in enumerate(values):
            self._tell.observe(name, value, grown[place])


def _grown_accounts(totals: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    """What each job's total has grown by; the sum is that of all totals, whatever was added up.

    Jobs that are too many move into `Costs.GONE`, with all that was told of them. What was not told
    before they went is what stays of the growth there.
    """
    grown, moved = {}, 0.0
    for job, known in before.items():
        if job != Costs.GONE and totals.get(job, 0.0) < known:
            moved += known
    for job, total in totals.items():
        known = before.get(job, 0.0)
        if job == Costs.GONE:
            grown[job] = total - known - moved
        else:
            # One that moved and has come back begins anew.
            grown[job] = total - known if total >= known else total
    return grown


def _summed(counts: Mapping[Key, float], label: Callable[[Key], str]) -> dict[str, float]:
    """Counts by label; several names may have the same."""
    total: defaultdict[str, float] = defaultdict(float)
    for name, count in counts.items():
        total[label(name)] += count
    return dict(total)
