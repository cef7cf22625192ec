"""Audio inside tar shards is the same audio, sample by sample, and others can read the shards."""

import tarfile
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from kd_ray.config.data import AudioChecks
from kd_ray.speech.audio import AudioError, read_duration_s, read_waveform
from kd_ray.speech.checks import check_rows
from kd_ray.speech.manifest import Utterance
from kd_ray.speech.shards import piece_of, write_shards

FORMATS = (("flac", "PCM_16"), ("wav", "PCM_16"), ("wav", "FLOAT"), ("ogg", "VORBIS"))


@pytest.fixture
def rows(tmp_path):
    """Files of several formats, rates and lengths; two segments of one recording; one text."""
    generator = np.random.default_rng(0)
    found = []
    (tmp_path / "audio").mkdir()
    for number, (suffix, subtype) in enumerate(FORMATS * 2):
        rate = (16_000, 22_050)[number % 2]
        samples = generator.normal(0, 0.2, int(rate * (0.5 + number / 10))).clip(-1, 1)
        name = f"audio/u.{number}.{suffix}"
        soundfile.write(tmp_path / name, samples, rate, subtype=subtype)
        found.append(Utterance(id=f"u.{number}", audio=name, transcript=f"text {number}"))
    found.append(Utterance(id="segment/1", audio="audio/u.7.ogg", offset_s=0.3, duration_s=0.5))
    found.append(Utterance(id="text", transcript="no audio", translation="kein Ton"))
    return found


def pack(rows, root, shard_mib=0.05):
    return write_shards(
        rows, root / "shards", "train", root=root, place="shards", shard_mib=shard_mib
    )


def test_packed_audio_is_equal_sample_by_sample(rows, tmp_path):
    packed = pack(rows, tmp_path)
    for before, after in zip(rows, packed, strict=True):
        assert after.id == before.id
        if before.audio is None:
            assert after.audio is None
            continue
        assert piece_of(tmp_path / after.audio) is not None
        np.testing.assert_array_equal(
            read_waveform(before, tmp_path), read_waveform(after, tmp_path)
        )
        assert read_duration_s(before, tmp_path) == read_duration_s(after, tmp_path)
    assert packed[7].audio == packed[8].audio, "segments share the piece of their recording"
    settings = {"column": None, "frames_for": None, "read_audio": True, "checks": AudioChecks()}
    assert not check_rows(packed[:9], root=tmp_path, tokens=None, **settings)


def test_members_of_audio_at_an_address_are_named_without_its_settings(rows, far):
    for row in rows[:2]:
        far.write(row.audio, (far.folder.parent / row.audio).read_bytes())
    settings = "?region=eu&endpoint_override=minio.example:9000"
    there = [replace(row, audio=f"file://{far.folder}/{row.audio}{settings}") for row in rows[:2]]
    pack(there, far.folder.parent)
    (shard,) = (far.folder.parent / "shards").iterdir()
    with tarfile.open(shard) as tar:
        assert tar.getnames() == ["u_0.flac", "u_0.txt", "u_1.wav", "u_1.txt"]


def test_shards_have_the_size_asked_for(rows, tmp_path):
    pack(rows, tmp_path)
    sizes = [path.stat().st_size for path in (tmp_path / "shards").iterdir()]
    assert len(sizes) > 2
    # A tar file ends at a multiple of 10 KiB, and every member has a header of 512 bytes.
    largest = max((tmp_path / row.audio).stat().st_size for row in rows if row.audio)
    assert max(sizes) <= max(0.05 * 2**20, largest) + 30_000


def test_the_same_files_make_the_same_shards(rows, tmp_path):
    first = pack(rows, tmp_path)
    names = sorted(path.name for path in (tmp_path / "shards").iterdir())
    assert pack(rows, tmp_path) == first
    assert sorted(path.name for path in (tmp_path / "shards").iterdir()) == names
    assert pack(first, tmp_path) == first, "what lies in shards stays there"


def test_shards_read_as_webdataset_names_them(rows, tmp_path):
    pack(rows, tmp_path, shard_mib=100)
    (path,) = (tmp_path / "shards").iterdir()
    with tarfile.open(path) as shard:
        names = shard.getnames()
        assert names[:4] == ["u_0.flac", "u_0.txt", "u_1.wav", "u_1.txt"]
        assert shard.extractfile("u_0.txt").read() == b"text 0"
        content = shard.extractfile("u_0.flac").read()
    assert content == (tmp_path / "audio/u.0.flac").read_bytes()
    # Keys end at the first dot: no two samples may share what stands before it.
    assert len({name.split(".")[0] for name in names}) == len(FORMATS) * 2


def test_ids_that_look_alike_have_keys_of_their_own(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(1600), 16_000)
    soundfile.write(tmp_path / "b.wav", np.ones(1600) / 2, 16_000)
    rows = [Utterance(id="x.1", audio="a.wav"), Utterance(id="x_1", audio="b.wav")]
    packed = pack(rows, tmp_path)
    for before, after in zip(rows, packed, strict=True):
        np.testing.assert_array_equal(
            read_waveform(before, tmp_path), read_waveform(after, tmp_path)
        )


def test_a_missing_shard_and_a_wrong_piece_are_errors_of_the_row(rows, tmp_path):
    packed = pack(rows, tmp_path)
    lost = Utterance(id="x", audio="shards/train-00000-gone.tar:512:100")
    with pytest.raises(AudioError, match="no such file"):
        read_waveform(lost, tmp_path)
    shard = packed[0].audio.split(":")[0]
    with pytest.raises(AudioError, match="cannot be read"):
        read_waveform(Utterance(id="x", audio=f"{shard}:100:50"), tmp_path)


def test_an_interrupted_packing_leaves_nothing_half(rows, tmp_path):
    (tmp_path / "audio/u.5.wav").unlink()
    with pytest.raises(FileNotFoundError):
        pack(rows, tmp_path, shard_mib=100)
    assert list((tmp_path / "shards").iterdir()) == []


def test_shards_and_audio_at_an_address(rows, tmp_path, far):
    for row in rows:
        if row.audio is not None:
            far.write(row.audio, (tmp_path / row.audio).read_bytes())
    packed = pack(rows, far.root)
    far.other_node()
    for before, there in zip(rows, packed, strict=True):
        if before.audio is not None:
            here = read_waveform(before, tmp_path)
            np.testing.assert_array_equal(here, read_waveform(there, far.root))
            np.testing.assert_array_equal(here, read_waveform(before, far.root))
    with pytest.raises(AudioError, match=r"file://.*/audio/none.wav.*no such file"):
        read_waveform(Utterance(id="x", audio="audio/none.wav"), far.root)
