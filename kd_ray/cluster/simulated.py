"""A private Ray of several nodes that are all on this machine, for measurements and trials."""

import logging
import math
from typing import Any

import ray
from ray.cluster_utils import Cluster

from kd_ray.cluster.runtime import ensure_ray
from kd_ray.core.closing import Closing

logger = logging.getLogger(__name__)

_MIB = 1 << 20


class SimulatedCluster(Closing):
    """Begins as the private Ray of `ensure_ray`; `grow` adds nodes, `close` ends it all.

    A Ray that is running already is used as it is, and gets no nodes.

    Args:
        cpus_per_node: logical ones; rounded up.
        object_store_mib: of each node.
    """

    def __init__(self, *, cpus_per_node: float = 1, object_store_mib: int = 256) -> None:
        self._resources: dict[str, Any] = {
            "num_cpus": math.ceil(cpus_per_node),
            "object_store_memory": object_store_mib * _MIB,
        }
        self._handle = ensure_ray(self._resources["num_cpus"], object_store_mib=object_store_mib)
        self._cluster: Cluster | None = None

    @property
    def nodes(self) -> int:
        """How many there are."""
        nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        return sum(node["Alive"] for node in nodes)

    def grow(self, nodes: int) -> int:
        """Add nodes until there are so many, and wait for them; how many there are then."""
        if not self._handle.private:
            logger.info("this Ray was running before, and gets no nodes: %d", self.nodes)
            return self.nodes
        if self._cluster is None:
            # Ray's own class would start a cluster without tokens, open to the network.
            head: Any = ray._private.worker._global_node
            self._cluster = Cluster()
            self._cluster.head_node = head
            self._resources["node_ip_address"] = head.node_ip_address
        while self.nodes < nodes:
            self._cluster.add_node(**self._resources)
        return self.nodes

    def close(self) -> None:
        """End the nodes that were added, and the private Ray; a second call does nothing."""
        if self._cluster is not None:
            for node in list(self._cluster.worker_nodes):
                self._cluster.remove_node(node)
            self._cluster = None
        self._handle.close()
