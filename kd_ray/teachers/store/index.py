"""What a store says about itself: `store.json`, and the plan of each split.

A plan fixes which utterance is in which shard and row, so that a reader needs no look at the
shards themselves: utterance number r of a split is row `r % shard_utterances` of shard
`r // shard_utterances`. It also keeps a digest of each utterance's audio reference and text, which
tells whether a training manifest still means what the teachers heard.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, ValidationError

from kd_ray import __version__
from kd_ray.config.base import Section
from kd_ray.config.data import TextColumn
from kd_ray.config.sources import Precision
from kd_ray.core.contracts import TeacherInfo
from kd_ray.storage import fetch, shown
from kd_ray.teachers.store.files import StoreError, write_atomically

if TYPE_CHECKING:
    from kd_ray.speech.manifest import Utterance

STORE_VERSION: Final = 2
"""Raised whenever a file of the store changes its layout or meaning."""
INDEX_NAME = "store.json"
PLAN_FOLDER = "_plans"
"""Begins with an underscore: readers of Parquet datasets leave such folders out."""


class SplitEntry(Section):
    """One split of the store, as `store.json` records it."""

    utterances: int = Field(ge=1)
    shard_utterances: int = Field(ge=1)
    column: TextColumn
    data_digest: str
    """Of ids, audio references and texts, in manifest order."""


class TopKGap(Section):
    """What truncation to the top k has cost so far, over all committed shards."""

    mean_kl_nats: float
    """Mean over positions of KL(teacher || teacher with its tail spread evenly)."""
    positions: int


class StoreIndex(Section):
    """The contents of `store.json`."""

    version: Literal[2] = STORE_VERSION
    package: str = __version__
    tokens_digest: str
    vocabulary_size: int = Field(ge=1)
    blank: int
    bos: int
    eos: int
    precision: Precision = "float32"
    """In which the teachers computed."""
    dtype: Literal["float32", "float16"]
    top_k: int | None
    teachers: tuple[TeacherInfo, ...]
    splits: dict[str, SplitEntry] = Field(default_factory=dict)
    top_k_gap: TopKGap | None = None

    @property
    def digests(self) -> tuple[str, ...]:
        """Digests of the teachers, in order."""
        return tuple(teacher.digest for teacher in self.teachers)


def read_index(folder: Path) -> StoreIndex:
    """Read and check `store.json`.

    Raises:
        StoreError: it is missing, of another version, or lacks something (which is named).
    """
    path = fetch(folder / INDEX_NAME)
    if not path.is_file():
        raise StoreError(
            f"{shown(folder)} is no target store: it has no {INDEX_NAME}. Make one with "
            "`kd-ray infer-teachers CONFIG`, or correct the path."
        )
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StoreError(f"{path} is not JSON: {error}") from error
    version = raw.get("version") if isinstance(raw, dict) else None
    if version != STORE_VERSION:
        raise StoreError(
            f"{path} has version {version!r}, this package reads version {STORE_VERSION}; "
            "run `kd-ray infer-teachers` into a new folder."
        )
    try:
        return StoreIndex.model_validate(raw)
    except ValidationError as error:
        raise StoreError(f"{path} is incomplete or damaged: {error}") from error


def write_index(folder: Path, index: StoreIndex) -> None:
    """Replace `store.json` atomically."""
    text = index.model_dump_json(indent=2) + "\n"
    write_atomically(folder / INDEX_NAME, lambda path: _write_text(path, text))


@dataclass(frozen=True)
class Shard:
    """A fixed chunk of a split's utterances, in manifest order."""

    split: str
    index: int
    ids: tuple[str, ...]

    @cached_property
    def ids_digest(self) -> str:
        """Of the ids and their order; a committed shard carries it."""
        return digest_of(self.ids)


