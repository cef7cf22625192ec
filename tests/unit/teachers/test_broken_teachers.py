"""Real teachers with NaN in their weights are quarantined, and no more."""

import pytest
import torch

from kd_ray.config.strategies import Average
from kd_ray.core.contracts import Audio, Fusion, Generate, Labels, Score, Writing
from kd_ray.evaluation.decode import Search, decode_encoded
from kd_ray.models.decoding import NotFinite
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


def test_a_teacher_whose_ctc_head_alone_is_broken_is_quarantined_as_well(tiny_root):
    teachers = load_teachers([tiny_root / "teachers" / name for name in ("t0", "t2")])
    for parameter in teachers[1].system.model.ctc.parameters():
        parameter.fill_(torch.nan)
    rows = read_manifest(tiny_root / "data" / "train.parquet")[:ROWS]
    references = Labels.of([[4, 5], [6], [4]])
    question = Score(
        utterance_ids=tuple(row.id for row in rows),
        audio=Audio.of([read_waveform(row, tiny_root) for row in rows]),
        references=references,
        fusion=Fusion(Average()),
    )
    source = LocalSource(teachers)
    try:
        found = source.ask(question).result(60.0)
    finally:
        source.close()
    assert found.answered == (0,)
    assert source.counts["teachers_quarantined"] == 1


def test_hypotheses_of_a_broken_ctc_head_are_refused(tiny_root):
    (teacher,) = load_teachers([tiny_root / "teachers" / "t0"])
    model = teacher.system.model
    for parameter in model.ctc.parameters():
        parameter.fill_(torch.nan)
    lengths = torch.tensor([60, 40])
    inputs = torch.randn(2, 60, teacher.system.extractor.config.num_mels)
    encoded = teacher.system.encode(inputs, lengths)
    assert len(decode_encoded(model, encoded, ["a", "b"], Search(heads=("attention",)))) == 2
    with pytest.raises(NotFinite, match="checkpoint is likely broken"):
        decode_encoded(model, encoded, ["a", "b"], Search(heads=("ctc",)))
