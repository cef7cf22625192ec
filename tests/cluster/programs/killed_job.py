"""A job that will be killed: hosts of its own, and a named pool, are under load.

Arguments: the address of the cluster (`local`: a private one); the name of the pool, if any.
"""

import json
import os
import sys
import time

import ray
from doubles import load_fake_teachers, request
from pool_help import FOUR, SETTINGS

from kd_ray.bench.load import Load, ask_locally
from kd_ray.cluster.pool import PoolSource, TeacherPool, attach
from kd_ray.config.sources import PoolSource as PoolSection

address, *names = sys.argv[1:]
ray.init(
    address=address,
    num_cpus=2 if address == "local" else None,
    include_dashboard=False if address == "local" else None,
    log_to_driver=False,
    runtime_env={"env_vars": {"PYTHONPATH": os.environ["PYTHONPATH"], "OMP_NUM_THREADS": "1"}},
)
questions = ask_locally([request(seed) for seed in range(4)], load_fake_teachers(FOUR, "cpu"))
pool = TeacherPool.start(
    FOUR, SETTINGS.model_copy(update={"hosts": 2, "max_deaths": 4}), load=load_fake_teachers
)
sources = [PoolSource(pool.address)]
for name in names:
    attachment = attach(PoolSection(name=name), job="killed")
    sources.append(PoolSource(attachment.address, job="killed"))
for source in sources:
    Load(source, questions, per_s=20).start()
sys.stdout.write(json.dumps([host.pid for host in pool.address.hosts]) + "\n")
sys.stdout.flush()
time.sleep(600)
