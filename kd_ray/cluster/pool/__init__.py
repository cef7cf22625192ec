"""The teacher pool: hosts as Ray actors, the client that students ask, and who looks after both.

`TeacherPool` starts and owns the hosts of one job; a named pool (`service`) runs by itself, and
any number of jobs `attach`. The address of either is plain data, from which any process makes a
`PoolSource`.

    address.py   where hosts are            hosts.py    the actor around a host; starting several
    client.py    what students ask          keeper.py   looks after hosts, starts them again
    exchange.py  one request's way          owned.py    a pool of one job
    roster.py    hosts as a client sees     manager.py  the actor of a named pool
                 them                       jobs.py     who is attached to it
    views.py     a pool as a job sees it    service.py  named pools from outside
    plan.py      who lives where            update.py   what two files differ in
    changes.py   from one plan to the next  scaler.py   how large a pool should be
"""

from kd_ray.cluster.pool.address import HostAddress, PoolAddress
from kd_ray.cluster.pool.client import PoolPending, PoolSource
from kd_ray.cluster.pool.hosts import PoolStartError
from kd_ray.cluster.pool.owned import TeacherPool
from kd_ray.cluster.pool.service import Attachment, attach, join_cluster
from kd_ray.cluster.pool.views import PoolError

__all__ = [
    "Attachment",
    "HostAddress",
    "PoolAddress",
    "PoolError",
    "PoolPending",
    "PoolSource",
    "PoolStartError",
    "TeacherPool",
    "attach",
    "join_cluster",
]
