"""fairseq speech-to-text data: features as they lie on disk, texts by column name."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml
from corpus_trees import write, write_sound
from numpy.typing import NDArray
from test_corpus_imports import rows_of
from test_corpus_imports import run as run_any
from torchaudio.compliance import kaldi

from kd_ray.commands.prepare import Prepared, UnusableCorpus
from kd_ray.config.data import AudioChecks, LogMel
from kd_ray.speech.audio import read_waveform
from kd_ray.speech.checks import ANY_FRONT_END, check_rows
from kd_ray.speech.corpora.fairseq_s2t import read_ids
from kd_ray.speech.corpora.tables import CorpusError
from kd_ray.speech.features import LogMelExtractor, front_end_digest
from kd_ray.speech.imported_features import (
    FeaturesError,
    front_end_fault,
    read_features,
    read_features_header,
)
from kd_ray.speech.joining import read_generate_log, replace_column
from kd_ray.speech.manifest import Utterance, manifest_digest
from kd_ray.speech.tokens import Tokens, TokensError

CORPUS = {
    "type": "fairseq_s2t",
    "folder": "s2t",
    "config": "config_st.yaml",
    "train": "train_st",
    "valid": "dev_st.tsv",
}
FRONT_END = LogMel(num_mels=80, high_hz=8000.0, snip_edges=True)
CHARACTERS = {"unit": "characters", "column": "translation"}
SAMPLES = {"u0": 8000, "u1": 4000, "u2": 16000, "u3": 5000}


def run(root: Path, corpus: dict[str, Any], **changes: Any) -> Prepared:
    return run_any(root, corpus, **{"tokens": CHARACTERS, **changes})


def waveform(name: str) -> NDArray[np.int16]:
    noise = np.random.default_rng(SAMPLES[name]).integers(-3000, 3000, SAMPLES[name])
    return noise.astype(np.int16)


def fairseq_features(name: str) -> NDArray[np.float32]:
    """As fairseq computes them where torchaudio is installed: Kaldi's defaults without dither."""
    samples = torch.from_numpy(waveform(name).astype(np.float32))[None]
    features = kaldi.fbank(samples, num_mel_bins=80, sample_frequency=16000.0)
    return np.asarray(features.numpy(), dtype=np.float32)


def n_frames(name: str) -> int:
    return int(1 + (int(SAMPLES[name] / 16000 * 1000) - 25) / 10)


@pytest.fixture
def places(tmp_path: Path) -> dict[str, str]:
    """`audio` of each utterance; the tree is written."""
    folder = tmp_path / "s2t"
    folder.mkdir()
    with zipfile.ZipFile(folder / "fbank80.zip", "w", zipfile.ZIP_STORED) as archive:
        for name in SAMPLES:
            np.save(folder / f"{name}.npy", fairseq_features(name))
            archive.write(folder / f"{name}.npy", arcname=f"{name}.npy")
    places = {}
    with zipfile.ZipFile(folder / "fbank80.zip") as archive:
        for info in archive.infolist():
            offset = info.header_offset + 30 + len(info.filename)
            # The archive was packed elsewhere and moved.
            place = f"/elsewhere/data/fbank80.zip:{offset}:{info.file_size}"
            places[info.filename.removesuffix(".npy")] = place
    config = {
        "bpe_tokenizer": {"bpe": "sentencepiece", "sentencepiece_model": "spm.model"},
        "input_channels": 1,
        "input_feat_per_channel": 80,
        "transforms": {"*": ["utterance_cmvn"], "_train": ["utterance_cmvn", "specaugment"]},
        "vocab_filename": "spm.txt",
    }
    (folder / "config_st.yaml").write_text(yaml.dump(config))
    write_tables(folder, places)
    return places


