"""The other side: what a file system at an address has, and how it is read and written.

Credentials come from the environment alone, in the ways that each provider's own tools know. For S3
the endpoint and the region come from the address, else from `AWS_ENDPOINT_URL(_S3)` and
`AWS_REGION`. Nothing here keeps anything on the local disk.
"""

import functools
import io
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit

import pyarrow as pa
from pyarrow import fs

from kd_ray.config.places import Address

logger = logging.getLogger(__name__)

_COPY_BYTES = 8 << 20
_OBJECT_STORES = frozenset({"s3", "gs", "gcs", "abfs", "abfss"})
"""Where a file appears when its upload is complete, or not at all."""


class StorageError(ValueError):
    """Files at an address cannot be read or written as asked; the message says the way out."""

    passing = False
    """Whether the same may go well a little later: nobody answered."""


PATIENCE_S = 60.0
"""How long an address that does not answer is tried again: a run shall survive a short outage."""
_LONGEST_PAUSE_S = 15.0

P = ParamSpec("P")
R = TypeVar("R")


def _patiently(action: Callable[P, R]) -> Callable[P, R]:
    """Try again for a while where nobody answers."""

    @functools.wraps(action)
    def patient(*given: P.args, **named: P.kwargs) -> R:
        waited, pause = 0.0, 1.0
        while True:
            try:
                return action(*given, **named)
            except StorageError as error:
                if not error.passing or waited >= PATIENCE_S:
                    raise
                logger.warning("%s; trying again in %.0f s", error, pause)
            time.sleep(pause)
            waited += pause
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    return patient


@dataclass(frozen=True)
class Seen:
    """What told one version of a file from another when it was looked at."""

    size: int
    mtime_ns: int
    """Of object stores in whole seconds: a listing tells more of it than a look at the file."""


_systems: dict[tuple[int, str, str, str], tuple[Any, str]] = {}
_lock = threading.Lock()


@_patiently
def stat(address: Address) -> Seen | None:
    """Size and time of a file; None where there is no such file."""
    system, path = file_system(address)
    with _explained(address, "look at"):
        info = system.get_file_info(path)
    return _seen(address, info) if info.type == fs.FileType.File else None


@_patiently
def listing(address: Address, *, recursive: bool = True) -> dict[str, Seen]:
    """Files below a folder, by their path relative to it; empty where there is no such folder."""
    system, path = file_system(address)
    selector = fs.FileSelector(path, allow_not_found=True, recursive=recursive)
    with _explained(address, "list"):
        infos = system.get_file_info(selector)
    files = [info for info in infos if info.type == fs.FileType.File]
    return {info.path[len(path) :].lstrip("/"): _seen(address, info) for info in files}


@_patiently
def folders(address: Address) -> list[str]:
    """Names of the folders directly below a folder."""
    system, path = file_system(address)
    selector = fs.FileSelector(path, allow_not_found=True, recursive=False)
    with _explained(address, "list"):
        infos = system.get_file_info(selector)
    return sorted(info.base_name for info in infos if info.type == fs.FileType.Directory)


@_patiently
def is_there(address: Address) -> bool:
    """Whether there is a file or a folder."""
    system, path = file_system(address)
    with _explained(address, "look at"):
        return bool(system.get_file_info(path).type != fs.FileType.NotFound)


@_patiently
def download(address: Address, target: Path) -> None:
    """Copy a file to a local path."""
    system, path = file_system(address)
    with _explained(address, "read"), system.open_input_stream(path) as source:
        with _local_writes(target):
            file = target.open("wb")
        with file:
            while chunk := source.read(_COPY_BYTES):
                with _local_writes(target):
                    file.write(chunk)
                    file.flush()


@_patiently
def read_range(address: Address, offset: int, length: int) -> bytes:
    """Bytes of a file; fewer where it ends before."""
    system, path = file_system(address)
    with _explained(address, "read"), system.open_input_file(path) as source:
        return bytes(source.read_at(length, offset))


def open_file(address: Address) -> "FarFile":
    """A file for reading here and there, without a local copy."""
    return FarFile(address)


