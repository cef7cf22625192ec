"""Real teachers with NaN in their weights are quarantined by what they write, and no more."""

import pytest
import torch

from kd_ray.core.contracts import Audio, Generate, Labels, Writing
from kd_ray.speech.audio import read_waveform
from kd_ray.speech.manifest import read_manifest
from kd_ray.teachers.local_source import LocalSource
from kd_ray.teachers.teacher import load_teachers

ROWS = 3


@pytest.mark.parametrize("prefix", [None, Labels.of([[4, 5], [], [6]])], ids=["free", "forced"])
@pytest.mark.parametrize("beam_size", [1, 3])
def test_a_broken_teacher_is_quarantined_and_the_others_go_on(tiny_root, beam_size, prefix):
    teachers = load_teachers([tiny_root / "teachers" / name for name in ("t0", "t2")])
    for parameter in teachers[1].system.model.parameters():
        parameter.fill_(torch.nan)
    rows = read_manifest(tiny_root / "data" / "train.parquet")[:ROWS]
    question = Generate(
        utterance_ids=tuple(row.id for row in rows),
        audio=Audio.of([read_waveform(row, tiny_root) for row in rows]),
        writing=Writing(beam_size=beam_size, max_length=6),
        prefix=prefix,
    )
    source = LocalSource(teachers)
    try:
        found = source.ask(question).result(60.0)
    finally:
        source.close()
    assert found.answered == (0,)
    assert set(found.best.teachers.tolist()) == {0}
    assert source.counts["teachers_quarantined"] == 1