def write_tables(folder: Path, places: dict[str, str], order: str = "") -> None:
    columns = ["id", "audio", "n_frames", "tgt_text", "src_text", "speaker"]
    texts = {
        "u0": ("Er sagte \\\\ja.", "He said yes."),
        "u1": ('"Nein"', "No"),
        "u2": ("Er sagte Nein", "He said no."),
        "u3": ('"Er sagte ""ja."""', "He said yes."),
    }
    for table, names in (("train_st", ("u0", "u1", "u2")), ("dev_st", ("u3",))):
        lines = []
        for name in names:
            target, source = texts[name]
            values = dict(
                zip(
                    columns,
                    [name, places[name], str(n_frames(name)), target, source, f"spk.{name}"],
                    strict=True,
                )
            )
            lines.append("\t".join(values[column] for column in order.split() or columns))
        write(folder / f"{table}.tsv", "\t".join(order.split() or columns), *lines, end="")


def test_stored_features_are_taken_as_they_are(tmp_path: Path, places: dict[str, str]) -> None:
    rows = rows_of(run(tmp_path, CORPUS), "train")
    assert [row.id for row in rows] == ["u0", "u1", "u2"]
    for row in rows:
        assert row.audio is None
        assert np.array_equal(read_features(row, tmp_path), fairseq_features(row.id))
        assert read_features_header(row, tmp_path).frames == n_frames(row.id)
    assert [row.translation for row in rows] == ["Er sagte \\ja.", '"Nein"', "Er sagte Nein"]
    assert rows[2].transcript == "He said no."
    assert rows[2].speaker == "spk.u2"
    (valid,) = rows_of(run(tmp_path, CORPUS), "valid")
    assert valid.translation == 'Er sagte "ja."'


def test_columns_may_stand_in_any_order(tmp_path: Path, places: dict[str, str]) -> None:
    first = run(tmp_path, CORPUS).manifests["train"]
    digest = manifest_digest(first)
    write_tables(tmp_path / "s2t", places, "speaker src_text tgt_text audio n_frames id")
    assert manifest_digest(run(tmp_path, CORPUS).manifests["train"]) == digest


def test_the_declared_front_end_makes_the_same_features(
    tmp_path: Path, places: dict[str, str]
) -> None:
    row = rows_of(run(tmp_path, CORPUS), "train")[2]
    extractor = LogMelExtractor(FRONT_END)
    again, _ = extractor([waveform("u2")])
    assert np.array_equal(again[0].numpy(), read_features(row, tmp_path))
    assert front_end_fault(row, front_end_digest(FRONT_END)) is None
    assert "corpus.front_end" in str(front_end_fault(row, front_end_digest(LogMel(num_mels=80))))
    assert row.duration_s is not None
    assert extractor.num_frames(round(row.duration_s * 16000)) == n_frames("u2")


def test_logs_are_counted_in_the_table_not_in_the_manifest(
    tmp_path: Path, places: dict[str, str]
) -> None:
    write_tables(tmp_path / "s2t", {**places, "u0": "gone.npy"})
    rows = rows_of(run(tmp_path, CORPUS, on_bad_row="skip"), "train")
    ids = read_ids(tmp_path / "s2t" / "train_st.tsv")
    assert ([row.id for row in rows], ids) == (["u1", "u2"], ["u0", "u1", "u2"])
    (tmp_path / "log").write_text("D-1\t-0.5\tnein\nD-0\t-0.5\tja")
    joined = replace_column(rows, read_generate_log(tmp_path / "log").texts(ids), "translation")
    assert [row.translation for row in joined.rows] == ["nein", "Er sagte Nein"]
    assert (joined.replaced, joined.missing, joined.unused) == (1, ("u2",), ("u0",))


def test_recognition_tables_fill_the_transcript(tmp_path: Path, places: dict[str, str]) -> None:
    corpus = {**CORPUS, "target_column": "transcript"}
    tokens = {"unit": "characters", "column": "transcript"}
    (first, *_) = rows_of(run(tmp_path, corpus, tokens=tokens), "train")
    assert (first.transcript, first.translation) == ("Er sagte \\ja.", None)


