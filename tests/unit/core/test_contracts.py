from dataclasses import replace

import numpy as np
import pytest

from kd_ray.core.contracts import Audio, Labels, TeacherInfo, TeachersInfo
from kd_ray.core.handshake import HandshakeError, StudentNeeds, handshake

TEACHER = TeacherInfo(0, "t0", "runs/t0", "d", "tokens", 40, 0, 1, 2, "mel", 25.0, 1000)
NEEDS = StudentNeeds("tokens", 40, 0, 1, 2)


def test_teachers_that_mean_the_same_are_welcome():
    other = replace(TEACHER, name="t1", front_end_digest="other mels", frame_rate_hz=50.0)
    for source in ("local", "store", "pool"):
        handshake(NEEDS, TeachersInfo((TEACHER, other), source))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens_digest": "other"}, r"t1: token order \(digest\) is other, student's is tokens"),
        ({"vocabulary_size": 41}, "t1: vocabulary size is 41, student's is 40"),
        ({"blank": 3}, "t1: id of the CTC blank is 3, student's is 0"),
        ({"bos": 3}, "t1: id of begin-of-sentence is 3, student's is 1"),
        ({"eos": 3}, "t1: id of end-of-sentence is 3, student's is 2"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_teachers_that_would_be_misread_are_refused_with_both_values(change, message):
    other = replace(TEACHER, name="t1", **change)
    with pytest.raises(HandshakeError, match=message):
        handshake(NEEDS, TeachersInfo((TEACHER, other), "local"))


def test_a_pool_must_speak_the_same_version_and_every_difference_is_listed():
    info = TeachersInfo((replace(TEACHER, eos=9),), "pool", protocol=99, package="0.0.0")
    with pytest.raises(HandshakeError) as caught:
        handshake(NEEDS, info)
    for words in ("protocol version", "pool has 99", "package version", "end-of-sentence is 9"):
        assert words in str(caught.value)
    handshake(NEEDS, TeachersInfo((TEACHER,), "local", protocol=99, package="0.0.0"))


def test_no_teacher_at_all_is_refused():
    with pytest.raises(HandshakeError, match="no teacher at all"):
        handshake(NEEDS, TeachersInfo((), "store"))


def test_waveforms_survive_being_laid_end_to_end():
    waves = [
        np.arange(5, dtype=np.int16),
        np.arange(0, dtype=np.int16),
        np.arange(3, dtype=np.int16),
    ]
    back = Audio.of(waves).waveforms()
    for wave, other in zip(waves, back, strict=True):
        np.testing.assert_array_equal(wave, other)
    assert len(Audio.of([]).samples) == 0


def test_label_strings_are_cut_to_their_lengths():
    labels = Labels.of([[1, 2, 3], [4]])
    assert [row.tolist() for row in labels.strings()] == [[1, 2, 3], [4]]
