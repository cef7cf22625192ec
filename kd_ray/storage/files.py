"""Bring files to their mirror, and send them back.

Which side is right? The address, wherever its file changed since this node last saw it; else the
file here, which this node may have written and not sent yet. So a run that goes on elsewhere is
never overwritten by what a killed process left behind, and nobody's unsent work is thrown away
while it is the newest there is.

Names that begin with a dot are nobody else's business: of a folder, they are neither fetched nor
sent.
"""

import fnmatch
import glob
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from kd_ray.config.places import Address, address_of, local_path, mirror_of
from kd_ray.storage import remote
from kd_ray.storage.cache import Cache, seen_here, the_cache
from kd_ray.storage.remote import Seen, StorageError

logger = logging.getLogger(__name__)

_THREADS = 8
_ATTEMPTS = 3
_WILD = frozenset("*?[")
_UNFINISHED = (".part", ".tmp", ".previous", "-tmp")

_looked_at: set[tuple[int, Path]] = set()
"""Process and file: unchanging files that were compared with their address once."""
_by_range: set[tuple[int, Path]] = set()
"""Process and file: shards that are read in ranges."""
_lock = threading.Lock()


def shown(path: Path) -> str:
    """A path as messages name it: the address that it stands for."""
    address = address_of(path)
    return str(path if address is None else address)


def fetch(path: Path, *, unchanging: bool = False) -> Path:
    """The local path of a file, brought here where it is not, or is of another version.

    Where there is no such file, neither is there one at the path that is returned.

    Args:
        path: any path.
        unchanging: a process compares it with its address only once (audio, shards).

    Raises:
        StorageError: the address cannot be read; says the way out.
    """
    address = address_of(path)
    if address is None:
        return path
    local, cache = mirror_of(address), the_cache()
    if _temporary(address):
        return local
    key = (os.getpid(), local)
    if unchanging and key in _looked_at and local.exists():
        cache.used(local)
        return local
    _settle(cache, local, address, remote.stat(address))
    if unchanging:
        _looked_at.add(key)
    return local


def fetch_folder(
    folder: Path, only: Callable[[str], bool] = lambda name: True, *, pin: bool = True
) -> Path:
    """The local path of a folder, with its files brought here.

    Args:
        folder: any path.
        only: gets a file's path relative to the folder; which files are wanted.
        pin: keep the files here until this process ends.

    Raises:
        StorageError: the address cannot be read; says the way out.
    """
    address = address_of(folder)
    if address is None:
        return folder
    local, cache = mirror_of(address), the_cache()
    if pin:
        cache.pin(local)
    there = {
        name: seen
        for name, seen in remote.listing(address).items()
        if only(name) and not _hidden(name)
    }
    gone = [
        name
        for path in cache.known_below(local)
        if (name := path.relative_to(local).as_posix()) not in there and only(name)
    ]

    def settle(name: str) -> None:
        _settle(cache, local / name, address / name, there.get(name))

    with ThreadPoolExecutor(_THREADS) as threads:
        list(threads.map(settle, [*gone, *sorted(there)]))
    return local


def open_file(path: Path) -> BinaryIO:
    """An unchanging file, open for reading; stays readable when the cache lets go of it.

    Raises:
        FileNotFoundError: there is none.
        StorageError: the address cannot be read.
    """
    for _ in range(_ATTEMPTS - 1):
        local = fetch(path, unchanging=True)
        try:
            return local.open("rb")
        except FileNotFoundError:
            # Not there at all, or removed from a full cache a moment ago.
            _looked_at.discard((os.getpid(), local))
    return fetch(path, unchanging=True).open("rb")


@contextmanager
def open_seekable(path: Path) -> Iterator[Any]:
    """What Parquet readers open: a local path, or an open file.

    Like a shard (see `open_range`), a file is brought here whole unless it did not stay.
    """
    address = address_of(path)
    if address is None:
        yield path
    elif _read_in_ranges(address):
        with remote.open_file(address) as far:
            yield far
    else:
        with open_file(path) as near:
            yield near


@contextmanager
def open_end(path: Path) -> Iterator[Any]:
    """As `open_seekable`, for a reader of a few bytes: a file that is not here stays there."""
    address = address_of(path)
    if address is None or mirror_of(address).exists():
        with open_seekable(path) as file:
            yield file
    else:
        with remote.open_file(address) as far:
            yield far


def open_range(path: Path, offset: int, length: int) -> bytes:
    """Bytes of an unchanging file, e.g. of an audio file in a tar shard.

    The file is brought here whole, as its other bytes will be asked for too: one request for
    hundreds of utterances. A cache that is too small for all shards would then fetch and drop them
    over and over; so a shard that had to leave the cache once is read range by range from then on,
    as is one larger than a quarter of the cache.

    Raises:
        FileNotFoundError: there is no such file.
        StorageError: the address cannot be read.
    """
    address = address_of(path)
    if address is not None and _read_in_ranges(address):
        return remote.read_range(address, offset, length)
    with open_file(path) as file:
        file.seek(offset)
        return file.read(length)