@dataclass(frozen=True, eq=False)
class Plan:
    """Which utterance is in which shard and row of a split."""

    split: str
    ids: tuple[str, ...]
    row_digests: tuple[str, ...]
    shard_utterances: int
    rows: dict[str, int] = field(init=False, repr=False)
    """Utterance id to its number in the split."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", {name: row for row, name in enumerate(self.ids)})

    @cached_property
    def shards(self) -> tuple[Shard, ...]:
        """The shards, in order; the last one may be shorter."""
        size = self.shard_utterances
        return tuple(
            Shard(self.split, start // size, self.ids[start : start + size])
            for start in range(0, len(self.ids), size)
        )

    @property
    def data_digest(self) -> str:
        """Of ids, audio references and texts, in manifest order."""
        return digest_of([*self.ids, *self.row_digests])

    @classmethod
    def of(
        cls, split: str, rows: "Sequence[Utterance]", column: TextColumn, shard_utterances: int
    ) -> "Plan":
        """Plan a split over the rows of a manifest.

        Raises:
            StoreError: no rows, ids that occur twice, or rows without audio or text (all counted).
        """
        if not rows:
            raise StoreError(f"split {split!r} has no utterances")
        ids = tuple(row.id for row in rows)
        seen: set[str] = set()
        twice = [name for name in ids if name in seen or seen.add(name)]  # type: ignore[func-returns-value]
        if twice:
            raise StoreError(f"split {split!r}: {some(twice)} occur(s) more than once")
        mute = [row.id for row in rows if row.audio is None]
        if mute:
            raise StoreError(f"split {split!r}: {some(mute)} without audio, which teachers hear")
        wordless = [row.id for row in rows if row.text(column) is None]
        if wordless:
            raise StoreError(
                f"split {split!r}: {some(wordless)} without {column!r}, which the teachers' "
                "decoders read as prefix; leave those rows out or fill the column."
            )
        return cls(split, ids, tuple(row_digest(row, column) for row in rows), shard_utterances)

    def save(self, folder: Path) -> None:
        """Write the plan into the store, atomically."""
        table = pa.table({"utterance_id": list(self.ids), "digest": list(self.row_digests)})
        write_atomically(plan_path(folder, self.split), lambda path: pq.write_table(table, path))

    @classmethod
    def load(cls, folder: Path, split: str, entry: SplitEntry) -> "Plan":
        """Read a split's plan and check it against `store.json`.

        Raises:
            StoreError: the file is missing or is not the plan that `store.json` means.
        """
        path = plan_path(folder, split)
        try:
            table = pq.read_table(fetch(path), columns=["utterance_id", "digest"])
        except (OSError, pa.ArrowException) as error:
            raise StoreError(
                f"the plan of split {split!r} cannot be read ({path}): {error}. Run `kd-ray "
                "infer-teachers` into a new folder."
            ) from error
        plan = cls(
            split,
            tuple(table["utterance_id"].to_pylist()),
            tuple(table["digest"].to_pylist()),
            entry.shard_utterances,
        )
        if plan.data_digest != entry.data_digest:
            raise StoreError(
                f"{path} has data digest {plan.data_digest}, {INDEX_NAME} says "
                f"{entry.data_digest}: files of different stores were mixed."
            )
        return plan


def plan_path(folder: Path, split: str) -> Path:
    """Where a split's plan lies."""
    return folder / PLAN_FOLDER / f"{split}.parquet"


def row_digest(row: "Utterance", column: TextColumn) -> str:
    """Of what teachers hear and read: id, audio reference and text."""
    return digest_of(
        [row.id, row.audio, row.offset_s, row.duration_s, row.channel, row.text(column)]
    )


def digest_of(values: Iterable[str | int | float | None]) -> str:
    """First 16 hex digits of the SHA-256 of the values as JSON."""
    text = json.dumps(list(values), ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def some(ids: Sequence[str], limit: int = 5) -> str:
    """Say how many ids there are, and the first few."""
    more = ", ..." if len(ids) > limit else ""
    return f"{len(ids)} utterance(s) ({', '.join(ids[:limit])}{more})"


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
