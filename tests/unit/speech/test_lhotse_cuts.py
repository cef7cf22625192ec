"""Import of lhotse manifests: spans, channels, texts; clear refusals."""

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from kd_ray.speech.audio import read_waveform
from kd_ray.speech.corpora.lhotse_cuts import LhotseError, read_cuts
from kd_ray.speech.manifest import read_manifest, write_manifest


def test_without_lhotse_the_error_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lhotse", None)
    with pytest.raises(LhotseError, match=r"pip install kd-ray\[lhotse\]"):
        read_cuts(tmp_path / "x_cuts.jsonl.gz", root=tmp_path)


@pytest.fixture(name="lhotse")
def _lhotse() -> Any:
    pytest.importorskip("lhotse")
    return importlib.import_module("lhotse")


@pytest.fixture
def noise(tmp_path: Path) -> Any:
    samples = np.random.default_rng(0).integers(-999, 999, (32000, 2)).astype(np.int16)
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / "audio" / "a.wav", samples, 16000)
    return samples


def _recording(lhotse: Any, root: Path) -> Any:
    return lhotse.Recording.from_file(root / "audio" / "a.wav", recording_id="a")


def _supervision(lhotse: Any, **changes: Any) -> Any:
    values = {
        "id": "s1",
        "recording_id": "a",
        "start": 0.5,
        "duration": 0.75,
        "channel": 1,
        "text": "hello you",
        "language": "en",
        "speaker": "jo",
        "gender": "female",
        "custom": {
            "phones": ["h", "ə"],
            "translated_text": {"de": "hallo du"},
            "snr": 3.5,
            "id": "x",
        },
    }
    return lhotse.SupervisionSegment(**{**values, **changes})


def _write_pair(lhotse: Any, root: Path, supervisions: list[Any]) -> Path:
    lhotse.RecordingSet.from_recordings([_recording(lhotse, root)]).to_file(
        root / "c_recordings_train.jsonl.gz"
    )
    path = root / "c_supervisions_train.jsonl.gz"
    lhotse.SupervisionSet.from_segments(supervisions).to_file(path)
    return path


def _write_cuts(lhotse: Any, root: Path, supervisions: list[Any], **changes: Any) -> Path:
    values = {
        "id": "cut",
        "start": 0.25,
        "duration": 1.5,
        "channel": 0,
        "recording": _recording(lhotse, root),
        "supervisions": supervisions,
    }
    path = root / "c_cuts_train.jsonl.gz"
    lhotse.CutSet.from_cuts([lhotse.MonoCut(**{**values, **changes})]).to_file(path)
    return path


def test_recordings_and_supervisions_become_utterances(
    lhotse: Any, tmp_path: Path, noise: Any
) -> None:
    supervisions = [
        _supervision(lhotse),
        _supervision(lhotse, id="s2", start=1.5, duration=0.5, channel=0, custom=None),
    ]
    path = _write_pair(lhotse, tmp_path, supervisions)
    partner = tmp_path / "c_recordings_train.jsonl.gz"
    first, second = read_cuts(path, root=tmp_path)
    assert read_cuts(partner, root=tmp_path) == [first, second]
    assert (first.id, first.audio, first.channel) == ("s1", "audio/a.wav", 1)
    assert (first.offset_s, first.duration_s) == (0.5, 0.75)
    assert (first.transcript, first.source_language, first.speaker) == ("hello you", "en", "jo")
    assert (first.translation, first.target_language) == ("hallo du", "de")
    assert first.extra == {"gender": "female", "snr": 3.5, "custom_id": "x"}
    assert first.phones is None
    assert second.translation is None
    np.testing.assert_array_equal(read_waveform(first, tmp_path), noise[8000:20000, 1])
    write_manifest(tmp_path / "train.parquet", [first, second])
    assert read_manifest(tmp_path / "train.parquet") == [first, second]


def test_supervisions_count_from_the_cut_and_stay_inside_it(
    lhotse: Any, tmp_path: Path, noise: Any
) -> None:
    supervisions = [
        _supervision(lhotse, start=-0.1, duration=0.5),
        _supervision(lhotse, id="s2", start=1.0, duration=0.7),
    ]
    first, second = read_cuts(_write_cuts(lhotse, tmp_path, supervisions), root=tmp_path)
    assert (first.offset_s, first.duration_s) == (0.25, 0.4)
    assert (second.offset_s, second.duration_s) == (1.25, 0.5)


