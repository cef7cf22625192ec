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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kd_ray.config.places import Address, address_of
from kd_ray.storage import remote
from kd_ray.storage.remote import StorageError

logger = logging.getLogger(__name__)

NAME = ".kd_ray-lease.json"
RENEW_S = 20.0
EXPIRE_S = 90.0
"""Without a renewal for so long, the writer counts as dead (one on this node: as soon as it is)."""


@dataclass
class Lease:
    """The right to write a folder at an address."""

    address: Address
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    users: int = 1
    lost_to: str | None = None
    """Who took it over, where somebody did (this process was believed dead)."""

    def require(self) -> None:
        """Raise `StorageError` where another process took the folder over."""
        if self.lost_to is not None:
            raise StorageError(
                f"{self.address} was taken over by {self.lost_to}, as this process had given no "
                "sign of life for too long; it stops here, the other one goes on"
            )

    def write(self) -> None:
        """Say that this process is alive."""
        content = {"token": self.token, "time": time.time(), **_me()}
        remote.write_bytes(self.address / NAME, json.dumps(content).encode())


_held: dict[tuple[int, Address], Lease] = {}
"""Process and folder: what it may write."""
_lock = threading.RLock()
_renewing: set[int] = set()


def hold(folder: Path) -> None:
    """Take the right to write a folder until `release`; nothing for a folder at no address.

    A process may take it several times.

    Raises:
        StorageError: another process has it; names it and the way out.
    """
    address = address_of(folder)
    if address is None:
        return
    with _lock:
        held = _held.get((os.getpid(), address))
        if held is not None:
            held.require()
            held.users += 1
            return
        other = _read(address)
        if other is not None and _alive(other):
            raise StorageError(
                f"{address} is being written by {_who(other)}, whose last sign of life is "
                f"{max(0.0, time.time() - other['time']):.0f} s old; wait for it or stop it, or "
                f"give this run another name. After {EXPIRE_S:.0f} s of silence it counts as dead."
            )
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


def require(folder: Path) -> None:
    """Raise `StorageError` where another process took over what this one holds."""
    address = address_of(folder)
    held = None if address is None else _held.get((os.getpid(), address))
    if held is not None:
        held.require()


def release(folder: Path) -> None:
    """Give back what `hold` took; the last `release` removes the lease."""
    address = address_of(folder)
    if address is not None:
        _release(address)


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
        now = _read(lease.address)
        if now is not None and now["token"] != lease.token:
            lease.lost_to = _who(now)
            logger.error("%s was taken over by %s", lease.address, lease.lost_to)
        elif lease.lost_to is None:
            with _lock:
                if lease in _held.values():
                    lease.write()
    except StorageError as error:
        logger.warning("the lease of %s could not be renewed: %s", lease.address, error)


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
    me = _me()
    here = lease.get("host") == me["host"] and lease.get("boot") == me["boot"]
    if here and lease.get("started") is not None:
        return bool(_started(int(lease.get("process", 0))) == lease["started"])
    return bool(time.time() - lease["time"] < EXPIRE_S)


def _who(lease: dict[str, Any]) -> str:
    return f"process {lease.get('process')} on {lease.get('host')}"


def _me() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "boot": _text("/proc/sys/kernel/random/boot_id"),
        "process": os.getpid(),
        "started": _started(os.getpid()),
    }


def _started(process: int) -> str | None:
    """When a process began (a number is used again for another one); None of one that is gone."""
    status = _text(f"/proc/{process}/stat")
    if status is None:
        return None
    # The name of the program, in parentheses, may hold anything.
    fields = status.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return None
