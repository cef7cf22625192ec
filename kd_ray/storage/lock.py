"""Who writes a folder that is at no address: a lock that the system lets go of with the process.

A killed process leaves the file behind and no lock. Folders at addresses have leases (`lease.py`).
"""

import fcntl
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from kd_ray.config.places import address_of
from kd_ray.storage.lease import EXPIRE_S, RENEW_S, hold, is_waiting, release, release_if_possible
from kd_ray.storage.remote import StorageError

logger = logging.getLogger(__name__)

NAME = ".kd_ray-lock"
PATIENCE_S = 2.0
"""Whoever finds a run finished lets go of it within a moment."""
LEFT_BEHIND_S = EXPIRE_S + RENEW_S
"""Processes of a cluster live on for a moment after whoever started them was killed, and a server
of network disks (NFS 4) keeps the locks of a machine that died for about 90 s."""
_LOOK_S = 0.1


class Locked(StorageError):
    """Another process has a lock; the text names it."""


@dataclass
class _Held:
    file: TextIO | None
    """None where the disk knows no locks."""
    users: int = 1


_held: dict[tuple[int, Path], _Held] = {}
"""Process and folder: what it may write."""
_lock = threading.RLock()


def lock_file(path: Path, wait_s: float = 0.0) -> TextIO:
    """A file that nobody else can lock until it is closed; its folder is made if need be.

    Raises:
        Locked: another process has it, and still has it after `wait_s` seconds.
        OSError: the file cannot be written, or the disk knows no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + wait_s
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            while not _taken(file):
                if time.monotonic() >= end:
                    file.seek(0)
                    raise Locked(file.read().strip() or "another process")
                time.sleep(_LOOK_S)
            if _is_there(file, path):
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
                file.flush()
                return file
        except BaseException:
            file.close()
            raise
        # Somebody removed it meanwhile: the one that is there now can be locked by another.
        file.close()


def _taken(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_there(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def hold_here(folder: Path) -> None:
    """Take the right to write a folder until `release_here`; nothing for a folder at an address.

    A process may take it several times. In a block of `waiting_to_hold` it is more patient.

    Raises:
        StorageError: another process has it, and still has it after a while; names it.
    """
    if address_of(folder) is not None:
        return
    key = (os.getpid(), folder.absolute())
    with _lock:
        if key in _held:
            _held[key].users += 1
            return
        try:
            wait_s = LEFT_BEHIND_S if is_waiting() else PATIENCE_S
            _held[key] = _Held(lock_file(folder / NAME, wait_s))
        except Locked as other:
            raise StorageError(
                f"{folder} is being written by {other}; wait for it or stop it, or give this run "
                f"another name. If that machine is gone, remove {folder / NAME}"
            ) from None
        except OSError as error:
            # Whoever writes where nothing can be written says that better.
            logger.debug("%s is not locked: %s", folder, error)
            _held[key] = _Held(None)


def release_here(folder: Path) -> None:
    """Give back what `hold_here` took."""
    key = (os.getpid(), folder.absolute())
    with _lock:
        held = _held.get(key)
        if held is None:
            return
        held.users -= 1
        if held.users == 0:
            del _held[key]
            if held.file is not None:
                held.file.close()


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Be the one process that writes a folder, wherever it is.

    Raises:
        StorageError: another process is; names it and the way out.
    """
    hold_here(folder)
    try:
        hold(folder)
        try:
            yield
        except BaseException:
            release_if_possible(folder)
            raise
        release(folder)
    finally:
        release_here(folder)
