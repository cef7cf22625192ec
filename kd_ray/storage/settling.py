"""Make one file of the cache what it has to be.

Which side is right? The address, wherever its file changed since this node last saw it; else the
file here, which this node may have written and not sent yet. So a run that goes on elsewhere is
never overwritten by what a killed process left behind, and nobody's unsent work is thrown away
while it is the newest there is.
"""

import os
import threading
from pathlib import Path

from kd_ray.config.places import Address
from kd_ray.storage import remote
from kd_ray.storage.cache import Cache, seen_here
from kd_ray.storage.remote import Seen, StorageError

_ATTEMPTS = 3


def settle(cache: Cache, local: Path, address: Address, there: Seen | None) -> None:
    """Bring a file here, keep it, or remove it.

    Args:
        cache: of this node.
        local: the file's mirror.
        address: what it is the mirror of.
        there: what was seen at the address.

    Raises:
        StorageError: the address cannot be read, or its file is replaced over and over.
    """
    if _agrees(cache, local, there):
        return
    with cache.fetching(local):
        for _ in range(_ATTEMPTS):
            # While this process waited, another one of the node may have sent it.
            there = there or remote.stat(address)
            if _agrees(cache, local, there):
                return
            if there is None:
                local.unlink(missing_ok=True)
                cache.forget(local)
                return
            if _bring(cache, local, address, there):
                return
            there = None
    raise StorageError(
        f"{address} became another file each of {_ATTEMPTS} times that it was read; run the same "
        "command again when whoever writes it is done"
    )


def _bring(cache: Cache, local: Path, address: Address, there: Seen) -> bool:
    """Download a file; False, and nothing is changed, where it was replaced meanwhile.

    What came may then be the beginning of one file and the end of another.
    """
    local.parent.mkdir(parents=True, exist_ok=True)
    part = local.with_name(f".{local.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        try:
            remote.download(address, part)
        except StorageError:
            if remote.stat(address) == there:
                raise
            # Replaced or removed since it was listed, e.g. an older checkpoint.
            return False
        if remote.stat(address) != there or part.stat().st_size != there.size:
            return False
        os.replace(part, local)
    finally:
        part.unlink(missing_ok=True)
    here = seen_here(local)
    assert here is not None
    cache.record(local, here, there)
    return True


def _agrees(cache: Cache, local: Path, there: Seen | None) -> bool:
    """Whether the file here may stay as it is."""
    known = cache.known(local)
    if there is None:
        # Never seen at its address: written here and not sent yet, or not there at all.
        return known is None
    if known is None or known.there != there:
        return False
    # In this order: what was used a moment ago does not leave the cache.
    return cache.used(local) and local.exists()