def test_a_cut_without_supervision_is_unlabelled_speech(
    lhotse: Any, tmp_path: Path, noise: Any
) -> None:
    (row,) = read_cuts(_write_cuts(lhotse, tmp_path, []), root=tmp_path)
    assert (row.id, row.offset_s, row.duration_s, row.transcript) == ("cut", 0.25, 1.5, None)


def test_phones_come_from_custom_alignment_or_text(lhotse: Any, tmp_path: Path, noise: Any) -> None:
    items = [lhotse.supervision.AlignmentItem(symbol, 0.5, 0.1) for symbol in ("x", "y")]
    supervision = _supervision(lhotse).with_alignment("phone", items)
    path = _write_pair(lhotse, tmp_path, [supervision])
    for key, expected in (("phones", "h ə"), ("phone", "x y"), ("text", "hello you")):
        (row,) = read_cuts(path, root=tmp_path, phones_key=key)
        assert row.phones == expected
        assert "phones" not in row.extra
    with pytest.raises(LhotseError, match=r"s1 has no 'ipa' .*'phones'.*\['phone'\]"):
        read_cuts(path, root=tmp_path, phones_key="ipa")


def test_audio_elsewhere_keeps_its_absolute_path(lhotse: Any, tmp_path: Path, noise: Any) -> None:
    (row,) = read_cuts(_write_cuts(lhotse, tmp_path, []), root=tmp_path / "other")
    assert row.audio == (tmp_path / "audio" / "a.wav").as_posix()


def test_several_translations_need_a_language(lhotse: Any, tmp_path: Path, noise: Any) -> None:
    texts = {"translated_text": {"de": "hallo", "fr": "salut"}}
    path = _write_pair(lhotse, tmp_path, [_supervision(lhotse, custom=texts)])
    with pytest.raises(LhotseError, match=r"into \['de', 'fr'\]"):
        read_cuts(path, root=tmp_path)
    (row,) = read_cuts(path, root=tmp_path, target_language="fr")
    assert (row.translation, row.target_language) == ("salut", "fr")


def test_cuts_that_are_not_plain_files_are_refused(lhotse: Any, tmp_path: Path, noise: Any) -> None:
    perturbed = _recording(lhotse, tmp_path).perturb_speed(1.1)
    path = _write_cuts(lhotse, tmp_path, [], recording=perturbed, duration=1.0)
    with pytest.raises(LhotseError, match=r"cut cut: recording a_sp1\.1 has the transform"):
        read_cuts(path, root=tmp_path)
    resampled = _recording(lhotse, tmp_path).resample(8000)
    assert len(read_cuts(_write_cuts(lhotse, tmp_path, [], recording=resampled), root=tmp_path))
    piped = _recording(lhotse, tmp_path)
    piped.sources[0].type = "command"
    with pytest.raises(LhotseError, match="is a 'command' source"):
        read_cuts(_write_cuts(lhotse, tmp_path, [], recording=piped), root=tmp_path)
    cut = lhotse.CutSet.from_file(_write_cuts(lhotse, tmp_path, []))[0]
    lhotse.CutSet.from_cuts([cut.pad(duration=3.0)]).to_file(tmp_path / "m_cuts.jsonl.gz")
    with pytest.raises(LhotseError, match="is a MixedCut"):
        read_cuts(tmp_path / "m_cuts.jsonl.gz", root=tmp_path)


def test_missing_and_foreign_manifests_are_named(lhotse: Any, tmp_path: Path, noise: Any) -> None:
    with pytest.raises(LhotseError, match="no lhotse manifest at"):
        read_cuts(tmp_path / "x_cuts.jsonl.gz", root=tmp_path)
    (tmp_path / "x_cuts.jsonl").write_text('{"colour": "red"}\n')
    with pytest.raises(LhotseError, match="is not a lhotse manifest"):
        read_cuts(tmp_path / "x_cuts.jsonl", root=tmp_path)
    (tmp_path / "e_cuts.jsonl").write_text("")
    with pytest.raises(LhotseError, match="is empty"):
        read_cuts(tmp_path / "e_cuts.jsonl", root=tmp_path)
    path = _write_pair(lhotse, tmp_path, [_supervision(lhotse)])
    (tmp_path / "c_recordings_train.jsonl.gz").rename(tmp_path / "recs.jsonl.gz")
    with pytest.raises(LhotseError, match="c_recordings_train"):
        read_cuts(path, root=tmp_path)
    with pytest.raises(LhotseError, match="lhotse cut simple"):
        read_cuts(tmp_path / "recs.jsonl.gz", root=tmp_path)
