"""Addresses of files that lie elsewhere, and the local path that stands for each of them.

An address is what `pyarrow.fs` opens: `s3://bucket/folder`, `gs://...`, `file:///mnt/...`, with
settings (`?region=...&endpoint_override=...`) behind it where it needs some. All code works with
local paths: every address has a *mirror*, a path below the cache folder that names the address, on
this node and on any other:

    <cache>/kd_ray_mirror/s3/bucket/folder/file

Paths are joined with `root / key` everywhere. Where the root is an address, `root` is its mirror;
where the key is one, the join reads `root/s3:/bucket/...`. `address_of` knows both forms, and
`kd_ray.storage` brings files to their mirror and sends them back.
"""

import os
import posixpath
import re
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote

SCHEMES = ("s3", "gs", "gcs", "file", "hdfs", "viewfs", "abfs", "abfss")
"""File systems that `pyarrow.fs` opens by an address."""

_ADDRESS = re.compile(rf"^({'|'.join(SCHEMES)})://", re.IGNORECASE)
_JOINED = frozenset(f"{scheme}:" for scheme in SCHEMES)
_MIRROR = "kd_ray_mirror"
_NO_PLACE = "_"
_SECRET = re.compile(r"secret|password|passwd|token|access_key|credential|sas", re.IGNORECASE)


class PlaceError(ValueError):
    """An address that cannot be used as it is written."""


@dataclass(frozen=True)
class Address:
    """A file or folder of a file system that `pyarrow.fs` opens."""

    scheme: str
    place: str
    """Bucket, host or container; empty for `file`."""
    path: str
    """Below it, without slashes at either end; empty for all of it."""
    query: str = ""
    """Settings of the connection, e.g. `region=eu-west-1`; never a secret."""

    def __str__(self) -> str:
        settings = f"?{self.query}" if self.query else ""
        separator = "/" if self.path else ""
        return f"{self.scheme}://{self.place}{separator}{self.path}{settings}"

    def __truediv__(self, below: str) -> "Address":
        path = "/".join(part for part in (self.path, below.strip("/")) if part)
        return Address(self.scheme, self.place, path, self.query)


def is_address(text: str) -> bool:
    """Whether a key of a configuration names an address, not a local path."""
    return _ADDRESS.match(text) is not None


def cache_folder() -> Path:
    """Where mirrors of addresses lie: `KD_RAY_CACHE`, else a folder for temporary files.

    It belongs on a disk of the node itself, with room for `KD_RAY_CACHE_GIB`.
    """
    chosen = os.environ.get("KD_RAY_CACHE")
    if chosen:
        return Path(chosen).absolute()
    # By number: users of containers often have no name.
    return Path(tempfile.gettempdir()) / f"kd_ray-{os.getuid()}"


def mirror_of(address: Address) -> Path:
    """The local path that stands for an address, on this node."""
    system = (
        f"{address.scheme}?{quote(address.query, safe='')}" if address.query else address.scheme
    )
    folder = cache_folder() / _MIRROR / system / (address.place or _NO_PLACE)
    return folder / address.path if address.path else folder


def address_of(path: Path) -> Address | None:
    """The address that a path stands for: a mirror of any node, or `root / "s3://..."`.

    Raises:
        PlaceError: the address carries a secret, or names no bucket.
    """
    parts = path.parts
    joined = [index for index, part in enumerate(parts) if part.lower() in _JOINED]
    mirrored = [index for index, part in enumerate(parts) if part == _MIRROR]
    if joined and (not mirrored or joined[-1] > mirrored[-1]):
        return _from_join(parts[joined[-1] :])
    if mirrored and len(parts) >= mirrored[-1] + 3:
        system, place, *rest = parts[mirrored[-1] + 1 :]
        scheme, _, query = system.partition("?")
        place = "" if place == _NO_PLACE else place
        return Address(scheme, place, _normal(rest), unquote(query))
    return None


def is_in(address: Address, folder: Address) -> bool:
    """Whether an address is a folder, or lies below it."""
    same = replace(address, path=folder.path) == folder
    return same and f"{address.path}/".startswith(f"{folder.path}/" if folder.path else "")


def local_path(path: Path) -> Path:
    """The path to work with on this node: the mirror of an address, any other path as it is."""
    address = address_of(path)
    return path if address is None else mirror_of(address)


def refuse_secrets(text: str) -> None:
    """An address in a configuration must not carry a password or a key.

    Raises:
        PlaceError: it does; names the way out and does not repeat the secret.
    """
    match = _ADDRESS.match(text)
    if match is None:
        return
    rest, _, query = text[match.end() :].partition("?")
    place = rest.split("/", 1)[0]
    keys = [key for key, _ in parse_qsl(query, keep_blank_values=True) if _SECRET.search(key)]
    user, at, _ = place.rpartition("@")
    if at and ":" in user:
        keys.append("a password before the @")
    if keys:
        raise PlaceError(
            f"an address {match[0]}... carries {', '.join(keys)}; configurations, run folders and "
            "logs are read by others: leave it out, and give credentials by the environment "
            "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, "
            "GOOGLE_APPLICATION_CREDENTIALS, or the role of the node)"
        )


def _from_join(parts: tuple[str, ...]) -> Address:
    """`("s3:", "bucket", "folder?region=x", "file")`, as pathlib joins an address and a name."""
    scheme, settings, names = parts[0][:-1].lower(), "", []
    for part in parts[1:]:
        name, _, query = part.partition("?")
        names.append(name)
        settings = query or settings
    refuse_secrets(f"{scheme}://{'/'.join(names)}?{settings}")
    if scheme == "file":
        return Address(scheme, "", _normal(names), settings)
    if not names or not names[0]:
        raise PlaceError(f"{scheme}:// names no bucket; write {scheme}://BUCKET/FOLDER")
    return Address(scheme, names[0], _normal(names[1:]), settings)


def _normal(names: list[str]) -> str:
    """Names as one path, without `.` and `..`."""
    path = posixpath.normpath("/".join(names)) if names else ""
    return "" if path == "." else path.lstrip("/")