def test_every_broken_row_is_reported(tmp_path: Path, places: dict[str, str]) -> None:
    archive, offset, size = places["u1"].split(":")
    broken = {
        **places,
        "u0": f"{archive}:{int(offset) + 1}:{size}",
        "u1": f"{archive}:{offset}:99999999",
        "u2": places["u1"],
    }
    write_tables(tmp_path / "s2t", broken)
    path = tmp_path / "s2t" / "train_st.tsv"
    path.write_text(path.read_text() + "\nu9\ttoo short\nu0\tx.mp4\t1\tEr\tHe\tspk")
    with pytest.raises(UnusableCorpus) as caught:
        run(tmp_path, CORPUS)
    report = str(caught.value)
    for expected in (
        "row 0, u0: features s2t/fbank80.zip at",
        "no npy array",
        "row 1, u1: features s2t/fbank80.zip at",
        f"row 2, u2: n_frames is '{n_frames('u2')}' in the table, {n_frames('u1')} in the",
        "row 3, u9: line 5 has 2 fields, the header 6",
        "row 4, u0: duplicate id, first at row 0",
        "'x.mp4' is neither npy, sound nor file.zip:offset:size",
    ):
        assert expected in report


def test_plain_npy_and_sound_are_read_too(tmp_path: Path, places: dict[str, str]) -> None:
    write_sound(tmp_path / "s2t" / "long.wav", 2.0)
    more = {**places, "u0": "u0.npy", "u1": "long.wav:8000:16000", "u2": "long.wav"}
    write_tables(tmp_path / "s2t", more)
    rows = rows_of(run(tmp_path, CORPUS), "train")
    assert np.array_equal(read_features(rows[0], tmp_path), fairseq_features("u0"))
    whole, _ = soundfile.read(tmp_path / "s2t" / "long.wav", dtype="int16")
    assert np.array_equal(read_waveform(rows[1], tmp_path), whole[8000:24000])
    assert (rows[2].features, rows[2].duration_s) == (None, 2.0)


def test_other_dimensions_and_settings_are_refused(tmp_path: Path, places: dict[str, str]) -> None:
    with pytest.raises(CorpusError, match=r"80 dimensions, corpus\.front_end makes 40"):
        run(tmp_path, {**CORPUS, "front_end": {"num_mels": 40}})
    with pytest.raises(CorpusError, match="no data configuration"):
        run(tmp_path, {**CORPUS, "config": "none.yaml"})
    (tmp_path / "s2t" / "config_st.yaml").write_text("a: [")
    with pytest.raises(CorpusError, match="is not YAML"):
        run(tmp_path, CORPUS)


# -- features --------------------------------------------------------------------------------


def row_for(path: Path, **piece: int) -> Utterance:
    return Utterance("u", duration_s=1.0, phones="a", features={"path": path.name, **piece})


