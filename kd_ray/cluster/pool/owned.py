"""A pool that belongs to one job, and ends with it."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from kd_ray.cluster.pool.address import HostHandle, PoolAddress
from kd_ray.cluster.pool.hosts import HostStarter, Loader, kill_hosts
from kd_ray.cluster.pool.keeper import PoolKeeper
from kd_ray.config.sources import PoolSource as PoolSettings
from kd_ray.teachers.answers import OnEvent
from kd_ray.teachers.policies.health import HealthLimits
from kd_ray.teachers.transcriber import TranscriberSpec


class TeacherPool:
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
        starter = HostStarter(folders, settings, load, recognizer)
        handles: list[HostHandle] = []
        try:
            for name, indices in starter.placement.items():
                handles.append(starter.start_host(name, indices))
            arrivals = starter.await_arrivals(handles)
        except BaseException:
            kill_hosts(handles)
            raise
        keeper = None
        if settings.max_deaths:
            names = dict(zip(starter.placement, handles, strict=True))
            limits = HealthLimits(
                hung_after_s=settings.hung_after_s, max_deaths=settings.max_deaths + 1
            )
            keeper = PoolKeeper(starter, names, arrivals, limits, on_event)
        return cls(starter.address(arrivals, settings), handles, keeper)

    def close(self) -> None:
        """End the hosts; a second call does nothing."""
        if self._keeper is not None:
            self._keeper.close()
            self._handles, self._keeper = self._keeper.handles, None
        kill_hosts(self._handles)
        self._handles.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
