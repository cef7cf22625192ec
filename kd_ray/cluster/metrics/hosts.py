"""What a teacher host says of itself, every few seconds."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from kd_ray.cluster.metrics.series import EXPORT_S, Instruments, Names, job_label
from kd_ray.teachers.cache import CacheStatistics, Lookups
from kd_ray.teachers.host_state import HostStatus
from kd_ray.teachers.latency import LatencyHistogram, bin_middles

logger = logging.getLogger(__name__)

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
        self._seen: dict[str, list[int]] = {}
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
        self._observe("kd_ray_batch_utterances", counts, range(most + 1))
        for kind, count in _summed(status.errors, self._kinds).items():
            tell.total("kd_ray_errors", count, kind=kind)

    def _by_job(self, status: HostStatus) -> None:
        answers, waits = LatencyHistogram(), LatencyHistogram()
        for done in status.jobs.values():
            waits.merge(done.waits)
        for cost in status.costs.values():
            answers.merge(cost.answers)
        self._observe("kd_ray_wait_seconds", waits.counts, bin_middles())
        self._observe("kd_ray_answer_seconds", answers.counts, bin_middles())
        for field in ("requests", "rows", "known_rows", "bytes_in", "bytes_out"):
            counts = {name: getattr(each, field) for name, each in status.costs.items()}
            for job, count in _summed(counts, lambda name: self._jobs(job_label(name))).items():
                self._tell.total(f"kd_ray_{field}", count, job=job)

    def _by_teacher(self, status: HostStatus, names: Mapping[int, str]) -> None:
        busy = {names.get(index, str(index)): s for index, s in status.busy_s.items()}
        for teacher, seconds in _summed(busy, self._teachers).items():
            self._tell.total("kd_ray_teacher_seconds", seconds, teacher=teacher)
        for index in status.quarantined:
            teacher = self._teachers(names.get(index, str(index)))
            self._tell.gauge("kd_ray_quarantined", 1, teacher=teacher)

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

    def _observe(self, name: str, counts: list[int], values: Iterable[float]) -> None:
        """What a histogram of our own has grown by; one value stands for each of its bins."""
        before = self._seen.get(name, [])
        before = before + [0] * (len(counts) - len(before))
        self._seen[name] = list(counts)
        for value, count, known in zip(values, counts, before, strict=False):
            # Jobs that were forgotten take their counts with them.
            self._tell.observe(name, value, max(0, count - known))


def _summed(counts: Mapping[str, float], label: Callable[[str], str]) -> dict[str, float]:
    """Counts by label; several names may have the same."""
    total: Counter[str] = Counter()
    for name, count in counts.items():
        total[label(name)] += count  # type: ignore[assignment]
    return dict(total)
