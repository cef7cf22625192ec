"""Who writes a folder at an address: a small file there says so, and is renewed while they live.

An object store has no locks, and `pyarrow.fs` no "write unless it exists". A lease therefore keeps
out a second writer that comes later than a second after the first; two that begin within the same
second are told apart by reading the lease back, which is likely and not certain to find them.
"""

import atexit
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kd_ray.config.places import Address, address_of, is_in
from kd_ray.storage import remote
from kd_ray.storage.processes import place_of_processes, started
from kd_ray.storage.remote import StorageError

logger = logging.getLogger(__name__)

NAME = ".kd_ray-lease.json"
RENEW_S = 20.0
EXPIRE_S = 90.0
"""Without a renewal for so long, the writer counts as dead (one on this node: as soon as it is)."""
_SILENT_S = EXPIRE_S - RENEW_S
"""After so long a silence of its own, a process looks whether it was replaced before it goes on."""
_POLL_S = 2.0
_waits: ContextVar[bool] = ContextVar("_waits", default=False)


class LeaseHeld(StorageError):
    """Another process is writing the folder, or was until a moment ago."""

    sign: tuple[str, float] = ("", 0.0)
    """Token and time of the other one's last sign of life."""


@contextmanager
def waiting_to_hold() -> Iterator[None]:
    """Let `hold` wait where the folder's last writer may be dead.

    For work that is started again when its process died: seconds later and on another node, where
    its own old lease still looks alive. A writer that renews its lease lives, and ends the waiting.
    """
    before = _waits.set(True)
    try:
        yield
    finally:
        _waits.reset(before)


def is_waiting() -> bool:
    """Whether this runs in a block of `waiting_to_hold`."""
    return _waits.get()


@dataclass
class Lease:
    """The right to write a folder at an address."""

    address: Address
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    users: int = 1
    lost_to: str | None = None
    """Who took it over, where somebody did (this process was believed dead)."""
    written: float = 0.0
    """Unix time of the last sign of life that reached the address."""

    def require(self) -> None:
        """Raise `StorageError` where another process took the folder over, or may have done so."""
        if self.lost_to is None and self.silent:
            _renew_once(self)
        if self.lost_to is not None:
            raise StorageError(
                f"{self.address} was taken over by {self.lost_to}, as this process had given no "
                "sign of life for too long; it stops here, the other one goes on"
            )

    @property
    def silent(self) -> bool:
        """Whether others may believe this process dead: it slept, or did not reach the address."""
        return time.time() - self.written > _SILENT_S

    def write(self) -> None:
        """Say that this process is alive."""
        now = time.time()
        content = {"token": self.token, "time": now, **_me()}
        remote.write_bytes(self.address / NAME, json.dumps(content).encode())
        self.written = now


_held: dict[tuple[int, Address], Lease] = {}
"""Process and folder: what it may write."""
_lock = threading.RLock()
_renewing: set[int] = set()


def hold(folder: Path) -> None:
    """Take the right to write a folder until `release`; nothing for a folder at no address.

    A process may take it several times.

    Raises:
        LeaseHeld: another process has it; names it and the way out.
        StorageError: the address cannot be read or written.
    """
    address = address_of(folder)
    if address is None:
        return
    end_s = time.monotonic() + (EXPIRE_S + RENEW_S if _waits.get() else 0.0)
    seen: tuple[str, float] | None = None
    while True:
        try:
            _take(address)
            return
        except LeaseHeld as error:
            renewed = seen is not None and seen[0] == error.sign[0] and seen[1] != error.sign[1]
            if time.monotonic() >= end_s or renewed:
                raise
            if seen is None:
                logger.info("waiting for a sign of life, or its end: %s", error)
            # A process may have let go and another one come: that one may be quick, too.
            seen = error.sign
        time.sleep(_POLL_S)


