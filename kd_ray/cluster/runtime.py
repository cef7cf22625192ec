"""Joining Ray, or starting a private one: the single place where `ray.init` is called."""

import logging
import os
import shutil
import site
from pathlib import Path
from typing import Any

import ray

import kd_ray
from kd_ray.core.closing import Closing

logger = logging.getLogger(__name__)

_MIB = 1 << 20
_MIN_OBJECT_STORE_MIB = 80  # Ray refuses less than 75 MiB.


class RayHandle(Closing):
    """This process's connection to Ray; `close` shuts down only what `ensure_ray` started."""

    def __init__(self, *, connected_here: bool, private: bool) -> None:
        self.connected_here = connected_here
        """False where Ray was initialised before."""
        self.private = private
        """True where the cluster was started for this process and ends with it."""

    @property
    def address(self) -> str:
        """Of the cluster's control store, host:port."""
        return str(ray.get_runtime_context().gcs_address)

    @property
    def namespace(self) -> str:
        """Where this job's named actors live."""
        return str(ray.get_runtime_context().namespace)

    def close(self) -> None:
        """Disconnect (and end the private cluster); a second call does nothing."""
        if self.connected_here:
            self.connected_here = False
            ray.shutdown()


def ensure_ray(
    cpus: int | None = None,
    *,
    object_store_mib: int = 1024,
    dashboard: bool = False,
    log_to_driver: bool = False,
    private: bool = False,
) -> RayHandle:
    """Be connected to Ray, with kd_ray importable in its workers and one thread each.

    An initialised Ray is used as it is. Otherwise the cluster named by `RAY_ADDRESS` is joined
    (`ray job submit` sets it), and without that a private one is started, which never touches
    other clusters on the machine.

    Args:
        cpus: logical CPUs of a private cluster; default: those of the machine.
        object_store_mib: shared memory of a private cluster, at most half of what is free there.
        dashboard: of a private cluster; costs seconds and memory. Needed by Ray Train's clean-up
            of worker groups (it asks the state API) and by `ray job submit`.
        log_to_driver: show workers' output; otherwise it is in Ray's log files only.
        private: start a private cluster whatever `RAY_ADDRESS` says.

    Raises:
        RuntimeError: it must be private, and Ray is initialised already.
    """
    if private and ray.is_initialized():
        raise RuntimeError("this needs a private Ray, and the process is connected to one already")
    if ray.is_initialized():
        return RayHandle(connected_here=False, private=False)
    # Read when Ray's processes start; a user's own choice stays.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    common: dict[str, Any] = {
        "configure_logging": True,
        "logging_level": logging.WARNING,
        "log_to_driver": log_to_driver,
    }
    address = os.environ.get("RAY_ADDRESS", "").strip()
    if address and address != "local" and not private:
        ray.init(address=address, runtime_env=_joined_environment(), **common)
        return RayHandle(connected_here=True, private=False)
    # A private cluster listens on this machine only; that its tokens are on is not news.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    ray.init(
        address="local",
        num_cpus=cpus,
        object_store_memory=_object_store_bytes(object_store_mib),
        include_dashboard=dashboard,
        runtime_env=_private_environment(),
        **common,
    )
    return RayHandle(connected_here=True, private=True)


def require_cluster(wish: str) -> None:
    """Refuse what a private Ray cannot have: custom resources, and nodes with labels.

    Args:
        wish: the keys that ask for them.

    Raises:
        ValueError: no running cluster is joined or named by `RAY_ADDRESS`.
    """
    if not ray.is_initialized() and os.environ.get("RAY_ADDRESS", "local").strip() in ("", "local"):
        raise ValueError(
            f"{wish}: custom resources and labels are those of a running cluster's nodes, and none "
            "is named; submit this as a job, set RAY_ADDRESS, or leave the keys out"
        )


def join_as_it_is(address: str) -> RayHandle:
    """Connect to a running cluster, and send nothing to it.

    Args:
        address: `auto`, host:port, or ray://host:port.

    Raises:
        ValueError: it cannot be reached, or has another version of Ray or Python.
    """
    if address.startswith(("http://", "https://")):
        raise ValueError(
            f"{address} is a dashboard, to which jobs are submitted; the cluster itself answers "
            "at auto (on one of its machines), HOST:6379 or ray://HOST:10001. From elsewhere, "
            "submit the check: ray job submit ... -- python jobs/check.py CONFIG"
        )
    if ray.is_initialized():
        return RayHandle(connected_here=False, private=False)
    try:
        ray.init(
            address=address, configure_logging=True, logging_level=logging.ERROR,
            log_to_driver=False,
        )  # fmt: skip
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ValueError(f"the cluster at {address} cannot be joined: {error}") from error
    return RayHandle(connected_here=True, private=False)


def _checkout() -> Path | None:
    """The folder that kd_ray is imported from, unless it is installed in site-packages."""
    folder = Path(kd_ray.__file__).resolve().parents[1]
    installed = {Path(path).resolve() for path in [*site.getsitepackages(), site.USER_SITE or ""]}
    return None if folder in installed else folder


def _private_environment() -> dict[str, Any]:
    """Workers on this machine: same checkout, one thread until somebody sets more."""
    variables = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    checkout = _checkout()
    if checkout is not None:
        paths = [str(checkout), os.environ.get("PYTHONPATH", "")]
        variables["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    return {"env_vars": variables}


def _joined_environment() -> dict[str, Any]:
    """Workers of a running cluster: a job brings its own code, another driver sends the package."""
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        return {}
    environment: dict[str, Any] = {"env_vars": {"OMP_NUM_THREADS": "1"}}
    if _checkout() is not None:
        environment["py_modules"] = [str(Path(kd_ray.__file__).resolve().parent)]
    return environment


def _object_store_bytes(wanted_mib: int) -> int:
    """`wanted_mib`, but no more than half of the free shared memory."""
    shared = Path("/dev/shm")
    free_mib = shutil.disk_usage(shared).free // _MIB if shared.is_dir() else wanted_mib * 2
    mib = max(_MIN_OBJECT_STORE_MIB, min(wanted_mib, free_mib // 2))
    if mib < wanted_mib:
        logger.warning(
            "object store: %d MiB instead of %d (free shared memory: %d MiB)",
            mib,
            wanted_mib,
            free_mib,
        )
    return mib * _MIB


def named_actors(namespace: str) -> list[str]:
    """Names of the actors of a namespace that are there."""
    actors = ray.util.list_named_actors(all_namespaces=True)
    return [actor["name"] for actor in actors if actor["namespace"] == namespace]


def placement_groups() -> list[str]:
    """Placement groups of the cluster that were not removed, by id."""
    table = ray.util.placement_group_table()
    return [name for name, group in table.items() if group["state"] != "REMOVED"]


def object_store_used() -> int:
    """Bytes in use in the object stores of the cluster."""
    total = dict(ray.cluster_resources()).get("object_store_memory", 0.0)  # type: ignore[no-untyped-call]
    free = dict(ray.available_resources()).get("object_store_memory", 0.0)  # type: ignore[no-untyped-call]
    return int(total - free)
