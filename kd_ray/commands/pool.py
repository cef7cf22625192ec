"""`kd-ray pool up | update | status | report | drain | down CONFIG`: a pool that runs by itself."""

import json
import logging
import sys
import time
from pathlib import Path
from typing import Literal

from kd_ray.cluster.pool import service
from kd_ray.cluster.pool.plan import PoolSpec
from kd_ray.cluster.pool.status import PoolStatus
from kd_ray.commands.pool_report import pool_report
from kd_ray.commands.pool_status import as_plain, show
from kd_ray.config.pool import PoolConfig
from kd_ray.evaluation.system import read_teacher_list
from kd_ray.teachers.cache import open_levels
from kd_ray.teachers.cards import Blueprints, card_of
from kd_ray.teachers.transcriber import TranscriberSpec

logger = logging.getLogger(__name__)

Action = Literal["up", "update", "status", "report", "drain", "down"]


def pool(
    config: PoolConfig,
    root: Path,
    action: Action,
    *,
    force: bool = False,
    replace: bool = False,
    as_json: bool = False,
    watch: float | None = None,
) -> PoolStatus | None:
    """Start, look at, drain or end a named pool, or report who is trusted where in it.

    Args:
        config: of the pool.
        root: where relative paths begin.
        action: what is done.
        force: `down` also while jobs are attached.
        replace: `up` of a pool that runs starts new hosts beside the old, which then leave.
        as_json: the status as one line of JSON.
        watch: look again every so many seconds, until interrupted.

    Raises:
        PoolError: there is no such pool, or another one of this name; jobs are attached.
        PoolStartError: a host could not be started.
        PoolChangeError: the running pool could not be changed, and was not.
    """
    if action == "report":
        pool_report(config, root)
        return None
    with service.join_cluster():
        match action:
            case "up":
                return _up(config, root, replace=replace, as_json=as_json)
            case "update":
                return _update(config, root, as_json=as_json)
            case "status":
                return _show(config.name, as_json=as_json, watch=watch)
            case "drain":
                attached = service.drain(config.name)
                logger.info("pool %s: takes no further jobs; %d attached", config.name, attached)
            case "down":
                service.down(config.name, force=force)
                logger.info("pool %s: down", config.name)
    return None


def _up(config: PoolConfig, root: Path, *, replace: bool, as_json: bool) -> PoolStatus:
    started = time.monotonic()
    address = service.up(spec_of(config, root), replace=replace)
    logger.info(
        "pool %s: %d teachers on %d hosts, up after %.0f s",
        config.name,
        len(address.info.teachers),
        len(address.hosts),
        time.monotonic() - started,
    )
    return _show(config.name, as_json=as_json, watch=None)


def _update(config: PoolConfig, root: Path, *, as_json: bool) -> PoolStatus:
    changed = service.update(spec_of(config, root))
    logger.info(
        "pool %s: %d teachers added, %d removed, %d replaced, %d stay",
        config.name,
        len(changed.added),
        len(changed.removed),
        len(changed.replaced),
        changed.kept,
    )
    return _show(config.name, as_json=as_json, watch=None)


def spec_of(config: PoolConfig, root: Path) -> PoolSpec:
    """What a file says a pool shall be.

    Raises:
        CheckpointError, UnusableSystem: a teacher's folder is broken.
        StoreError, ValueError: so is `hosts.cache_store`, or it keeps the top k only.
    """
    hosts = config.hosts.at(root)
    if hosts.cache_store is not None:
        open_levels(Path(hosts.cache_store))
    folders = read_teacher_list(config.teachers.list, root)
    blueprints = Blueprints()
    cards = [card_of(folder, index, blueprints) for index, folder in enumerate(folders)]
    section = config.teachers.recognizer
    recognizer = None if section is None else TranscriberSpec(root / section.system, section)
    return PoolSpec(
        # What is reported is no part of what runs.
        config.model_copy(update={"hosts": hosts, "report": None}),
        tuple(map(str, folders)),
        recognizer,
        digests=tuple(card.info.digest for card in cards),
    )


def _show(name: str, *, as_json: bool, watch: float | None) -> PoolStatus:
    while True:
        status = service.status(name)
        if as_json:
            sys.stdout.write(json.dumps(as_plain(status)) + "\n")
            sys.stdout.flush()
        else:
            show(status)
        if watch is None:
            return status
        time.sleep(watch)