BROKEN: dict[str, tuple[Any, str]] = {
    "integers": (np.zeros((3, 2), np.int64), "expected floats"),
    "a vector": (np.zeros(3, np.float32), "expected floats"),
    "no frame": (np.zeros((0, 80), np.float32), "expected floats"),
    "NaN": (np.full((3, 2), np.nan, np.float32), "6 numbers are NaN or infinite"),
    "objects": (np.array([["a", None]], object), "expected floats"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_unusable_arrays_are_named(tmp_path: Path, kind: str) -> None:
    array, message = BROKEN[kind]
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    with pytest.raises(FeaturesError, match=message):
        read_features(row_for(tmp_path / "x.npy"), tmp_path)


def test_float16_becomes_float32(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((3, 2), np.float16))
    features = read_features(row_for(tmp_path / "x.npy"), tmp_path)
    assert features.dtype == np.float32
    assert features.shape == (3, 2)


def test_cut_off_and_missing_files_are_named(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((30, 20), np.float32))
    data = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "short.npy").write_bytes(data[:-5])
    with pytest.raises(FeaturesError, match="cannot be read as npy"):
        read_features(row_for(tmp_path / "short.npy"), tmp_path)
    with pytest.raises(FeaturesError, match="no such file"):
        read_features(row_for(tmp_path / "none.npy"), tmp_path)
    with pytest.raises(FeaturesError, match="end at byte 99999"):
        read_features(row_for(tmp_path / "x.npy", offset=0, length=99999), tmp_path)
    soundfile.write(tmp_path / "x.flac", np.zeros(400), 16000)
    with pytest.raises(FeaturesError, match="FLAC audio"):
        read_features(row_for(tmp_path / "x.flac"), tmp_path)
    with pytest.raises(FeaturesError, match="names no file"):
        read_features(Utterance("u"), tmp_path)


def test_checks_let_features_pass_where_the_model_reads_them(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((30, 20), np.float32))
    row = row_for(tmp_path / "x.npy")
    known = Utterance("v", duration_s=1.0, features={"path": "x.npy", "front_end_digest": "d" * 16})

    def faults(features_of: str | None) -> list[str]:
        bad = check_rows(
            [row, known],
            root=tmp_path,
            tokens=None,
            column=None,
            checks=AudioChecks(),
            frames_for=None,
            read_audio=False,
            features_of=features_of,
        )
        return [f"{each.id}: {each.reason}" for each in bad]

    assert len(faults(None)) == 2
    assert "imported features alone cannot be read" in faults(None)[0]
    assert faults(ANY_FRONT_END) == []
    (other,) = faults("d" * 16)
    assert other.startswith("u: imported features were made by the front end (unknown)")


# -- inventories -----------------------------------------------------------------------------


def test_a_fairseq_dictionary_keeps_its_order(tmp_path: Path, places: dict[str, str]) -> None:
    trained = Tokens.train(["ein Haus", "ein Hund", "kein Hund"], "sentencepiece", 12)
    assert trained.model is not None
    (tmp_path / "spm.model").write_bytes(trained.model)
    entries = sorted(trained.symbols[3:], reverse=True)
    write(tmp_path / "spm.txt", *[f"{entry} 1" for entry in entries])
    tokens = Tokens.from_fairseq(tmp_path / "spm.txt", tmp_path / "spm.model")
    assert tokens.symbols == ("<blank>", "<bos>", "<eos>", "<unk>", *entries)
    assert tokens.decode(tokens.encode("kein Haus")) == "kein Haus"
    assert tokens.encode("ein")[0] == 4 + entries.index(tokens.pieces(tokens.encode("ein"))[0])
    wanted = {
        "type": "fairseq",
        "dictionary": "spm.txt",
        "sentencepiece_model": "spm.model",
        "column": "translation",
    }
    prepared = run(tmp_path, CORPUS, tokens=wanted, inventories={"target": wanted})
    assert Tokens.load(prepared.tokens) == Tokens.load(prepared.inventories["target"]) == tokens


def test_words_outside_a_fairseq_dictionary_are_unknown(tmp_path: Path) -> None:
    write(tmp_path / "dict.txt", "Haus 12", "ein 7 #fairseq:overwrite", "madeupword0000 0")
    tokens = Tokens.from_fairseq(tmp_path / "dict.txt", None)
    assert tokens.encode("ein Hund") == [5, 3]
    assert tokens.words([5, 3, 4]) == ["ein", "<unk>", "Haus"]
    tokens.save(tmp_path / "tokens.json")
    assert Tokens.load(tmp_path / "tokens.json") == tokens
    write(tmp_path / "dict.txt", "Haus 12", "ein")
    with pytest.raises(TokensError, match="line 2: 'ein'; expected an entry and its count"):
        Tokens.from_fairseq(tmp_path / "dict.txt", None)
    write(tmp_path / "dict.txt", "a 1", "a 2")
    with pytest.raises(TokensError, match=r"dict\.txt: symbols occur more than once: \['a'\]"):
        Tokens.from_fairseq(tmp_path / "dict.txt", None)
    with pytest.raises(TokensError, match="cannot be imported"):
        Tokens.from_fairseq(tmp_path / "none.txt", None)
