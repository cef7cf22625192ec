"""Joining by id: duplicates of a text, other orders and last lines must not matter."""

from pathlib import Path

import pytest

from kd_ray.speech.joining import (
    JoinError,
    drawn,
    read_generate_log,
    replace_column,
    without,
)
from kd_ray.speech.manifest import Utterance, read_manifest, write_manifest

ROWS = [
    Utterance("a", transcript="yes", translation="ja", extra={"take": 1}),
    Utterance("b", transcript="yes", translation="jawohl"),
    Utterance("c", transcript="no", translation="nein"),
    Utterance("d", translation="doch"),
]


def test_rows_with_equal_texts_get_their_own_new_ones() -> None:
    texts = {"c": "nope", "b": "yeah", "a": "yep", "z": "?"}
    joined = replace_column(ROWS, texts, "transcript", keep_old_as="gold_transcript")
    assert [row.transcript for row in joined.rows] == ["yep", "yeah", "nope", None]
    assert [row.extra.get("gold_transcript") for row in joined.rows] == ["yes", "yes", "no", None]
    assert joined.rows[0].extra["take"] == 1
    assert [row.translation for row in joined.rows] == [row.translation for row in ROWS]
    assert (joined.replaced, joined.missing, joined.empty, joined.unused) == (3, ("d",), (), ("z",))
    assert "3 of 4 rows replaced" in str(joined)


def test_missing_texts_keep_the_old_and_empty_ones_are_named(tmp_path: Path) -> None:
    joined = replace_column(ROWS, {"a": " ", "b": "x"}, "translation", keep_old_as="gold")
    assert [row.translation for row in joined.rows] == [" ", "x", "nein", "doch"]
    assert [row.extra["gold"] for row in joined.rows] == ["ja", "jawohl", "nein", "doch"]
    assert (joined.missing, joined.empty) == (("c", "d"), ("a",))
    assert [row.id for row in without(joined.rows, joined.empty)] == ["b", "c", "d"]
    again = replace_column(joined.rows, {"b": "y"}, "translation", keep_old_as="gold")
    assert again.rows[1].translation == "y"
    assert again.rows[1].extra["gold"] == "jawohl"
    write_manifest(tmp_path / "new.parquet", again.rows)
    assert read_manifest(tmp_path / "new.parquet")[1] == again.rows[1]


def test_texts_of_other_rows_are_refused() -> None:
    with pytest.raises(JoinError, match=r"named like 'a', texts like '17'"):
        replace_column(ROWS, {"17": "x"}, "transcript")
    with pytest.raises(JoinError, match="1 rows repeat an id"):
        replace_column([*ROWS, ROWS[0]], {"a": "x"}, "transcript")
    with pytest.raises(JoinError, match="'speaker' is a known column"):
        replace_column(ROWS, {"a": "x"}, "transcript", keep_old_as="speaker")


def test_a_mix_depends_on_seed_and_id_alone() -> None:
    names = [f"u{number}" for number in range(2000)]
    made = dict.fromkeys(names, "made")

    def chosen(share: float, seed: int = 1, texts: dict[str, str] = made) -> set[str]:
        return set(drawn(texts, share=share, seed=seed))

    assert abs(len(chosen(0.3)) - 600) < 80
    assert chosen(0.3) < chosen(0.6)
    assert chosen(0.3, texts=dict.fromkeys(names[::-1], "made")) == chosen(0.3)
    assert chosen(0.3, seed=2) != chosen(0.3)
    assert (len(chosen(0.0)), len(chosen(1.0))) == (0, 2000)
    assert drawn({"a": "", "b": " ", "c": "no"}, share=1.0, seed=1) == {"c": "no"}
    with pytest.raises(JoinError, match="share"):
        drawn(made, share=1.5, seed=1)


LOG = """2023-01-01 00:00:00 | INFO | fairseq_cli.generate | loading
S-2\tthree
T-2\tdrei .
H-2\t-0.25\tdr@@ ei .
D-2\t-0.25\tdrei.
P-2\t-0.1 -0.4
H-2\t-0.75\tzwei .
D-2\t-0.75\tzwei.
T-0\teins\u2028.
H-0\t-1e-3\t
D-0\t-1e-3
S-3\tfour
T-3\tvier
H-3\t-0.5\tvier\tneu
D-3\t-0.5\tvier neu
Generate test with beam=5: BLEU4 = 1.0"""


def test_a_log_is_joined_by_number_whatever_its_order(tmp_path: Path) -> None:
    path = tmp_path / "generate-test.txt"
    path.write_text(LOG, encoding="utf-8")
    log = read_generate_log(path)
    ids = ["u0", "u1", "u2", "u3"]
    assert log.texts(ids) == {"u0": "", "u2": "drei.", "u3": "vier neu"}
    assert log.texts(ids, "H") == {"u0": "", "u2": "dr@@ ei .", "u3": "vier\tneu"}
    assert log.texts(ids, "S") == {"u2": "three", "u3": "four"}
    rows = [Utterance(name, translation="alt") for name in ids]
    joined = replace_column(rows, log.texts(ids), "translation")
    assert (joined.replaced, joined.missing, joined.empty) == (3, ("u1",), ("u0",))
    references = {"u0": "Eins", "u1": "zwei", "u2": "Drei!", "u3": "fünf"}
    assert log.disagreeing(references, ids) == ("u3",)
    with pytest.raises(JoinError, match="sentence 3, the data set 3 rows"):
        log.texts(ids[:3])
    with pytest.raises(JoinError, match="1 ids of the data set are repeated"):
        log.texts(["u0", "u0", "u2", "u3"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing", "no H- or D- lines"),
        ("H-0\tno score here", "no score"),
        ("T-0\ta\nH-0\t-1\tb\nT-0\ta\nH-0\t-1\tb", "sentence 0 twice"),
    ],
)
def test_other_logs_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "log").write_text(text)
    with pytest.raises(JoinError, match=message):
        read_generate_log(tmp_path / "log")
    with pytest.raises(JoinError, match="cannot be read"):
        read_generate_log(tmp_path / "none")


def test_a_log_without_a_kind_of_line_says_so(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("H-0\t-1\tb")
    with pytest.raises(JoinError, match="no D- lines: set `log_lines: H`"):
        read_generate_log(tmp_path / "log").texts(["a"])
    with pytest.raises(JoinError, match="no S- lines; was fairseq-generate run with --quiet"):
        read_generate_log(tmp_path / "log").texts(["a"], "S")
