"""A host that takes all the memory there is, so that Ray ends it, while its pool is under load.

Argument: a folder for switches. Writes what happened as one line of JSON.
"""

import functools
import json
import sys
from pathlib import Path

import ray
from doubles import load_fake_teachers, request
from fault_doubles import Switches, load_switched
from pool_help import FOUR, SETTINGS, Events, until

from kd_ray.bench.load import Load, ask_locally
from kd_ray.cluster.pool import PoolSource, TeacherPool

MIB = 1 << 20


def threshold():
    """Share of memory in use now, and some more."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total, free = (int(lines[name].split()[0]) << 10 for name in ("MemTotal", "MemAvailable"))
    return (total - free + 1200 * MIB) / total


def main(folder):
    switches = Switches(Path(folder))
    questions = ask_locally([request(seed) for seed in range(8)], load_fake_teachers(FOUR, "cpu"))
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=100 * MIB,
        log_to_driver=False,
        _system_config={
            "memory_usage_threshold": threshold(),
            "memory_monitor_refresh_ms": 100,
        },
    )
    events, told = Events(), Events()
    settings = {"hosts": 2, "replicas": 2, "recover_s": 150, "max_deaths": 10, "quorum": 1.0}
    pool = TeacherPool.start(
        FOUR,
        SETTINGS.model_copy(update=settings),
        load=functools.partial(load_switched, switches=str(switches.folder)),
        on_event=events,
    )
    source = PoolSource(pool.address, on_event=told)
    with Load(source, questions, per_s=20) as load:
        until(lambda: load.tally.right >= 10)
        switches.set("host-0", 2, "hoard 2500")
        until(lambda: "host_died" in events.kinds)
        switches.clear()
        until(lambda: "host_started_again" in events.kinds)
        until(lambda: source.counts.get("hosts_back", 0) >= 1)
    source.close()
    pool.close()
    ray.shutdown()
    return {
        "tally": dict(load.tally.plain()),
        "sound": load.tally.sound,
        "pool": events.kinds,
        "reasons": [details["reason"] for kind, details in events if kind == "host_died"],
        "client": told.kinds,
    }


if __name__ == "__main__":
    answer, sys.stdout = sys.stdout, sys.stderr
    answer.write(json.dumps(main(sys.argv[1])) + "\n")
