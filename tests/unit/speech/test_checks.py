"""Row checks: every fault of every row in one report, and nothing else."""

import logging
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_ray.config.data import AudioChecks
from kd_ray.speech.checks import (
    BadRow,
    BadRowsError,
    check_rows,
    ctc_frames_needed,
    good_rows,
    report,
)
from kd_ray.speech.manifest import Utterance
from kd_ray.speech.tokens import Tokens

TOKENS = Tokens.train(["a b c"], "phones")


def _frames(duration_s: float) -> int:
    return int(duration_s * 25)


def _check(
    rows: list[Utterance],
    root: Path,
    *,
    tokens: Tokens | None = TOKENS,
    read_audio: bool = False,
    needs_audio: bool = True,
    unlabelled: bool = False,
) -> list[BadRow]:
    return check_rows(
        rows,
        root=root,
        tokens=tokens,
        column=None if unlabelled else "phones",
        checks=AudioChecks(min_duration_s=0.1, max_duration_s=2.0),
        frames_for=_frames,
        read_audio=read_audio,
        needs_audio=needs_audio,
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).normal(0, 0.1, 16000 * 3)
    soundfile.write(tmp_path / "good.wav", noise[:16000], 16000)
    soundfile.write(tmp_path / "short.wav", noise[:800], 16000)
    soundfile.write(tmp_path / "long.flac", noise, 16000)
    soundfile.write(tmp_path / "empty.wav", noise[:0], 16000)
    noise[5] = np.nan
    soundfile.write(tmp_path / "nan.wav", noise[:16000], 16000, subtype="FLOAT")
    (tmp_path / "text.wav").write_text("not audio at all")
    return tmp_path


GOOD = Utterance("good", audio="good.wav", duration_s=1.0, phones="a b c")

