"""MuST-C and TED-LIUM through lhotse's recipes, on small trees in their real layouts."""

import sys
from pathlib import Path

import corpus_trees
import numpy as np
import pytest
import soundfile
from corpus_trees import write, write_sound
from test_corpus_imports import rows_of, run

from kd_ray.speech.audio import read_waveform
from kd_ray.speech.corpora.lhotse_cuts import LhotseError
from kd_ray.speech.corpora.tables import CorpusError

MUST_C = {"type": "must_c", "folder": "must-c"}
TED = {"type": "tedlium", "folder": "ted"}
TRANSCRIPTS = {"unit": "words", "column": "transcript"}


@pytest.fixture
def must_c(tmp_path: Path) -> Path:
    corpus_trees.must_c(tmp_path)
    return tmp_path


def test_must_c_has_both_languages_by_segment(must_c: Path) -> None:
    pytest.importorskip("lhotse")
    prepared = run(must_c, MUST_C)
    assert prepared.rows == {"train": 4, "valid": 4, "test": 4, "test_he": 4}
    rows = {row.id: row for row in rows_of(prepared, "train")}
    assert {name: (row.transcript, row.translation) for name, row in rows.items()} == {
        "ted_22-seg-0": ("same", "gleich"),
        "ted_22-seg-1": ("same", "eben"),
        "ted_1-seg-0": ("so what", "na und"),
        "ted_1-seg-1": ("bye", "gleich"),
    }
    row = rows["ted_22-seg-0"]
    assert row.audio == "must-c/en-de/data/train/wav/ted_22.wav"
    assert (row.source_language, row.target_language, row.speaker) == ("en", "de", "spk.22")
    whole, _ = soundfile.read(must_c / row.audio, dtype="int16")
    assert np.array_equal(read_waveform(row, must_c), whole[8000:28000])


def test_must_c_segments_outside_their_recording_are_counted(must_c: Path) -> None:
    pytest.importorskip("lhotse")
    folder = must_c / "must-c" / "en-de" / "data" / "train"
    write_sound(folder / "wav" / "ted_1.wav", 0.9)
    prepared = run(must_c, MUST_C)
    assert [row.transcript for row in rows_of(prepared, "train")] == ["same", "same", "so what"]
    assert prepared.counts["train"]["outside their recording, by lhotse's recipe"] == 1
    write(folder / "txt" / "train.en", "same")
    with pytest.raises(CorpusError, match=r"train\.en has 1 lines, train\.yaml 4 segments"):
        run(must_c, MUST_C)


def test_tedlium_has_transcripts(tmp_path: Path) -> None:
    pytest.importorskip("lhotse")
    for split in ("train", "dev", "test"):
        folder = tmp_path / "ted" / "legacy" / split
        samples = np.random.default_rng(0).integers(-999, 999, 32000).astype(np.int16)
        (folder / "sph").mkdir(parents=True)
        soundfile.write(folder / "sph" / "Al_2008.sph", samples, 16000, format="NIST")
        write(
            folder / "stm" / "Al_2008.stm",
            "Al_2008 1 Al_2008 0.00 0.25 <o,f0,male> ignore_time_segment_in_scoring",
            "Al_2008 1 Al_2008 0.25 1.00 <o,f0,male> hello there",
            "Al_2008 1 Al_2008 1.00 1.75 <o,f0,male> there {NOISE}",
        )
    first, second = rows_of(run(tmp_path, TED, tokens=TRANSCRIPTS), "train")
    assert (first.transcript, second.transcript) == ("hello there", "there [NOISE]")
    assert (first.source_language, first.speaker, first.translation) == ("en", "Al_2008", None)
    assert (first.offset_s, first.duration_s) == (0.25, 0.75)
    assert len(read_waveform(first, tmp_path)) == 12000


@pytest.mark.parametrize("corpus", [MUST_C, TED], ids=["must_c", "tedlium"])
def test_other_folders_are_named(tmp_path: Path, corpus: dict[str, str]) -> None:
    pytest.importorskip("lhotse")
    with pytest.raises(CorpusError, match=r"could not read .*must be the unpacked release"):
        run(tmp_path, corpus)


def test_recipes_need_lhotse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lhotse.recipes.must_c", None)
    with pytest.raises(LhotseError, match=r"pip install kd-ray\[lhotse\]"):
        run(tmp_path, MUST_C)
