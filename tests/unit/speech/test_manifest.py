"""Manifests: what is written is what is read, and what cannot be read says why."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_ray.speech.manifest import (
    ManifestError,
    Utterance,
    manifest_digest,
    read_manifest,
    write_manifest,
)

FULL = Utterance(
    id="a-1",
    audio="audio/a.flac",
    offset_s=1.25,
    duration_s=2.5,
    channel=1,
    features={"path": "f.npy", "offset": 3, "length": 250, "front_end_digest": "00ff"},
    phones="h ə l oʊ",
    transcript="hello",
    translation="hallo",
    source_language="en",
    target_language="de",
    speaker="s1",
    domain="demo",
    extra={"snr_db": 12.5, "tags": ["x", "y"]},
)


def test_all_fields_survive_a_round_trip(tmp_path: Path) -> None:
    rows = [FULL, Utterance(id="text only", translation="nur Text", extra={"note": "ja"})]
    write_manifest(tmp_path / "deep" / "train.parquet", rows)
    assert read_manifest(tmp_path / "deep" / "train.parquet") == rows
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["train.parquet"]


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@settings(max_examples=40, deadline=None)
@given(
    ids=st.lists(TEXT.filter(bool), unique=True, max_size=8),
    texts=st.lists(st.none() | TEXT, min_size=8, max_size=8),
    durations=st.lists(st.none() | st.floats(0, 1e6, allow_nan=False), min_size=8, max_size=8),
)
def test_any_rows_survive_a_round_trip(
    tmp_path_factory: pytest.TempPathFactory,
    ids: list[str],
    texts: list[str | None],
    durations: list[float | None],
) -> None:
    path = tmp_path_factory.mktemp("m") / "rows.parquet"
    rows = [
        Utterance(id=name, phones=text, transcript=text, duration_s=duration, audio=text)
        for name, text, duration in zip(ids, texts, durations, strict=False)
    ]
    write_manifest(path, rows)
    assert read_manifest(path) == rows


def test_text_is_chosen_by_column() -> None:
    assert FULL.text("phones") == "h ə l oʊ"
    assert FULL.text("transcript") == "hello"
    assert FULL.text("translation") == "hallo"


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"no manifest at .*nowhere\.parquet"):
        read_manifest(tmp_path / "nowhere.parquet")


def test_a_file_that_is_not_parquet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_text("id,audio\n")
    with pytest.raises(ManifestError, match=r"rows\.parquet cannot be read as Parquet"):
        read_manifest(path)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"audio": ["a"]}, "lacks the column 'id'"),
        ({"id": ["a"], "colour": ["red"]}, "at least one of the columns"),
        ({"id": [None, "b"], "audio": ["a", "b"]}, "no id in rows 0"),
        ({"id": ["a"], "audio": ["a"], "duration_s": ["long"]}, "column 'duration_s' has type"),
        ({"id": ["a", "b", "a"], "audio": ["x"] * 3}, "1 ids occur more than once: a"),
    ],
    ids=["no id column", "no content", "null id", "wrong type", "duplicates"],
)
def test_wrong_columns_are_refused(
    tmp_path: Path, columns: dict[str, list[object]], message: str
) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table(columns), path)
    with pytest.raises(ManifestError, match=message):
        read_manifest(path)


def test_duplicates_can_be_read_for_checking(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"id": ["a", "a"], "audio": ["x", "y"]}), path)
    assert [row.audio for row in read_manifest(path, allow_duplicate_ids=True)] == ["x", "y"]


def test_foreign_types_and_null_cells_take_defaults(tmp_path: Path) -> None:
    path = tmp_path / "key=value" / "rows.parquet"
    path.parent.mkdir()
    columns = {"id": pa.array(["a"], pa.large_string()), "transcript": ["x"], "channel": [None]}
    pq.write_table(pa.table(columns), path)
    assert read_manifest(path) == [Utterance(id="a", transcript="x")]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([FULL, FULL], "a-1"),
        ([replace(FULL, extra={"speaker": "s"})], r"extra columns \['speaker'\]"),
        ([replace(FULL, extra={"n": 1}), Utterance("b", extra={"n": "x"})], "column 'n'"),
        ([replace(FULL, features={"file": "x"})], "features with keys"),
    ],
    ids=["duplicates", "clash", "mixed types", "feature keys"],
)
def test_rows_that_cannot_be_written_leave_no_file(
    tmp_path: Path, rows: list[Utterance], message: str
) -> None:
    with pytest.raises(ManifestError, match=message):
        write_manifest(tmp_path / "rows.parquet", rows)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.parquet"
    write_manifest(path, [FULL])

    def full_disk(table: object, where: Path) -> None:
        Path(where).write_bytes(b"PAR1")
        raise OSError(28, "No space left on device", str(where))

    monkeypatch.setattr(pq, "write_table", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_manifest(path, [Utterance("other", audio="x")])
    assert read_manifest(path) == [FULL]
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows.parquet"]


def test_digest_depends_on_every_value_and_not_on_the_file(tmp_path: Path) -> None:
    rows = [FULL, Utterance(id="b", audio="x")]
    write_manifest(tmp_path / "one.parquet", rows)
    assert manifest_digest(tmp_path / "one.parquet") == manifest_digest(rows)
    assert len(manifest_digest(rows)) == 16
    others = [
        [FULL],
        rows[::-1],
        [FULL, Utterance(id="b", audio="y")],
        [FULL, Utterance(id="b", audio="x", extra={"k": 1})],
    ]
    assert len({manifest_digest(other) for other in [rows, *others]}) == 5
