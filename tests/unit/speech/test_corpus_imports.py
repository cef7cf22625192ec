"""Importers of published corpora, on small trees in their real layouts, through `prepare`."""

from pathlib import Path
from typing import Any

import pytest
import soundfile
from corpus_trees import covost, europarl, parallel, write

from kd_ray.commands.prepare import Prepared, UnusableCorpus, prepare
from kd_ray.config.commands import PrepareConfig
from kd_ray.config.load import check_as
from kd_ray.speech.audio import read_waveform
from kd_ray.speech.corpora.tables import CorpusError, read_lines, read_parallel, read_table
from kd_ray.speech.manifest import Utterance, read_manifest

WORDS = {"unit": "words", "column": "translation"}


def run(root: Path, corpus: dict[str, Any], **changes: Any) -> Prepared:
    content = {"command": "prepare", "folder": "out", "corpus": corpus, "tokens": WORDS, **changes}
    return prepare(check_as(PrepareConfig, content, "test"), root)


def rows_of(prepared: Prepared, split: str) -> list[Utterance]:
    return read_manifest(prepared.manifests[split])


# -- tables ----------------------------------------------------------------------------------


def test_the_last_line_counts_with_and_without_an_end(tmp_path: Path) -> None:
    for end in ("\n", "", "\r\n"):
        write(tmp_path / "x", "a", "b\u2028c\x85d", "", "e", end=end)
        assert read_lines(tmp_path / "x") == ["a", "b\u2028c\x85d", "", "e"]
    write(tmp_path / "y", "1", "2", "3")
    with pytest.raises(CorpusError, match=r"x has 4, .*y has 3"):
        read_parallel(tmp_path / "x", tmp_path / "y")
    with pytest.raises(CorpusError, match="no file at"):
        read_lines(tmp_path / "none")


def test_tables_go_by_the_names_of_their_columns(tmp_path: Path) -> None:
    write(
        tmp_path / "t.tsv",
        "\tb\ta",
        '0\t"quoted"\tone\\\ttab',
        "1\ttwo \\\\ bars\tline\\",
        "end",
        "2\tshort",
        "",
        "3\tx\ty\tz",
        end="",
    )
    rows = read_table(tmp_path / "t.tsv", ["a", "b"], escape="\\")
    assert [row.line for row in rows] == [2, 3, 5, 7]
    assert rows[0].values == {"": "0", "b": '"quoted"', "a": "one\ttab"}
    assert rows[1].values == {"": "1", "b": "two \\ bars", "a": "line\nend"}
    assert [row.fault for row in rows[:2]] == [None, None]
    assert rows[2].fault == "line 5 has 2 fields, the header 3"
    assert rows[3].fault == "line 7 has 4 fields, the header 3"
    with pytest.raises(CorpusError, match=r"lacks the columns \['c'\]"):
        read_table(tmp_path / "t.tsv", ["c"])
    (raw, *_) = read_table(tmp_path / "t.tsv", ["a"])
    assert raw.values["a"] == "one\\"


# -- parallel text ---------------------------------------------------------------------------


def test_parallel_text_becomes_text_only_rows(tmp_path: Path) -> None:
    corpus = parallel(tmp_path)
    with pytest.raises(CorpusError, match=r"train\.en has 2, .*train\.de has 3"):
        run(tmp_path, corpus)
    write(tmp_path / "text" / "train.en", "a b", "c", "", "")
    write(tmp_path / "text" / "train.de", "A B", " C ", "leer", "")
    further = {"source": {"unit": "characters", "column": "transcript"}}
    with pytest.raises(UnusableCorpus, match=r"(?s)row 2, train-00000003: .*transcript is empty"):
        run(tmp_path, corpus, inventories=further)
    prepared = run(tmp_path, corpus, inventories=further, on_bad_row="skip")
    first, second = rows_of(prepared, "train")
    assert (first.id, first.transcript, first.translation) == ("train-00000001", "a b", "A B")
    assert (second.translation, second.audio, second.target_language) == ("C", None, "de")
    assert prepared.counts["train"]["empty transcript"] == 2
    assert prepared.inventories["source"].name == "tokens_source.json"


# -- Europarl-ST -----------------------------------------------------------------------------


def test_europarl_segments_keep_their_texts_times_and_speakers(tmp_path: Path) -> None:
    corpus = europarl(tmp_path)
    rows = rows_of(run(tmp_path, corpus), "train")
    assert [row.id for row in rows] == ["en.20080904.11_0", "en.20080903.2_1", "en.20080903.2_0"]
    assert [row.transcript for row in rows] == ["train 0", "train 1", "train 2"]
    assert [row.speaker for row in rows] == ["MEP_7", "MEP_9", "MEP_9"]
    assert (rows[2].audio, rows[2].offset_s) == ("v1.1/en/audios/en.20080903.2.wav", 0.25)
    whole, _ = soundfile.read(tmp_path / rows[2].audio, dtype="int16")
    assert (read_waveform(rows[2], tmp_path) == whole[4000:24000]).all()
    noisy = rows_of(run(tmp_path, {**corpus, "noisy": True}), "train")
    assert [row.domain for row in noisy] == ["clean"] * 3 + ["noisy"]
    assert noisy[3].id == "noisy_en.20080903.2_0"