class FarFile(io.RawIOBase):
    """A file at an address, open for reading; each read is as patient as all others here."""

    def __init__(self, address: Address) -> None:
        super().__init__()
        self._address = address
        self._place = 0
        self._file: Any = None
        self._size = self._ask(lambda file: int(file.size()))

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Bytes from the beginning."""
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to another place; returns it."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        self._place = max(0, start + offset)
        return self._place

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; returns how many bytes there were."""
        view = memoryview(buffer).cast("B")
        length = min(len(view), max(0, self._size - self._place))
        content: bytes = self._ask(lambda file: file.read_at(length, self._place))
        view[: len(content)] = content
        self._place += len(content)
        return len(content)

    def close(self) -> None:
        """Let go of the connection."""
        self._file = None
        super().close()

    @_patiently
    def _ask(self, question: Callable[[Any], Any]) -> Any:
        system, path = file_system(self._address)
        with _explained(self._address, "read"):
            try:
                self._file = self._file or system.open_input_file(path)
                return question(self._file)
            except BaseException:
                # The next try opens it anew.
                self._file = None
                raise


def upload(source: Path, address: Address) -> Seen:
    """Copy a local file to an address, where it appears whole or not at all; what it is there."""
    _write(address, _content(source))
    seen = stat(address)
    if seen is None:
        raise StorageError(f"{address} is not there after it was written; is it a versioned view?")
    return seen


def write_bytes(address: Address, content: bytes) -> None:
    """Write a small file at an address, whole."""
    _write(address, content)


@_patiently
def read_bytes(address: Address) -> bytes | None:
    """A small file; None where there is none."""
    system, path = file_system(address)
    with _explained(address, "read"):
        if system.get_file_info(path).type != fs.FileType.File:
            return None
        try:
            with system.open_input_stream(path) as source:
                return bytes(source.read())
        except FileNotFoundError:
            # Removed since it was looked at.
            return None


def probe(address: Address, *, write: bool) -> None:
    """Whether an address can be reached and has its bucket; with `write`, whether all is allowed.

    Raises:
        StorageError: what stands in the way, and the way out.
    """
    if address.scheme in _OBJECT_STORES:
        top = Address(address.scheme, address.place, "", address.query)
        system, path = file_system(top)
        with _explained(top, "look at"):
            found = system.get_file_info(path).type != fs.FileType.NotFound
        if not found:
            raise StorageError(f"cannot look at {top}: {_NO_BUCKET}")
    if write:
        listing(address, recursive=False)
        mark = address / f".kd_ray-check-{uuid.uuid4().hex[:8]}"
        write_bytes(mark, b"kd-ray check\n")
        delete(mark)


@_patiently
def delete(address: Address) -> None:
    """Remove a file, or a folder with all it holds; nothing happens where there is none."""
    system, path = file_system(address)
    with _explained(address, "remove"):
        info = system.get_file_info(path)
        if info.type == fs.FileType.File:
            system.delete_file(path)
        elif info.type == fs.FileType.Directory:
            system.delete_dir(path)


@_patiently
def _write(address: Address, content: Any) -> None:
    """In one call of `write`: closing a stream after half of them would leave half a file."""
    system, path = file_system(address)
    with _explained(address, "write"):
        if address.scheme in _OBJECT_STORES:
            with system.open_output_stream(path) as stream:
                stream.write(content)
            return
        folder, _, name = path.rpartition("/")
        system.create_dir(folder, recursive=True)
        temporary = f"{folder}/.{name}.{uuid.uuid4().hex[:8]}.part"
        try:
            with system.open_output_stream(temporary) as stream:
                stream.write(content)
            system.move(temporary, path)
        except BaseException:
            if system.get_file_info(temporary).type == fs.FileType.File:
                system.delete_file(temporary)
            raise


def _content(path: Path) -> Any:
    """A local file as one buffer, which is not copied into memory."""
    if path.stat().st_size == 0:
        return b""
    with pa.memory_map(str(path)) as file:
        return file.read_buffer()


