import os
import subprocess
import sys

import pytest
import ray

from kd_ray.cluster.runtime import ensure_ray

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]

SCRIPT = """
import ray
from kd_ray.cluster.runtime import ensure_ray

@ray.remote(num_cpus=0)
def look():
    import os
    import kd_ray
    return kd_ray.__file__, os.environ["OMP_NUM_THREADS"]

with ensure_ray(3) as first:
    with ensure_ray() as second:
        assert not second.connected_here
    assert ray.is_initialized()
    import kd_ray
    file, threads = ray.get(look.remote())
    cpus = int(ray.cluster_resources()["CPU"])
    print(first.private, cpus, threads, file.endswith("kd_ray/__init__.py"), first.address)
assert not ray.is_initialized()
"""


def run(folder, **variables):
    """The script's line, run from another folder than the checkout."""
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=folder,
        env={**environment, "PYTHONPATH": os.getcwd(), **variables},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()


def test_an_initialised_ray_is_used_and_left_running():
    with ensure_ray(1) as handle:
        assert not handle.connected_here
        assert handle.namespace == ray.get_runtime_context().namespace
    assert ray.is_initialized()


@pytest.mark.slow
def test_without_a_cluster_a_private_one_is_started_and_ended(tmp_path):
    mine = ray.get_runtime_context().gcs_address
    private, cpus, threads, imported, address = run(tmp_path, OMP_NUM_THREADS="1")
    assert (private, cpus, threads, imported) == ("True", "3", "1", "True")
    assert address != mine
    assert ray.cluster_resources()["CPU"] == 4


def test_a_running_cluster_is_joined_and_left_running(tmp_path):
    mine = ray.get_runtime_context().gcs_address
    private, cpus, threads, imported, address = run(tmp_path, RAY_ADDRESS=mine)
    assert (private, cpus, threads, imported) == ("False", "4", "1", "True")
    assert address == mine
    assert ray.cluster_resources()["CPU"] == 4
