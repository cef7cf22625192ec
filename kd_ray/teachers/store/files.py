"""Files that appear whole or not at all, and the lock of the one process that plans writes.

A file is written under a temporary name in its own folder, flushed to the disk, and renamed. What
a killed run leaves behind is therefore always a temporary name, which `remove_leftovers` knows.
"""

import logging
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kd_ray.config.places import local_path
from kd_ray.storage import hold, publish, release
from kd_ray.storage.lock import Locked, lock_file

logger = logging.getLogger(__name__)

TEMPORARY_SUFFIX = ".kd-ray-tmp"
LOCK_NAME = ".writing"


class StoreError(ValueError):
    """A target store cannot be read or written as asked; the message says the way out."""


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it to `path`.

    Args:
        path: the final name; its folder is made if need be.
        write: gets the temporary path and leaves a complete file there.

    Raises:
        StoreError: the disk refused (full, read-only, no permission); names `path`.
        StorageError: the address at which `path` is refused.
    """
    path = local_path(path)
    temporary = path.parent / f".{path.name}.{secrets.token_hex(6)}{TEMPORARY_SUFFIX}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(temporary)
            _sync(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync(path.parent)
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error}. Nothing half-written is left; make room or choose "
            "another folder, then run the same command again: finished shards are kept."
        ) from error
    publish(path)


def remove_leftovers(folder: Path) -> list[Path]:
    """Delete temporary files of killed runs below `folder`; returns what was deleted.

    Call it only while holding `writer_lock`: another writer's files in progress look the same.
    """
    leftovers = sorted(folder.rglob(f".*{TEMPORARY_SUFFIX}"))
    for path in leftovers:
        path.unlink(missing_ok=True)
        logger.warning("removed %s, left behind by a run that was killed", path)
    return leftovers


@contextmanager
def writer_lock(folder: Path) -> Iterator[None]:
    """Hold the store for writing; the system releases the lock even when the process is killed.

    Raises:
        StoreError: another process holds it; names host and process.
        StorageError: likewise, of a store at an address.
    """
    path = local_path(folder) / LOCK_NAME
    try:
        locked = lock_file(path)
    except Locked as other:
        raise StoreError(
            f"{folder} is being written by {other}; wait for it or stop it, then run the same "
            "command again."
        ) from other
    with locked:
        hold(path.parent)
        try:
            yield
        finally:
            release(path.parent)


def _sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
