"""The local cache: mirrors of files at addresses, in a bounded number of bytes.

What is known of each mirrored file (its version here and there, when it was last used) is in a
small SQLite database beside the files, so that all processes of a node share one cache and one
bound. A file counts as *clean* while it is what was fetched or sent; only clean files are ever
removed, the least recently used first, and none below a folder that a living process has pinned.
"""

import fcntl
import hashlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from kd_ray.config.places import cache_folder
from kd_ray.storage.remote import Seen, StorageError

DEFAULT_GIB = 20.0
_PAGE = 1000
GRACE_S = 5.0
"""What was used within the last seconds stays: whoever asked for it may not have opened it yet."""

_TABLE = """
CREATE TABLE IF NOT EXISTS files (
    path TEXT PRIMARY KEY,
    size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    remote_size INTEGER NOT NULL, remote_mtime_ns INTEGER NOT NULL,
    used REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS used ON files (used);
CREATE TABLE IF NOT EXISTS gone (
    path TEXT PRIMARY KEY,
    remote_size INTEGER NOT NULL, remote_mtime_ns INTEGER NOT NULL,
    used REAL NOT NULL
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Known:
    """What the cache knows of a file: its version here, and the version at its address."""

    here: Seen
    there: Seen


class Cache:
    """One cache folder; safe for several threads and processes of a node."""

    def __init__(self, folder: Path, bound_bytes: int, *, grace_s: float) -> None:
        self.folder = folder
        self.bound_bytes = bound_bytes
        self._grace_s = grace_s
        self._lock = threading.RLock()
        self._pins: dict[Path, int] = {}
        self._since_shrunk = 0
        self._began = time.time()
        try:
            for name in ("locks", "pins"):
                (folder / name).mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(
                folder / "index.sqlite", timeout=60, isolation_level=None, check_same_thread=False
            )
            self._database.executescript(
                f"PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; {_TABLE}"
            )
        except (OSError, sqlite3.Error) as error:
            raise StorageError(
                f"the local cache {folder} cannot be used: {error}; set KD_RAY_CACHE to a folder "
                "on a disk of this node"
            ) from error

    # -- what is known ---------------------------------------------------------------------------

    def known(self, path: Path) -> Known | None:
        """What the cache knows of a file; None of one that it never fetched nor sent."""
        rows = self._ask(
            "SELECT size, mtime_ns, remote_size, remote_mtime_ns FROM files WHERE path = ?", path
        )
        if not rows:
            return None
        size, mtime_ns, remote_size, remote_mtime_ns = rows[0]
        return Known(Seen(size, mtime_ns), Seen(remote_size, remote_mtime_ns))

    def known_below(self, folder: Path) -> list[Path]:
        """Files below a folder that the cache knows."""
        # The code point behind the slash ends the range of names that begin with `folder/`.
        rows = self._ask(
            "SELECT path FROM files WHERE path >= ? AND path < ?", f"{folder}/", f"{folder}0"
        )
        return [Path(path) for (path,) in rows]

    def record(self, path: Path, here: Seen, there: Seen) -> None:
        """A file is now the same here and there; others leave if the cache is too full."""
        self._ask(
            "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?)",
            path, here.size, here.mtime_ns, there.size, there.mtime_ns, time.time(),
        )  # fmt: skip
        self._ask("DELETE FROM gone WHERE path = ?", path)
        # Adding up all sizes takes a while where there are a million files.
        self._since_shrunk += here.size
        if self._since_shrunk >= self.bound_bytes / 100:
            self.shrink()

    def used(self, path: Path) -> bool:
        """A file has been asked for; whether the cache knows it.

        What it knows then stays for a while, if it is there after this call.
        """
        return bool(self._change("UPDATE files SET used = ? WHERE path = ?", time.time(), path))

    def forget(self, path: Path) -> None:
        """Nothing is known of a file any more."""
        self._ask("DELETE FROM files WHERE path = ?", path)

    def clean(self, path: Path) -> bool:
        """Whether the file here is what was fetched or sent."""
        known = self.known(path)
        return known is not None and seen_here(path) == known.here

    def would_not_stay(self, path: Path, there: Seen) -> bool:
        """Whether this version of a file had to leave once, and would do so again.

        It would where it was used since this process began and left nevertheless, or where all that
        was used since then fills the cache. What earlier jobs left in the cache makes room.
        """
        rows = self._ask(
            "SELECT used FROM gone WHERE path = ? AND remote_size = ? AND remote_mtime_ns = ?",
            path, there.size, there.mtime_ns,
        )  # fmt: skip
        if not rows:
            return False
        ((used,),) = rows
        if used >= self._began:
            return True
        ((in_use,),) = self._ask(
            "SELECT COALESCE(SUM(size), 0) FROM files WHERE used >= ?", self._began
        )
        return bool(in_use + there.size > self.bound_bytes)

    # -- locks -----------------------------------------------------------------------------------

    @contextmanager
    def fetching(self, path: Path) -> Iterator[None]:
        """Be the one process and thread of this node that changes a mirrored file."""
        descriptor = os.open(self.folder / "locks" / _slot(path), os.O_CREAT | os.O_RDWR, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def pin(self, folder: Path) -> bool:
        """Keep what lies below a folder, until this process ends or unpins it; whether it is new.

        A process pins a folder once, however often it asks.
        """
        with self._lock:
            if folder in self._pins:
                return False
            descriptor = os.open(
                self.folder / "pins" / _name(folder), os.O_CREAT | os.O_RDWR, 0o666
            )
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            self._pins[folder] = descriptor
            return True

    def unpin(self, folder: Path) -> None:
        """Let what lies below a folder leave again."""
        with self._lock:
            descriptor = self._pins.pop(folder, None)
            if descriptor is not None:
                os.close(descriptor)

    # -- the bound -------------------------------------------------------------------------------

    def bytes(self) -> int:
        """Bytes of all files that the cache knows."""
        ((total,),) = self._ask("SELECT COALESCE(SUM(size), 0) FROM files")
        return int(total)

    def shrink(self) -> list[Path]:
        """Remove clean files, the least recently used first, until the bound holds; which."""
        self._since_shrunk = 0
        excess = self.bytes() - self.bound_bytes
        gone: list[Path] = []
        pinned: dict[Path, bool] = {}
        before, stay = time.time() - self._grace_s, 0
        while excess > 0:
            rows = self._ask(
                "SELECT path, size FROM files WHERE used < ? ORDER BY used LIMIT ? OFFSET ?",
                before, _PAGE, stay,
            )  # fmt: skip
            if not rows:
                break
            for text, size in rows:
                if excess <= 0:
                    break
                path = Path(text)
                if self._is_pinned(path, pinned) or not self._evict(path, before):
                    stay += 1
                    continue
                gone.append(path)
                excess -= size
        return gone

    def _evict(self, path: Path, before: float) -> bool:
        """Remove a file unless somebody uses, sends or has changed it; whether it is gone.

        Args:
            path: the file.
            before: Unix time; what was used since then stays.
        """
        with self._try_lock(path) as mine:
            known = self.known(path) if mine else None
            if known is None:
                return False
            here = seen_here(path)
            if here is not None and here != known.here:
                return False
            # Together: who asks for it meanwhile finds it known and here, or neither.
            with self._at_once():
                noted = self._change(
                    "INSERT OR REPLACE INTO gone SELECT path, remote_size, remote_mtime_ns, used "
                    "FROM files WHERE path = ? AND used < ?",
                    path, before,
                )  # fmt: skip
                if not noted:
                    return False
                self.forget(path)
                with suppress(OSError):
                    path.unlink()
            return True

    def _is_pinned(self, path: Path, found: dict[Path, bool]) -> bool:
        for folder in path.parents:
            if folder == self.folder:
                return False
            if folder not in found:
                found[folder] = self._has_pin(folder)
            if found[folder]:
                return True
        return False

    def _has_pin(self, folder: Path) -> bool:
        with self._lock:
            if folder in self._pins:
                return True
        try:
            descriptor = os.open(self.folder / "pins" / _name(folder), os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    @contextmanager
    def _try_lock(self, path: Path) -> Iterator[bool]:
        descriptor = os.open(self.folder / "locks" / _slot(path), os.O_CREAT | os.O_RDWR, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
        finally:
            os.close(descriptor)

    def _ask(self, statement: str, *values: object) -> list[tuple]:  # type: ignore[type-arg]
        with self._lock:
            return self._database.execute(statement, _plain(values)).fetchall()

    def _change(self, statement: str, *values: object) -> int:
        """How many rows a statement changed."""
        with self._lock:
            return self._database.execute(statement, _plain(values)).rowcount

    @contextmanager
    def _at_once(self) -> Iterator[None]:
        """Changes of the block are made together or, where it raises or dies, not at all."""
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")


def _plain(values: Iterable[object]) -> list[object]:
    return [str(value) if isinstance(value, Path) else value for value in values]


def seen_here(path: Path) -> Seen | None:
    """The version of a local file; None where there is none."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return Seen(found.st_size, found.st_mtime_ns)


_caches: dict[tuple[int, Path], Cache] = {}
_opening = threading.Lock()


def the_cache() -> Cache:
    """The cache of this process: `KD_RAY_CACHE`, at most `KD_RAY_CACHE_GIB` (20)."""
    folder = cache_folder()
    with _opening:
        # A forked process must not use its parent's database connection.
        key = (os.getpid(), folder)
        if key not in _caches:
            _caches[key] = Cache(folder, _bound_bytes(), grace_s=GRACE_S)
        return _caches[key]


def _bound_bytes() -> int:
    given = os.environ.get("KD_RAY_CACHE_GIB") or str(DEFAULT_GIB)
    try:
        bound = float(given)
    except ValueError:
        bound = 0.0
    if not 0 < bound < float("inf"):
        raise StorageError(
            f"KD_RAY_CACHE_GIB is {given!r}; it must be a number of GiB above 0, e.g. 50"
        )
    return int(bound * 2**30)


def _name(path: Path) -> str:
    return hashlib.sha256(str(path).encode()).hexdigest()[:24]


def _slot(path: Path) -> str:
    """Of a few lock files: one for each mirrored file would double their number."""
    return _name(path)[:3]