def _seen(address: Address, info: Any) -> Seen:
    mtime_ns = info.mtime_ns or 0
    if address.scheme in _OBJECT_STORES:
        mtime_ns -= mtime_ns % 1_000_000_000
    return Seen(info.size, mtime_ns)


def file_system(address: Address) -> tuple[Any, str]:
    """The `pyarrow.fs` file system of an address, and the path in it; one connection a process."""
    # A forked process must not use its parent's connection.
    key = (os.getpid(), address.scheme, address.place, address.query)
    with _lock:
        if key not in _systems:
            top = Address(address.scheme, address.place, "", address.query)
            with _explained(top, "reach"):
                system, path = fs.FileSystem.from_uri(_uri(top))
            _systems[key] = system, path.rstrip("/")
        system, base = _systems[key]
    return system, f"{base}/{address.path}" if address.path else base or "/"


def _uri(address: Address) -> str:
    """What pyarrow opens: the address with the connection's settings from the environment."""
    if address.scheme == "file":
        return "file:///"
    settings = dict(parse_qsl(address.query, keep_blank_values=True))
    if address.scheme == "s3":
        # A small file is then one request instead of three.
        settings.setdefault("allow_delayed_open", "true")
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        if endpoint and "endpoint_override" not in settings:
            parts = urlsplit(endpoint)
            settings["endpoint_override"] = parts.netloc or parts.path
            settings.setdefault("scheme", parts.scheme or "https")
        if region:
            settings.setdefault("region", region)
        elif "endpoint_override" in settings:
            # Only Amazon's own endpoint can be asked for the region of a bucket.
            settings.setdefault("region", "us-east-1")
    text = urlencode(settings)
    return f"{address.scheme}://{address.place}" + (f"?{text}" if text else "")


_NO_BUCKET = "there is no such bucket; make it, or correct its name (none is ever made here)"
_NO_ANSWER = (
    "it does not answer; check the network, the region and the endpoint (endpoint_override in the "
    "address, or AWS_ENDPOINT_URL)"
)
_REASONS = (
    (
        ("NO_SUCH_BUCKET", "NoSuchBucket", "bucket does not exist"),
        _NO_BUCKET,
    ),
    (
        ("ACCESS_DENIED", "Access Denied", "AccessDenied", "PERMISSION_DENIED"),
        "no permission; give this node credentials that may list, read, write and delete there "
        "(AWS_PROFILE, AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS, or the node's role)",
    ),
    (
        ("INVALID_ACCESS_KEY", "SIGNATURE_DOES_NOT_MATCH", "EXPIRED", "InvalidAccessKeyId"),
        "the credentials of the environment are refused; renew or correct them",
    ),
    (
        ("NETWORK_CONNECTION", "curlCode", "resolve host", "UNAVAILABLE", "SLOW_DOWN", "imed out"),
        _NO_ANSWER,
    ),
    (("Permission denied",), "no permission on that file system"),
    (("Read-only", "No space left"), "make room there, or name another place"),
)


@contextmanager
def _explained(address: Address, doing: str) -> Iterator[None]:
    """Errors of the file system, with what was asked of it and the way out."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        if isinstance(error, _LocalDiskError):
            raise StorageError(str(error)) from error
        text = " ".join(str(error).split())
        hints = [way for marks, way in _REASONS if any(mark in text for mark in marks)]
        if isinstance(error, FileNotFoundError) and not hints:
            hints = ["there is no such file"]
        way = hints[0] if hints else "see the text behind"
        found = StorageError(f"cannot {doing} {address}: {way} ({text[:400]})")
        found.passing = way == _NO_ANSWER
        raise found from error


class _LocalDiskError(OSError):
    """The cache's own disk refused."""


@contextmanager
def _local_writes(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno is None or isinstance(error, pa.ArrowException):
            raise
        raise _LocalDiskError(
            f"cannot write {target} in the local cache: {error.strerror}; set KD_RAY_CACHE to a "
            "disk of this node with more room, or KD_RAY_CACHE_GIB to less than is free"
        ) from error
