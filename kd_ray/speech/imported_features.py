"""Features that others have computed: npy files, plain or inside an uncompressed zip."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from kd_ray.core.errors import PortableError
from kd_ray.speech.manifest import Utterance
from kd_ray.storage import open_file, shown

_MAGIC = b"\x93NUMPY"
_HEADER_BYTES = 4096
"""More than the header of any matrix has."""


class FeaturesError(PortableError, ValueError):
    """Features of a row that cannot be read."""

    def __init__(self, utterance: Utterance, reason: str) -> None:
        self.utterance = utterance
        self.reason = reason
        super().__init__(f"utterance {utterance.id}: features {reason}")


@dataclass(frozen=True)
class FeaturesHeader:
    """What is known without reading the numbers."""

    frames: int
    dimensions: int


def read_features(row: Utterance, root: Path) -> NDArray[np.float32]:
    """The row's un-normalised features (T, F).

    `features["path"]` is a file, relative to the root; `offset` and `length` are bytes: where one
    npy array lies in it (fairseq's `path.zip:offset:size`). Without them the file is one npy array.
    Nothing is unpickled.

    Raises:
        FeaturesError: no features, a missing or cut-off file, bytes that are no npy array, other
            than a matrix of floating-point numbers, no frame, NaN or infinity.
    """
    data = _bytes(row, root)
    _check(row, data)
    try:
        array = npy.read_array(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise FeaturesError(row, f"{_where(row)}: cannot be read as npy: {error}") from error
    features = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(features).all():
        bad = int(np.count_nonzero(~np.isfinite(features)))
        raise FeaturesError(row, f"{_where(row)}: {bad} numbers are NaN or infinite")
    return features


def read_features_header(row: Utterance, root: Path) -> FeaturesHeader:
    """Frames and dimensions from the array's header; `FeaturesError` as `read_features`."""
    return _check(row, _bytes(row, root, limit=_HEADER_BYTES))


def front_end_fault(row: Utterance, digest: str) -> str | None:
    """Why the row's features do not fit a front end of this digest; None if they do.

    Features that say nothing of their front end fit none: what made them must be known, or the
    model cannot be used on audio later.
    """
    found = (row.features or {}).get("front_end_digest")
    if found == digest:
        return None
    return (
        f"imported features were made by the front end {found or '(unknown)'}, the model's is "
        f"{digest}; give the model the front end that the corpus was imported with "
        "(corpus.front_end), or import the audio"
    )


def _description(row: Utterance) -> dict[str, Any]:
    if row.features is None or not row.features.get("path"):
        raise FeaturesError(row, "are missing: the row names no file")
    return dict(row.features)


def _where(row: Utterance) -> str:
    features = _description(row)
    if "offset" not in features:
        return str(features["path"])
    return f"{features['path']} at {features['offset']}"


def _bytes(row: Utterance, root: Path, limit: int | None = None) -> bytes:
    """The array's bytes, `limit` of them at most."""
    features = _description(row)
    path = root / str(features["path"])
    offset, length = features.get("offset") or 0, features.get("length")
    if offset < 0 or (length is not None and length < 1):
        raise FeaturesError(
            row, f"{_where(row)}: {length} bytes at {offset} are no piece of a file"
        )
    wanted = length if limit is None else limit if length is None else min(length, limit)
    try:
        with open_file(path) as file:
            size = file.seek(0, io.SEEK_END)
            if offset + (length or 0) > size:
                raise FeaturesError(
                    row, f"{_where(row)}: end at byte {offset + (length or 0)}, {path} at {size}"
                )
            file.seek(offset)
            return file.read(-1 if wanted is None else wanted)
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise FeaturesError(row, f"{shown(path)}: {reason}") from error


def _check(row: Utterance, data: bytes) -> FeaturesHeader:
    if not data.startswith(_MAGIC):
        kind = (
            "FLAC audio"
            if data.startswith(b"fLaC")
            else "WAV audio"
            if data[:4] == b"RIFF"
            else "no npy array"
        )
        raise FeaturesError(row, f"{_where(row)}: {kind}; features must be npy matrices")
    stream = io.BytesIO(data)
    try:
        version = npy.read_magic(stream)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(stream)
    except ValueError as error:
        raise FeaturesError(row, f"{_where(row)}: broken npy header: {error}") from error
    if len(shape) != 2 or dtype.kind != "f" or 0 in shape:
        raise FeaturesError(
            row, f"{_where(row)}: {dtype} of shape {shape}; expected floats (frames, dimensions)"
        )
    return FeaturesHeader(int(shape[0]), int(shape[1]))
