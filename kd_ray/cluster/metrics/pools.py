"""What the manager of a named pool says of it."""

import logging

from kd_ray.cluster.metrics.series import Instruments

logger = logging.getLogger(__name__)


class PoolFigures:
    """Tells Ray how many hosts, teachers and jobs a pool has.

    Args:
        pool: its name.
        instruments: to tell it to.
    """

    def __init__(self, pool: str, instruments: Instruments | None = None) -> None:
        self._tell = instruments or Instruments(pool=pool)
        self._warned = False

    def tell(
        self, *, up: int, down: int, teachers: int, jobs: int, deaths: int, respawns: int
    ) -> None:
        """As of now; `deaths` and `respawns` since the pool has its hosts."""
        try:
            self._tell.gauge("kd_ray_pool_hosts", up, state="up")
            self._tell.gauge("kd_ray_pool_hosts", down, state="down")
            self._tell.gauge("kd_ray_pool_teachers", teachers)
            self._tell.gauge("kd_ray_pool_jobs", jobs)
            self._tell.total("kd_ray_pool_deaths", deaths)
            self._tell.total("kd_ray_pool_respawns", respawns)
        except Exception:
            # A pool without figures is looked after all the same.
            if not self._warned:
                logger.exception("figures could not be told to Ray; trying again and again")
            self._warned = True
