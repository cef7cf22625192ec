"""Manifests: Parquet files of utterances, one row each.

Known columns are typed, unknown columns are kept in `Utterance.extra`. Needs no torch.
"""

import hashlib
import json
import os
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kd_ray.config.data import TextColumn
from kd_ray.config.places import local_path
from kd_ray.storage import fetch, publish, shown

FEATURES_TYPE = pa.struct(
    [
        ("path", pa.string()),
        ("offset", pa.int64()),
        ("length", pa.int64()),
        ("front_end_digest", pa.string()),
    ]
)
"""Ready features of an utterance: a file, the bytes in it that hold one npy array (null: all), and
which front end made them."""

COLUMNS: dict[str, pa.DataType] = {
    "id": pa.string(),
    "audio": pa.string(),
    "offset_s": pa.float64(),
    "duration_s": pa.float64(),
    "channel": pa.int64(),
    "features": FEATURES_TYPE,
    "phones": pa.string(),
    "transcript": pa.string(),
    "translation": pa.string(),
    "source_language": pa.string(),
    "target_language": pa.string(),
    "speaker": pa.string(),
    "domain": pa.string(),
}
_CONTENT = ("audio", "features", "phones", "transcript", "translation")


class ManifestError(ValueError):
    """A manifest that cannot be read or written as it is."""


@dataclass(frozen=True)
class Utterance:
    """One example. Times in seconds; texts as one string, symbols separated by white space.

    `audio` is a path relative to the root (or absolute); without it and without `features` the
    row is text only. `features`: path, offset and length (bytes), front_end_digest; they are
    read where there is no audio.
    """

    id: str
    audio: str | None = None
    offset_s: float = 0.0
    duration_s: float | None = None
    channel: int = 0
    features: Mapping[str, Any] | None = None
    phones: str | None = None
    transcript: str | None = None
    translation: str | None = None
    source_language: str | None = None
    target_language: str | None = None
    speaker: str | None = None
    domain: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Columns that kd_ray does not know; a null is the same as no key."""

    def text(self, column: TextColumn) -> str | None:
        """The text of a column, None where the row has none."""
        return {
            "phones": self.phones,
            "transcript": self.transcript,
            "translation": self.translation,
        }[column]


def read_manifest(path: Path, *, allow_duplicate_ids: bool = False) -> list[Utterance]:
    """Read a manifest.

    Args:
        path: the Parquet file.
        allow_duplicate_ids: let the caller deal with them (`check_rows` lists them).

    Raises:
        ManifestError: no such file, not Parquet, columns missing or of a wrong type, rows without
            id, ids that occur more than once.
    """
    table = _read_table(path)
    columns: dict[str, list[Any]] = {}
    for name in table.column_names:
        column = table.column(name)
        if name in COLUMNS and column.type != COLUMNS[name]:
            try:
                column = column.cast(COLUMNS[name])
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
                raise ManifestError(
                    f"manifest {path}: column {name!r} has type {column.type}, "
                    f"expected {COLUMNS[name]}: {error}"
                ) from error
        columns[name] = column.to_pylist()
    nameless = [row for row, value in enumerate(columns["id"]) if not value]
    if nameless:
        raise ManifestError(f"manifest {path}: no id in rows {_some(nameless)}")
    if not allow_duplicate_ids:
        _refuse_duplicates(columns["id"], f"manifest {path}")
    return [_utterance(columns, row) for row in range(table.num_rows)]


def write_manifest(path: Path, rows: Sequence[Utterance]) -> None:
    """Write a manifest; the file appears complete or not at all.

    Raises:
        ManifestError: duplicate ids, an extra column with the name of a known one, or values that
            fit no common Parquet type.
    """
    _refuse_duplicates([row.id for row in rows], f"manifest {path} (to be written)")
    extra_names = sorted({name for row in rows for name in row.extra})
    clash = sorted(set(extra_names) & set(COLUMNS))
    if clash:
        raise ManifestError(f"manifest {path}: extra columns {clash} are known columns; set those")
    arrays: dict[str, pa.Array] = {}
    for name, kind in COLUMNS.items():
        arrays[name] = _array(path, name, [getattr(row, name) for row in rows], kind)
    for name in extra_names:
        arrays[name] = _array(path, name, [row.extra.get(name) for row in rows], None)
    with atomic_path(path) as temporary:
        pq.write_table(pa.table(arrays), temporary)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that takes its place when the block ends without error.

    A path at an address is sent there.
    """
    path = local_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile: its files are readable for the owner only, and manifests are shared.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    publish(path)


def manifest_digest(path_or_rows: Path | Sequence[Utterance]) -> str:
    """16 hexadecimal digits of the SHA-256 of all rows in order, whoever wrote the file."""
    rows = read_manifest(path_or_rows) if isinstance(path_or_rows, Path) else path_or_rows
    digest = hashlib.sha256()
    for row in rows:
        line = json.dumps(asdict(row), sort_keys=True, ensure_ascii=False, default=str)
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()[:16]


def _read_table(path: Path) -> pa.Table:
    asked, path = path, fetch(path)
    if not path.is_file():
        raise ManifestError(
            f"no manifest at {shown(asked)}; `kd-ray prepare` makes one, relative paths start at "
            "the root"
        )
    try:
        # ParquetFile, not read_table: a folder named `a=b` must not become a column.
        table = pq.ParquetFile(path).read()
    except (pa.ArrowInvalid, OSError) as error:
        raise ManifestError(f"manifest {path} cannot be read as Parquet: {error}") from error
    names = table.column_names
    if "id" not in names:
        raise ManifestError(f"manifest {path} lacks the column 'id'; it has {names}")
    if not set(names) & set(_CONTENT):
        raise ManifestError(
            f"manifest {path} needs at least one of the columns {list(_CONTENT)}; it has {names}"
        )
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise ManifestError(f"manifest {path} has the columns {repeated} more than once")
    return table


def _utterance(columns: Mapping[str, list[Any]], row: int) -> Utterance:
    values = {name: column[row] for name, column in columns.items() if column[row] is not None}
    known = {name: value for name, value in values.items() if name in COLUMNS}
    if "features" in known:
        features = known["features"]
        known["features"] = {key: value for key, value in features.items() if value is not None}
    extra = {name: value for name, value in values.items() if name not in COLUMNS}
    return Utterance(**known, extra=extra)


def _array(path: Path, name: str, values: list[Any], kind: pa.DataType | None) -> pa.Array:
    if name == "features":
        allowed = set(FEATURES_TYPE.names)
        for value in values:
            unknown = set(value or ()) - allowed
            if unknown:
                raise ManifestError(
                    f"manifest {path}: features with keys {sorted(unknown)}; "
                    f"allowed are {sorted(allowed)}"
                )
    try:
        return pa.array(values, type=kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise ManifestError(
            f"manifest {path}: column {name!r} cannot be written: {error}"
        ) from error


def _refuse_duplicates(ids: Sequence[str], what: str) -> None:
    repeated = [name for name, count in Counter(ids).items() if count > 1]
    if repeated:
        raise ManifestError(
            f"{what}: {len(repeated)} ids occur more than once: {_some(repeated)}; "
            "`kd-ray check` lists every bad row"
        )


def _some(items: Sequence[Any], limit: int = 10) -> str:
    shown = ", ".join(str(item) for item in items[:limit])
    return shown if len(items) <= limit else f"{shown}, ... ({len(items)} in all)"
