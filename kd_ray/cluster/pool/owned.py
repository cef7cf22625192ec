"""A pool that belongs to one job, and ends with it."""

import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from kd_ray.cluster.pool.address import HostHandle, Loader, PoolAddress, hosts_prefix
from kd_ray.cluster.pool.hosts import HostStarter, kill_hosts
from kd_ray.cluster.pool.keeper import PoolKeeper
from kd_ray.cluster.pool.plan import first_plan, weight_bytes
from kd_ray.cluster.pool.starting import await_arrivals
from kd_ray.config.sources import PoolSource as PoolSettings
from kd_ray.core.closing import Closing
from kd_ray.teachers.answers import OnEvent
from kd_ray.teachers.policies.health import HealthLimits
from kd_ray.teachers.transcriber import TranscriberSpec


class TeacherPool(Closing):
    """Owns the host actors of a job: `start` makes them, `close` ends them.

    They are not detached: they end with the job that started them, however it ends.
    """

    def __init__(
        self, address: PoolAddress, handles: Sequence[HostHandle], keeper: PoolKeeper | None
    ) -> None:
        self.address = address
        self._handles = list(handles)
        self._keeper = keeper

    @classmethod
    def start(
        cls,
        folders: Sequence[Path],
        settings: PoolSettings,
        *,
        load: Loader | None = None,
        recognizer: TranscriberSpec | None = None,
        on_event: OnEvent | None = None,
    ) -> Self:
        """Start the hosts, deal the teachers to them, and wait until every teacher is loaded.

        Args:
            folders: checkpoint folders of the teachers, in the order of the list.
            settings: section `teachers.source` of the configuration.
            load: makes teachers of folders, in the host's process; None: they are checkpoints,
                of which no more are loaded than fit into `settings.memory_mib`.
            recognizer: transcribes for text teachers; every host loads it.
            on_event: where deaths of hosts and their return are written down.

        Raises:
            PoolStartError: naming the host, its teachers and the reason; nothing stays behind.
        """
        starter = HostStarter(settings, load, recognizer)
        prefix = hosts_prefix(uuid.uuid4().hex[:8])
        plan = first_plan(prefix, folders, settings, list(map(weight_bytes, folders)))
        starter.warn_if_too_large(plan)
        handles: dict[str, HostHandle] = {}

        def on_dead(host: str, reason: str) -> None:
            if on_event is not None:
                on_event("host_died", host=host, reason=reason)

        try:
            for name in plan.hosts:
                handles[name] = starter.start_host(plan, name)
            arrivals = await_arrivals(starter, plan, handles, on_dead)
        except BaseException:
            kill_hosts(list(handles.values()))
            raise
        keeper = None
        if settings.max_deaths:
            limits = HealthLimits(
                hung_after_s=settings.hung_after_s, max_deaths=settings.max_deaths + 1
            )
            keeper = PoolKeeper(starter, plan, handles, arrivals, limits, on_event)
        return cls(starter.address(plan, arrivals, settings), list(handles.values()), keeper)

    def close(self) -> None:
        """End the hosts; a second call does nothing."""
        if self._keeper is not None:
            self._keeper.close()
            self._handles, self._keeper = self._keeper.handles, None
        kill_hosts(self._handles)
        self._handles.clear()