def _take(address: Address) -> None:
    with _lock:
        mine = _held.get((os.getpid(), address))
        if mine is not None:
            mine.require()
            mine.users += 1
            return
        other = _read(address)
        if other is not None and _alive(other):
            refusal = LeaseHeld(
                f"{address} is being written by {_who(other)}, whose last sign of life is "
                f"{max(0.0, time.time() - other['time']):.0f} s old; wait for it or stop it, or "
                f"give this run another name. After {EXPIRE_S:.0f} s of silence it counts as dead."
            )
            refusal.sign = other["token"], other["time"]
            raise refusal
        lease = Lease(address)
        lease.write()
        now = _read(address)
        if now is None or now["token"] != lease.token:
            raise StorageError(
                f"{address} was taken by {'nobody' if now is None else _who(now)} at the same "
                "moment; run the same command again, or give this run another name"
            )
        _held[os.getpid(), address] = lease
        _keep_renewing()


def require(path: Path) -> None:
    """Raise `StorageError` where another process took over what this one holds.

    Asked for a folder, or for anything below it.
    """
    address = address_of(path)
    if address is None:
        return
    for (pid, folder), lease in list(_held.items()):
        if pid == os.getpid() and is_in(address, folder):
            lease.require()


def release(folder: Path) -> None:
    """Give back what `hold` took; the last `release` removes the lease."""
    address = address_of(folder)
    if address is not None:
        _release(address)


def release_if_possible(folder: Path) -> None:
    """As `release`, on the way out of an error that is worth more than one of the address."""
    try:
        release(folder)
    except (StorageError, OSError) as error:
        logger.warning("a lease stays behind for %.0f s: %s", EXPIRE_S, error)


def held(folder: Path) -> bool:
    """Whether this process has the right to write a folder at an address."""
    address = address_of(folder)
    return address is not None and (os.getpid(), address) in _held


def _release(address: Address) -> None:
    with _lock:
        lease = _held.get((os.getpid(), address))
        if lease is None:
            return
        lease.users -= 1
        if lease.users > 0:
            return
        del _held[os.getpid(), address]
    now = _read(lease.address)
    if now is not None and now["token"] == lease.token:
        remote.delete(lease.address / NAME)


def release_all() -> None:
    """Give back every lease of this process, at its end."""
    for pid, address in list(_held):
        if pid == os.getpid():
            _held[pid, address].users = 1
            try:
                _release(address)
            except StorageError as error:
                logger.warning("a lease stays behind for %.0f s: %s", EXPIRE_S, error)


def _keep_renewing() -> None:
    if os.getpid() in _renewing:
        return
    _renewing.add(os.getpid())
    atexit.register(release_all)
    threading.Thread(target=_renew, name="kd_ray-leases", daemon=True).start()


def _renew() -> None:
    while True:
        time.sleep(RENEW_S)
        with _lock:
            mine = [lease for (pid, _), lease in _held.items() if pid == os.getpid()]
        for lease in mine:
            renew(lease)


def renew(lease: Lease) -> None:
    """Say that this process is alive, or find that another one took its place."""
    try:
        _renew_once(lease)
    except (StorageError, OSError) as error:
        # Other leases are renewed by the same thread, and this one may be with the next round.
        logger.warning("the lease of %s could not be renewed: %s", lease.address, error)


def _renew_once(lease: Lease) -> None:
    now = _read(lease.address)
    if now is None and lease.silent:
        # Nobody else removes a lease: its successor is done already.
        lease.lost_to = "another process, which has ended since"
    elif now is not None and now["token"] != lease.token:
        lease.lost_to = _who(now)
    if lease.lost_to is not None:
        logger.error("%s was taken over by %s", lease.address, lease.lost_to)
        return
    with _lock:
        if lease in _held.values():
            lease.write()


def _read(address: Address) -> dict[str, Any] | None:
    content = remote.read_bytes(address / NAME)
    if content is None:
        return None
    try:
        lease = json.loads(content)
    except ValueError:
        return None
    return lease if isinstance(lease, dict) and "token" in lease and "time" in lease else None


def _alive(lease: dict[str, Any]) -> bool:
    place = place_of_processes()
    if place is not None and lease.get("place") == place and lease.get("started") is not None:
        return bool(started(int(lease.get("process", 0))) == lease["started"])
    return bool(time.time() - lease["time"] < EXPIRE_S)


def _who(lease: dict[str, Any]) -> str:
    return f"process {lease.get('process')} on {lease.get('host')}"


def _me() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "place": place_of_processes(),
        "process": os.getpid(),
        "started": started(os.getpid()),
    }