BAD = {
    "missing file": (replace(GOOD, audio="none.wav"), "no such file"),
    "unreadable": (replace(GOOD, audio="text.wav"), "cannot be read"),
    "empty audio": (replace(GOOD, audio="empty.wav"), "no samples"),
    "too short": (
        replace(GOOD, audio="short.wav", duration_s=None, phones="a"),
        "too short: 0.050 s, at least 0.1 s",
    ),
    "too long": (replace(GOOD, audio="long.flac", duration_s=None), "too long: 3.000 s"),
    "duration mismatch": (replace(GOOD, duration_s=1.2), "ends at 1.200 s, the file at 1.000 s"),
    "channel": (replace(GOOD, channel=1), "channel 1"),
    "no audio": (replace(GOOD, audio=None), "text only"),
    "features only": (replace(GOOD, audio=None, features={"path": "x"}), "imported features"),
    "missing text": (replace(GOOD, phones=None), "missing text: phones is null"),
    "zero-length target": (replace(GOOD, phones="  "), "zero-length target"),
    "unknown symbols": (replace(GOOD, phones="a x b y"), "unknown phones in phones: 'x', 'y'"),
    "too many labels": (replace(GOOD, phones="a b " * 13), "26 labels need 26 frames"),
    "repeats need blanks": (
        replace(GOOD, phones="a " * 14),
        "14 labels need 27 frames, the encoder has 25",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_each_fault_is_found_by_its_row(root: Path, kind: str) -> None:
    row, message = BAD[kind]
    for read_audio in (False, True):
        bad = _check([GOOD, replace(row, id="bad")], root, read_audio=read_audio)
        assert [(fault.id, fault.row) for fault in bad] == [("bad", 1)]
        assert message in bad[0].reason


def test_nan_is_found_only_where_audio_is_read(root: Path) -> None:
    row = replace(GOOD, audio="nan.wav")
    assert _check([row], root) == []
    (bad,) = _check([row], root, read_audio=True)
    assert "1 of 16000 samples are NaN" in bad.reason


def test_a_target_that_just_fits_is_good(root: Path) -> None:
    assert _check([replace(GOOD, phones="a " * 13)], root) == []
    assert _check([replace(GOOD, phones="a b " * 12 + "a")], root) == []


def test_duplicate_ids_name_the_first_row(root: Path) -> None:
    bad = _check([GOOD, replace(GOOD, id="other"), GOOD, GOOD], root)
    assert [(fault.row, fault.reason) for fault in bad] == [
        (2, "duplicate id, first at row 0"),
        (3, "duplicate id, first at row 0"),
    ]


def test_one_report_holds_all_rows_and_all_their_faults(root: Path) -> None:
    rows = [replace(row, id=kind) for kind, (row, _) in BAD.items()]
    worst = replace(GOOD, id="worst", audio="none.wav", phones="x")
    bad = _check([GOOD, *rows, worst, worst], root)
    text = str(BadRowsError(bad, "manifest train.parquet"))
    for kind, (_, message) in BAD.items():
        (line,) = [line for line in text.splitlines() if f", {kind}: " in line]
        assert message in line
    assert f"manifest train.parquet: {len(BAD) + 2} bad rows, {len(BAD) + 5} faults" in text
    assert "on_bad_row: skip" in text
    assert [fault.row for fault in bad] == sorted(fault.row for fault in bad)


def test_unlabelled_and_text_only_rows_can_be_allowed(root: Path) -> None:
    assert _check([replace(GOOD, phones=None)], root, unlabelled=True) == []
    text_only = Utterance("t", phones="a b")
    assert _check([text_only], root, needs_audio=False) == []
    assert len(_check([replace(text_only, phones="x")], root, needs_audio=False)) == 1


def test_without_tokens_only_the_presence_of_text_is_checked(root: Path) -> None:
    assert _check([replace(GOOD, phones="anything")], root, tokens=None) == []
    assert len(_check([replace(GOOD, phones="")], root, tokens=None)) == 1


def test_good_rows_fail_or_skip(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [GOOD, replace(GOOD, id="b", phones="x"), GOOD]
    bad = _check(rows, root)
    with pytest.raises(BadRowsError, match="2 bad rows, 2 faults") as caught:
        good_rows(rows, bad, on_bad_row="fail")
    assert caught.value.bad_rows == tuple(bad)
    with caplog.at_level(logging.WARNING):
        assert good_rows(rows, bad, on_bad_row="skip") == [GOOD]
    assert report(bad) in caplog.text
    with pytest.raises(BadRowsError, match="no good row is left"):
        good_rows(rows[1:2], [replace(bad[0], row=0)], on_bad_row="skip")
    assert good_rows([GOOD], [], on_bad_row="fail") == [GOOD]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 2), max_size=8))
def test_frames_needed_are_the_shortest_path_of_the_labels(labels: list[int]) -> None:
    # The shortest path, written out: a blank (-1) between equal neighbours.
    path: list[int] = []
    for label in labels:
        if path and path[-1] == label:
            path.append(-1)
        path.append(label)
    assert ctc_frames_needed(labels) == len(path)


def test_headers_of_a_thousand_rows_are_checked_quickly(root: Path) -> None:
    noise = np.random.default_rng(0).integers(-999, 999, 8000).astype(np.int16)
    rows = []
    for number in range(1000):
        soundfile.write(root / f"{number}.wav", noise, 16000)
        rows.append(Utterance(str(number), audio=f"{number}.wav", duration_s=0.5, phones="a b c"))
    # What this process computes, with all of its threads: others share the machine.
    start = time.process_time()
    assert _check(rows, root) == []
    assert time.process_time() - start < 3


def test_a_fault_of_many_rows_is_one_line_and_the_others_stay_apart() -> None:
    bad = [BadRow(f"u{row}", "missing text: phones is null", row) for row in range(60)]
    text = report([*bad, BadRow("u3", "empty audio", 3)])
    assert text.splitlines() == [
        "60 bad rows, 61 faults",
        "  60 rows, from row 0, u0, to row 59, u59: missing text: phones is null",
        "  row 3, u3: empty audio",
    ]
    assert report(bad[:1]).startswith("1 bad row, 1 fault\n  row 0, u0: ")
