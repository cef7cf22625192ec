"""One private Ray for all cluster tests of a run."""

import os
from pathlib import Path

import pytest
import ray

TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def local_ray(tmp_path_factory):
    """Four logical CPUs; workers can import `kd_ray` and the tests' doubles."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    paths = [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=256 << 20,
        log_to_driver=False,
        runtime_env={
            "env_vars": {
                "PYTHONPATH": os.pathsep.join(path for path in paths if path),
                "OMP_NUM_THREADS": "1",
                # Files at addresses: workers are on another node than the driver.
                "KD_RAY_CACHE": str(tmp_path_factory.mktemp("cache-of-workers")),
            }
        },
    )
    yield
    ray.shutdown()
