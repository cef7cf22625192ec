"""Bring files to their mirror, and send them back.

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
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from kd_ray.config.places import Address, address_of, is_in, local_path, mirror_of
from kd_ray.storage import remote
from kd_ray.storage.cache import seen_here, the_cache
from kd_ray.storage.lease import require
from kd_ray.storage.settling import settle

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
    if unchanging and key in _looked_at and cache.used(local) and local.exists():
        return local
    settle(cache, local, address, remote.stat(address))
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
        pin: keep the files here until this process ends, or calls `unpin`.

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

    def bring(name: str) -> None:
        settle(cache, local / name, address / name, there.get(name))

    with ThreadPoolExecutor(_THREADS) as threads:
        list(threads.map(bring, [*gone, *sorted(there)]))
    return local


@contextmanager
def fetched_folder(folder: Path, only: Callable[[str], bool] = lambda name: True) -> Iterator[Path]:
    """As `fetch_folder`, but the files are kept here for the block alone."""
    address = address_of(folder)
    if address is None:
        yield folder
        return
    new = the_cache().pin(mirror_of(address))
    try:
        yield fetch_folder(folder, only, pin=False)
    finally:
        if new:
            unpin(folder)


def unpin(folder: Path) -> None:
    """Let files of a folder leave the cache again that `fetch_folder` kept."""
    address = address_of(folder)
    if address is not None:
        the_cache().unpin(mirror_of(address))


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
    """Whether there is a file or folder, at its address or here and not sent yet."""
    address = address_of(path)
    if address is None:
        return path.exists()
    return remote.is_there(address) or _unsent(mirror_of(address))


def changed_here(path: Path) -> bool:
    """Whether a file at an address was written here and not sent since."""
    address = address_of(path)
    if address is None:
        return False
    local = mirror_of(address)
    return local.exists() and not the_cache().clean(local)


def was_there(path: Path) -> bool:
    """Whether a file was at its address when this node last fetched or sent it."""
    address = address_of(path)
    return address is not None and the_cache().known(mirror_of(address)) is not None


def names_below(folder: Path) -> set[str]:
    """Files below a folder, relative to it: at its address, if it has one, with one question."""
    address = address_of(folder)
    if address is not None:
        return set(remote.listing(address))
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix() for path in found}


def _unsent(local: Path) -> bool:
    """Whether something lies here that never was at its address."""
    cache = the_cache()
    if not local.is_dir():
        return local.exists() and cache.known(local) is None
    return any(
        path.is_file()
        and not _hidden(path.relative_to(local).as_posix())
        and cache.known(path) is None
        for path in local.rglob("*")
    )


def matches(folder: Path, pattern: str) -> list[Path]:
    """Files and folders of a pattern (`*`, `?`, `[...]`), sorted; nothing is brought here.

    Args:
        folder: where a relative pattern starts; its own name is taken as it is.
        pattern: relative, absolute or an address.
    """
    address = address_of(folder / pattern)
    if address is None:
        return [folder / found for found in sorted(glob.glob(pattern, root_dir=folder))]
    start = address_of(folder)
    if start is None or not is_in(address, start):
        start = replace(address, path="")
    parts = PurePosixPath(address.path).relative_to(start.path).parts
    found = [start]
    for part in parts:
        if not _is_wild(part):
            found = [above / part for above in found]
            continue
        found = [
            above / name
            for above in found
            for name in [*remote.folders(above), *remote.listing(above, recursive=False)]
            if fnmatch.fnmatchcase(name, part) and not name.startswith(".")
        ]
    # What a listing named is there.
    listed = bool(parts) and _is_wild(parts[-1])
    return sorted(mirror_of(each) for each in found if listed or exists(mirror_of(each)))


def _is_wild(part: str) -> bool:
    return bool(_WILD & set(part))


def publish(path: Path) -> None:
    """Send a file that was written to its address; nothing happens if it is there already.

    Raises:
        StorageError: the address cannot be written, or another process took over the folder that
            this one held; says the way out.
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
        require(path)
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
    if there.size > cache.bound_bytes / 4 or cache.would_not_stay(local, there):
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