def test_europarl_faults_are_reported_by_row(tmp_path: Path) -> None:
    corpus = europarl(tmp_path)
    folder = tmp_path / "v1.1" / "en" / "de" / "train"
    write(folder / "segments.lst", "en.20080904.11 1.5", "en.1.1 0.0 1.0", "en.20080903.2 2.5 4.0")
    with pytest.raises(UnusableCorpus) as caught:
        run(tmp_path, corpus)
    report = str(caught.value)
    assert "row 0, line_0: " in report
    assert "segments.lst line 1: 'en.20080904.11 1.5' is not a segment" in report
    assert "row 1, en.1.1_0: no recording of en.1.1" in report
    assert "row 2, en.20080903.2_0" in report
    assert "the segment ends at 4.000 s" in report
    write(folder / "speakers.lst", "MEP_7")
    with pytest.raises(CorpusError, match="wrong speeches"):
        run(tmp_path, corpus)
    for path in (tmp_path / "v1.1" / "en" / "audios").iterdir():
        path.rename(path.with_name(path.name.replace(".wav", ".m4a")))
    with pytest.raises(CorpusError, match="ffmpeg"):
        run(tmp_path, corpus)


# -- CoVoST 2 --------------------------------------------------------------------------------


def test_covost_is_joined_by_clip_not_by_text(tmp_path: Path) -> None:
    corpus = covost(tmp_path)
    prepared = run(tmp_path, corpus)
    first, second = rows_of(prepared, "train")
    assert (first.id, first.translation, first.speaker) == ("common_voice_en_1", "eins", "c1")
    assert first.audio == "cv/en/clips/common_voice_en_1.wav"
    assert (second.id, second.transcript) == ("common_voice_en_0", "same words")
    assert second.duration_s == 0.5
    assert prepared.counts["train"]["repeated transcript"] == 1
    assert prepared.rows == {"train": 2, "valid": 1, "test": 1}


def test_covost_split_tables_carry_everything(tmp_path: Path) -> None:
    corpus = covost(tmp_path)
    (tmp_path / "cv" / "en" / "validated.tsv").unlink()
    for split, number in (("train", 0), ("dev", 2), ("test", 3)):
        write(
            tmp_path / "covost" / f"covost_v2.en_de.{split}.tsv",
            "client_id\ttranslation\tsentence\tpath",
            f"c\teins\tsay \\\\ it\tcommon_voice_en_{number}.mp3",
        )
    (row,) = rows_of(run(tmp_path, corpus), "train")
    assert (row.id, row.transcript, row.translation) == ("common_voice_en_0", "say \\ it", "eins")


def test_covost_reports_clips_without_sentence_or_file(tmp_path: Path) -> None:
    corpus = covost(tmp_path)
    (tmp_path / "cv" / "en" / "clips" / "common_voice_en_1.wav").unlink()
    write(
        tmp_path / "cv" / "en" / "validated.tsv",
        "path\tsentence\tclient_id",
        *[f"common_voice_en_{number}.mp3\tsame words\tc" for number in range(1, 4)],
    )
    with pytest.raises(UnusableCorpus) as caught:
        run(tmp_path, corpus)
    assert "common_voice_en_1.mp3: no such file" in str(caught.value)
    assert "row 1, common_voice_en_0: common_voice_en_0.mp3 is not in validated.tsv" in str(
        caught.value
    )
    with pytest.raises(CorpusError, match=r"no file at .*covost/validated\.tsv"):
        run(tmp_path, {**corpus, "common_voice": "covost"})


# -- filters ---------------------------------------------------------------------------------


def test_long_training_utterances_are_left_out_and_counted(tmp_path: Path) -> None:
    prepared = run(tmp_path, europarl(tmp_path), max_train_duration_s=1.0)
    assert prepared.rows == {"train": 2, "valid": 1, "test": 1}
    assert prepared.counts["train"]["longer than max_train_duration_s"] == 1
    with pytest.raises(UnusableCorpus, match="every training utterance"):
        run(tmp_path, europarl(tmp_path), max_train_duration_s=0.1)


def test_inventories_of_unknown_splits_are_refused(tmp_path: Path) -> None:
    more = {"x": {"unit": "words", "column": "transcript", "splits": ["text_only"]}}
    with pytest.raises(UnusableCorpus, match=r"inventories\.x\.splits names \['text_only'\]"):
        run(tmp_path, europarl(tmp_path), inventories=more)
