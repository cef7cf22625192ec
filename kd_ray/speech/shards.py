"""Audio files inside tar shards: few large files instead of very many small ones.

A shard is a plain tar file; each audio file lies in it as it is, so that `PATH.tar:OFFSET:LENGTH`
in a manifest's `audio` names its bytes, and a reader needs no look at the rest. (fairseq names
features inside zip files alike.) Members are named as WebDataset has them: `<key>.flac` with
`<key>.txt` behind it, the key made of the utterance's id.
"""

import hashlib
import io
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from uuid import uuid4

from kd_ray.config.places import address_of, local_path
from kd_ray.speech.manifest import Utterance
from kd_ray.storage import open_file, open_range, publish

_PIECE = re.compile(r"(.+\.tar):(\d+):(\d+)")
_KEY_CHARACTERS = 80
"""Longest key: the name of a tar member has room for 100 bytes."""


@dataclass(frozen=True)
class Piece:
    """Bytes of a shard that are an audio file."""

    shard: Path
    offset: int
    length: int


def piece_of(path: Path) -> Piece | None:
    """What `root / utterance.audio` means where it lies in a shard; None for a file of its own."""
    match = _PIECE.fullmatch(path.name)
    if match is None:
        return None
    return Piece(path.with_name(match[1]), int(match[2]), int(match[3]))


@contextmanager
def audio_source(path: Path) -> Iterator[str | BinaryIO]:
    """What libsndfile opens: a local path, or an open file where the audio lies elsewhere.

    Raises:
        FileNotFoundError: no such file at an address, or no such shard.
        StorageError: an address that cannot be read.
    """
    piece = piece_of(path)
    if piece is not None:
        yield io.BytesIO(open_range(piece.shard, piece.offset, piece.length))
    elif address_of(path) is None:
        yield str(path)
    else:
        with open_file(path) as file:
            yield file


def write_shards(
    rows: Sequence[Utterance], folder: Path, name: str, *, root: Path, place: str, shard_mib: float
) -> list[Utterance]:
    """Pack the audio of utterances into shards; rows in the same order, naming pieces of them.

    Files are packed as they are, once each: segments of one recording share its piece. A file that
    is larger than a shard has one of its own. The same files give the same shards, whose names hold
    a digest of their bytes: a shard never changes.

    Args:
        rows: whose audio is packed; rows without audio, or in shards already, stay as they are.
        folder: where the shards go; one at an address is sent there, shard by shard.
        name: what their names begin with (the split).
        root: where relative audio paths start.
        place: how manifests name `folder`: relative to the root, absolute or an address.
        shard_mib: size of a shard.

    Raises:
        OSError: an audio file cannot be read, or a shard not be written.
        StorageError: likewise at an address.
    """
    folder = local_path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pieces: dict[str, str] = {}
    keys: set[str] = set()
    shard: _Shard | None = None
    number = 0

    def finish(shard: "_Shard") -> None:
        path = shard.close(folder, f"{name}-{number:05d}")
        for audio, (offset, length) in shard.pieces.items():
            pieces[audio] = f"{place.rstrip('/')}/{path.name}:{offset}:{length}"

    try:
        for row in rows:
            audio = row.audio
            if audio is None or audio in pieces or piece_of(root / audio) is not None:
                continue
            if shard is not None and audio in shard.pieces:
                continue
            with open_file(root / audio) as file:
                content = file.read()
            if shard is not None and shard.bytes + len(content) > shard_mib * 2**20:
                finish(shard)
                shard, number = None, number + 1
            if shard is None:
                shard = _Shard(folder / f".{name}.{uuid4().hex[:8]}.part")
            shard.add(_key(row.id, keys), _suffix(root / audio), audio, content, _text(row))
        if shard is not None:
            finish(shard)
            shard = None
    finally:
        if shard is not None:
            shard.abandon()
    return [replace(row, audio=pieces.get(row.audio or "", row.audio)) for row in rows]


class _Shard:
    """A tar file that is being written."""

    def __init__(self, temporary: Path) -> None:
        self._temporary = temporary
        self._tar = tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
        self.bytes = 0
        self.pieces: dict[str, tuple[int, int]] = {}

    def add(self, key: str, suffix: str, audio: str, content: bytes, text: str | None) -> None:
        """One audio file and its text."""
        self._member(f"{key}{suffix}", content)
        # Behind a member, the archive stands at the end of its last block of 512 bytes.
        start = self._tar.offset - (len(content) + 511) // 512 * 512
        self.pieces[audio] = start, len(content)
        if text is not None:
            self._member(f"{key}.txt", text.encode())
        self.bytes += len(content)

    def close(self, folder: Path, name: str) -> Path:
        """The shard under its name, with a digest of its bytes."""
        self._tar.close()
        with self._temporary.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()[:8]
            os.fsync(file.fileno())
        path = folder / f"{name}-{digest}.tar"
        os.replace(self._temporary, path)
        publish(path)
        return path

    def abandon(self) -> None:
        """Leave nothing behind."""
        self._tar.close()
        self._temporary.unlink(missing_ok=True)

    def _member(self, name: str, content: bytes) -> None:
        # Times and owners would make other bytes of the same files.
        member = tarfile.TarInfo(name)
        member.size = len(content)
        self._tar.addfile(member, io.BytesIO(content))


def _key(name: str, taken: set[str]) -> str:
    """WebDataset takes what stands before the first dot as the key of a sample."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", name)[:_KEY_CHARACTERS]
    key, number = plain, 1
    while key in taken:
        number += 1
        key = f"{plain}-{number}"
    taken.add(key)
    return key


def _suffix(path: Path) -> str:
    """Of an address without the settings behind it, which may have dots."""
    address = address_of(path)
    name = path.name if address is None else address.path
    return PurePosixPath(name).suffix.lower() or ".wav"


def _text(row: Utterance) -> str | None:
    return next(
        (text for text in (row.transcript, row.phones, row.translation) if text is not None), None
    )
