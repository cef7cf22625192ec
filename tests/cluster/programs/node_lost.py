"""A cluster of three nodes, one of which is lost and replaced while two pools are under load.

Writes what happened as one line of JSON.
"""

import json
import sys
import time

import ray
from doubles import load_fake_teachers, request
from pool_help import FOUR, SETTINGS, Events, until
from ray.cluster_utils import Cluster

from kd_ray.bench.load import Load, ask_locally
from kd_ray.cluster.pool import PoolSource, TeacherPool
from kd_ray.config.strategies import Average, Best, TopM, Weighted

NODE = {"num_cpus": 1, "object_store_memory": 100 << 20}
STRATEGIES = (Weighted(), Best(), Average(), TopM(m=2, scale=0.1))


class Loaded:
    """A pool under load, with one host on each node."""

    def __init__(self, replicas, questions):
        settings = {"hosts": 2, "cpus_per_host": 0.5, "recover_s": 60, "max_deaths": 10}
        self.events, self.told = Events(), Events()
        self.pool = TeacherPool.start(
            FOUR,
            SETTINGS.model_copy(update={**settings, "replicas": replicas}),
            load=load_fake_teachers,
            on_event=self.events,
        )
        self.source = PoolSource(self.pool.address, on_event=self.told)
        self.load = Load(self.source, questions, per_s=20)
        self.load.start()

    def answers(self, count):
        before = self.load.tally.right
        until(lambda: self.load.tally.right >= before + count)

    def end(self):
        self.load.stop()
        self.source.close()
        arrivals = self.pool._keeper.arrivals.values()
        self.pool.close()
        return {
            "tally": dict(self.load.tally.plain()),
            "sound": self.load.tally.sound,
            "pool": self.events.kinds,
            "client": self.told.kinds,
            "counts": self.source.counts,
            "nodes": [arrival.node for arrival in arrivals if arrival is not None],
        }


def main():
    requests = [request(seed, strategy=STRATEGIES[seed % 4]) for seed in range(8)]
    questions = ask_locally(requests, load_fake_teachers(FOUR, "cpu"))
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 0})
    ray.init(address=cluster.address, log_to_driver=False)
    nodes = [cluster.add_node(**NODE) for _ in range(2)]
    cluster.wait_for_nodes()
    pools = {"copies": Loaded(2, questions), "no_copies": Loaded(1, questions)}
    for each in pools.values():
        each.answers(10)
    before_s = time.monotonic()
    cluster.remove_node(nodes[1], allow_graceful=False)
    for each in pools.values():
        until(lambda each=each: "host_died" in each.events.kinds)
        each.answers(10)
    without_s = time.monotonic() - before_s
    new = cluster.add_node(**NODE)
    for each in pools.values():
        until(lambda each=each: "host_started_again" in each.events.kinds, within_s=240)
        until(lambda each=each: each.source.counts.get("hosts_back", 0) >= 1)
        each.answers(20)
    found = {kind: each.end() for kind, each in pools.items()}
    ray.shutdown()
    cluster.shutdown()
    return {**found, "without_s": without_s, "new_node": new.node_id}


if __name__ == "__main__":
    # Ray writes to the standard output when it starts.
    answer, sys.stdout = sys.stdout, sys.stderr
    answer.write(json.dumps(main()) + "\n")