def peek(path: Path) -> bytes | None:
    """What a small file at an address holds; None where there is none, or no address."""
    address = address_of(path)
    return None if address is None else remote.read_bytes(address)


def exists(path: Path) -> bool:
    """Whether there is a file, at its address or here and not sent yet."""
    address = address_of(path)
    if address is None:
        return path.exists()
    local = mirror_of(address)
    if remote.stat(address) is not None:
        return True
    return local.exists() and the_cache().known(local) is None


def matches(pattern: Path) -> list[Path]:
    """Files and folders of a pattern (`*`, `?`, `[...]`), sorted; nothing is brought here."""
    address = address_of(pattern)
    if address is None:
        return [Path(found) for found in sorted(glob.glob(str(pattern)))]
    found = [Address(address.scheme, address.place, "", address.query)]
    for part in PurePosixPath(address.path).parts:
        if not _WILD & set(part):
            found = [above / part for above in found]
            continue
        found = [
            above / name
            for above in found
            for name in [*remote.folders(above), *remote.listing(above, recursive=False)]
            if fnmatch.fnmatchcase(name, part) and not name.startswith(".")
        ]
    return sorted(
        mirror_of(each) for each in found if mirror_of(each).exists() or remote.is_there(each)
    )


def publish(path: Path) -> None:
    """Send a file that was written to its address; nothing happens if it is there already.

    Raises:
        StorageError: the address cannot be written; says the way out.
    """
    address = address_of(path)
    if address is None or _temporary(address):
        return
    local, cache = mirror_of(address), the_cache()
    with cache.fetching(local):
        here = seen_here(local)
        known = cache.known(local)
        if here is None or (known is not None and known.here == here):
            return
        cache.record(local, here, remote.upload(local, address))


def publish_folder(
    folder: Path, last: Sequence[str] = (), only: Callable[[str], bool] = lambda name: True
) -> None:
    """Send what is new below a folder; files with the names in `last` follow when all are there.

    Args:
        folder: any path.
        last: names of files, in the order in which they are sent.
        only: gets a file's path relative to the folder; which files are meant.

    Raises:
        StorageError: the address cannot be written; says the way out.
    """
    if address_of(folder) is None:
        return
    local = local_path(folder)
    files = [
        path
        for path in sorted(local.rglob("*"))
        if path.is_file() and not _hidden(name := path.relative_to(local).as_posix()) and only(name)
    ]
    with ThreadPoolExecutor(_THREADS) as threads:
        list(threads.map(publish, [path for path in files if path.name not in last]))
    for name in last:
        for path in files:
            if path.name == name:
                publish(path)


def remove(path: Path) -> None:
    """Remove a file or folder, here and at its address.

    Raises:
        StorageError: the address cannot be written; says the way out.
    """
    address = address_of(path)
    local = local_path(path)
    if address is not None:
        remote.delete(address)
        cache = the_cache()
        for known in [local, *cache.known_below(local)]:
            cache.forget(known)
    if local.is_dir():
        shutil.rmtree(local)
    else:
        local.unlink(missing_ok=True)


def _settle(cache: Cache, local: Path, address: Address, there: Seen | None) -> None:
    """Make the file here what it has to be; `there` is what was seen at the address."""
    if _agrees(cache, local, there):
        return
    with cache.fetching(local):
        # While this process waited, another one may have fetched or sent it.
        there = remote.stat(address)
        if _agrees(cache, local, there):
            return
        if there is None:
            local.unlink(missing_ok=True)
            cache.forget(local)
            return
        local.parent.mkdir(parents=True, exist_ok=True)
        part = local.with_name(f".{local.name}.{os.getpid()}.{threading.get_ident()}.part")
        try:
            try:
                remote.download(address, part)
            except StorageError:
                if remote.stat(address) is not None:
                    raise
                # Removed since it was listed, e.g. an older checkpoint.
                local.unlink(missing_ok=True)
                cache.forget(local)
                return
            os.replace(part, local)
        finally:
            part.unlink(missing_ok=True)
        here = seen_here(local)
        assert here is not None
        cache.record(local, here, there)


def _agrees(cache: Cache, local: Path, there: Seen | None) -> bool:
    """Whether the file here may stay as it is."""
    known = cache.known(local)
    if there is None:
        # Never seen at its address: written here and not sent yet, or not there at all.
        return known is None
    if known is None or known.there != there or not local.exists():
        return False
    cache.used(local)
    return True


def _read_in_ranges(address: Address) -> bool:
    local, cache = mirror_of(address), the_cache()
    key = (os.getpid(), local)
    with _lock:
        if key in _by_range:
            return True
    if key in _looked_at and local.exists():
        return False
    there = remote.stat(address)
    if there is None or cache.clean(local):
        return False
    if there.size > cache.bound_bytes / 4 or cache.left_before(local, there):
        with _lock:
            _by_range.add(key)
        logger.info("%s does not stay in the cache: it is read in ranges", address)
        return True
    return False


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _temporary(address: Address) -> bool:
    """What is written under such a name gets another one when it is whole."""
    parts = address.path.split("/")
    return any(part.startswith(".") and part.endswith(_UNFINISHED) for part in parts)
