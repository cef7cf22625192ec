"""The same numbers on an accelerator: `pytest -m gpu --device cuda` (`--device cpu` rehearses)."""

import numpy as np
import pytest
import tiny
import torch
from source_losses import request_for, rows_of, update_loss

from kd_ray.config.sources import DEFAULT_COMPUTATION, Computation
from kd_ray.core.contracts import Generate, Labels, Writing
from kd_ray.evaluation.decode import Search, decode_utterances
from kd_ray.evaluation.run_folder import RunFolder, read_json_lines
from kd_ray.evaluation.system import load_system
from kd_ray.students.collective import Alone
from kd_ray.students.session import run_session
from kd_ray.teachers.local_source import LocalSource
from kd_ray.teachers.teacher import Teacher, load_teachers

pytestmark = pytest.mark.gpu

TOLERANCE = 1e-3
"""Convolutions and recurrences add in another order there, and may use TF32."""


@pytest.fixture(scope="module")
def folders(tiny_root):
    return [tiny_root / "teachers" / f"t{number}" for number in range(3)]


def signal_of(folders, device, request):
    source = LocalSource(load_teachers(folders, device))
    try:
        return source.ask(request).result(60.0)
    finally:
        source.close()


def test_teachers_say_the_same(tiny_root, folders, device):
    config = tiny.distill_config(
        "device-signals", "teachers.txt", teachers__strategy={"type": "weighted"}
    )
    request = request_for(config, tiny_root, rows_of(tiny_root)[:8])
    here, there = (signal_of(folders, each, request) for each in ("cpu", device))
    for position, length in enumerate(here.tokens.lengths):
        mine, theirs = (np.exp(each.tokens.log_probs[position, :length]) for each in (here, there))
        np.testing.assert_allclose(mine, theirs, atol=TOLERANCE)
    np.testing.assert_array_equal(here.ctc_errors, there.ctc_errors)
    losses = [update_loss(config, tiny_root, request, signal) for signal in (here, there)]
    assert losses[0] == pytest.approx(losses[1], abs=TOLERANCE)


@pytest.mark.parametrize("beam_size", [1, 3])
def test_teachers_write_the_same(tiny_root, folders, device, beam_size):
    rows = rows_of(tiny_root)[:6]
    asked = request_for(tiny.distill_config("device-writes", "teachers.txt"), tiny_root, rows)
    request = Generate(
        asked.utterance_ids,
        asked.audio,
        writing=Writing(beam_size=beam_size, max_length_ratio=1.0),
        prefix=Labels.of([[3, 4]] * len(rows)),
    )
    here, there = (signal_of(folders, each, request).best for each in ("cpu", device))
    np.testing.assert_array_equal(here.strings.ids, there.strings.ids)
    np.testing.assert_allclose(here.mean_log_probs, there.mean_log_probs, atol=TOLERANCE)


@pytest.mark.parametrize("rnn", ["gru", "ligru"])
def test_students_take_the_same_steps(tiny_root, folders, device, rnn):
    losses = {}
    for each in ("cpu", device):
        name = f"device-{rnn}-{each}-{len(losses)}"
        config = tiny.distill_config(
            name, "teachers.txt", **tiny.PLAIN_SGD, model__encoder__rnn=rnn,
            training__max_updates=5, training__epochs=2,
        )  # fmt: skip
        source = LocalSource(load_teachers(folders, each))
        RunFolder(tiny_root, name).open(config)
        run_session(
            config, root=tiny_root, collective=Alone(), device=torch.device(each), source=source
        )
        source.close()
        lines = read_json_lines(tiny_root / "runs" / name / "metrics.jsonl")
        losses[name] = [line["loss"] for line in lines if line["kind"] == "train"]
    first, second = losses.values()
    assert first == pytest.approx(second, rel=TOLERANCE)


def test_systems_hear_the_same(tiny_root, folders, device):
    rows = rows_of(tiny_root)[:8]
    heard = []
    for each in ("cpu", device):
        system = load_system(folders[1], each)
        hypotheses = decode_utterances(
            system, rows, tiny_root, 4, Search(heads=("attention", "ctc"))
        )
        heard.append({each.utterance_id: (each.ctc, each.attention) for each in hypotheses})
    assert heard[0] == heard[1]


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["recogniser", "expert"])
def test_half_precision_keeps_its_distance(tiny_root, device, kind, precision):
    """Against float32 on the CPU, which tests/unit/models holds against a float64 oracle."""
    if device == "cpu" and precision == "float16":
        pytest.skip("float16 needs a GPU")
    half = Computation(precision=precision)
    for folder in _of_kind(tiny_root, kind):
        here, there = (
            _scored(Teacher(load_system(folder, each), 0, how))
            for each, how in (("cpu", DEFAULT_COMPUTATION), (device, half))
        )
        errors, divergences = [], []
        for log_p, log_q, n in zip(here.log_probs, there.log_probs, here.positions, strict=True):
            p, q = (np.exp(each[:n].astype(np.float64)) for each in (log_p, log_q))
            errors.append(np.abs(p - q).mean(-1))
            divergences.append((p * (log_p[:n] - log_q[:n])).sum(-1))
        assert np.concatenate(errors).mean() < 3e-3
        assert np.concatenate(divergences).mean() < 5e-4
        assert there.log_probs.dtype == np.float32


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_compiled_teachers_say_the_same(tiny_root, device, precision, caplog):
    for folder in _of_kind(tiny_root, "expert"):
        plain, compiled = (
            _scored(
                Teacher(
                    load_system(folder, device), 0, Computation(precision=precision, compile=each)
                )
            )
            for each in (False, True)
        )
        tolerance = TOLERANCE if precision == "float32" else 3e-2
        for row, n in enumerate(plain.positions):
            mine, theirs = (np.exp(each.log_probs[row, :n]) for each in (compiled, plain))
            np.testing.assert_allclose(mine, theirs, atol=tolerance)
    assert "torch.compile failed" not in caplog.text


def _of_kind(root, kind):
    if kind == "recogniser":
        return [root / "teachers" / f"t{number}" for number in range(2)]
    return [root / folder for folder in tiny.make_experts(root, 2)]


def _scored(teacher):
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([37, 60, 22, 51])
    if teacher.info.reads == "text":
        inputs = torch.randint(3, 9, (4, 60), generator=generator)
    else:
        mels = teacher.system.extractor.config.num_mels
        inputs = torch.randn(4, 60, mels, generator=generator) * 2
    prefix = Labels.of([[3, 4, 5, 6, 7, 3], [6], [], [4, 4, 8]])
    return teacher.score(inputs, lengths, prefix, None, frozenset({"tokens", "labels"}))
