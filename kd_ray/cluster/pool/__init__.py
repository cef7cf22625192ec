"""The teacher pool: hosts as Ray actors, the client that students ask, and who looks after both.

`TeacherPool` starts and owns the hosts of one job; its address is plain data, from which any
process of the job makes a `PoolSource`.
"""

from kd_ray.cluster.pool.address import HostAddress, PoolAddress
from kd_ray.cluster.pool.client import PoolPending, PoolSource
from kd_ray.cluster.pool.hosts import PoolStartError
from kd_ray.cluster.pool.owned import TeacherPool

__all__ = [
    "HostAddress",
    "PoolAddress",
    "PoolPending",
    "PoolSource",
    "PoolStartError",
    "TeacherPool",
]
