"""Teachers that compute in bfloat16, and compiled ones, beside float32 and a float64 oracle."""

import copy
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from sequence_doubles import KINDS, LENGTHS, inputs, make

from kd_ray.config.data import LogMel
from kd_ray.config.sources import DEFAULT_COMPUTATION, Computation
from kd_ray.core.contracts import Labels, Masks, Writing
from kd_ray.evaluation.system import System
from kd_ray.models.transformer import TransformerDecoderStack
from kd_ray.speech.features import LogMelExtractor
from kd_ray.speech.tokens import Tokens
from kd_ray.teachers import compiling
from kd_ray.teachers.compiling import bucket, compile_parts, padded_to_bucket
from kd_ray.teachers.teacher import Teacher

TOKENS = Tokens.train(["a b c d e f g h"], "phones")
BFLOAT16 = Computation(precision="bfloat16")
MEAN_ERROR = {"float32": 1e-6, "bfloat16": 3e-3}
"""Of probabilities, mean over positions and tokens, against float64."""
MEAN_KL = {"float32": 1e-7, "bfloat16": 5e-4}
"""KL(float64 || teacher) in nats, mean over positions."""


def teacher_of(model, computation=DEFAULT_COMPUTATION):
    reads = model.reads == "text"
    system = System(
        model=model, tokens=TOKENS, folder=Path("nowhere"), digest="digest", name="teacher",
        extractor=None if reads else LogMelExtractor(LogMel(num_mels=8)),
        device=torch.device("cpu"), source_tokens=TOKENS if reads else None,
    )  # fmt: skip
    return Teacher(system, 0, computation)


def prefixes():
    rng = np.random.default_rng(1)
    return Labels.of([rng.integers(3, 11, size) for size in (4, 9, 1, 6, 0)])


def score(teacher, rows=slice(None), prefix=None, masks=None):
    padded, lengths = inputs(teacher.system.model)
    wanted = frozenset({"tokens", "labels"})
    longest = int(lengths[rows].max())
    prefix = prefix or Labels.of(prefixes().strings()[rows])
    return teacher.score(padded[rows, :longest], lengths[rows], prefix, None, wanted, masks)


def oracle(model):
    """(rows, positions, V) in float64, positions of each row."""
    exact = copy.deepcopy(model).double()
    padded, lengths = inputs(exact)
    if exact.reads == "speech":
        padded = padded.double()
    prefix = prefixes()
    encoded = exact.encode(exact.normalize(padded, lengths), lengths)
    ids, counts = torch.from_numpy(prefix.ids), torch.from_numpy(prefix.lengths)
    log_probs = torch.log_softmax(exact.decoder_logits(encoded, ids, counts), -1)
    return [row[: n + 1].detach().numpy() for row, n in zip(log_probs, prefix.lengths, strict=True)]


def distance(exact, output):
    """Mean error of a probability, and mean KL of a position."""
    errors, divergences = [], []
    for log_p, row in zip(exact, output.log_probs.astype(np.float64), strict=True):
        log_q = row[: len(log_p)]
        errors.append(np.abs(np.exp(log_p) - np.exp(log_q)).mean(-1))
        divergences.append((np.exp(log_p) * (log_p - log_q)).sum(-1))
    return np.concatenate(errors).mean(), np.concatenate(divergences).mean()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_precision_keeps_its_distance_from_float64(kind, precision):
    model = make(kind)
    output = score(teacher_of(model, Computation(precision=precision)))
    assert output.log_probs.dtype == np.float32
    error, divergence = distance(oracle(model), output)
    assert error < MEAN_ERROR[precision]
    assert -1e-7 < divergence < MEAN_KL[precision]
    for row, positions in zip(output.log_probs, output.positions, strict=True):
        sums = np.exp(row[:positions].astype(np.float64)).sum(-1)
        # Softmax in float32: half precision would be off by a thousandth.
        np.testing.assert_allclose(sums, 1, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_is_really_used_and_is_none_of_the_callers_business(kind):
    model = make(kind)
    plain, half = score(teacher_of(model)), score(teacher_of(model, BFLOAT16))
    assert np.abs(plain.log_probs - half.log_probs).max() > 1e-6
    assert not torch.is_autocast_enabled("cpu")
    again = score(teacher_of(model))
    np.testing.assert_array_equal(plain.log_probs, again.log_probs)


@pytest.mark.parametrize("kind", KINDS)
def test_batch_mates_cost_no_more_than_half_precision_does(kind):
    teacher = teacher_of(make(kind), BFLOAT16)
    together = score(teacher)
    for row in range(len(LENGTHS)):
        alone = score(teacher, slice(row, row + 1))
        n = int(alone.positions[0])
        mine, theirs = np.exp(alone.log_probs[0, :n]), np.exp(together.log_probs[row, :n])
        assert np.abs(mine - theirs).mean() < MEAN_ERROR["bfloat16"]


@pytest.mark.parametrize("beam_size", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_teachers_write_in_half_precision(kind, beam_size):
    model = make(kind)
    padded, lengths = inputs(model)
    writing = Writing(beam_size=beam_size, max_length=8)
    none = Labels.of([[]] * len(LENGTHS))
    written = teacher_of(model, BFLOAT16).generate(padded, lengths, none, writing)
    # The mean of what it wrote is that of scoring the same string.
    scored = score(teacher_of(model, BFLOAT16), prefix=written.strings)
    for row, string in enumerate(written.strings.strings()):
        ids = [*string, model.eos]
        own = scored.log_probs[row, np.arange(len(ids)), ids].mean()
        assert written.mean_log_probs[row] == pytest.approx(own, abs=1e-5)


def test_float16_needs_a_gpu():
    with pytest.raises(ValueError, match="teacher: precision 'float16' needs a GPU"):
        teacher_of(make("text"), Computation(precision="float16"))


def test_lengths_have_few_buckets_and_waste_at_most_a_quarter():
    buckets = [bucket(n) for n in range(1, 4097)]
    assert buckets == sorted(buckets)
    assert buckets[:17] == [16] * 16 + [20]
    assert all(n <= b for n, b in enumerate(buckets, 1))
    assert all(b < 1.25 * n for n, b in enumerate(buckets, 1) if n > 16)
    assert len(set(buckets)) == 33
    assert padded_to_bucket(torch.ones(2, 17, 3)).shape == (2, 20, 3)
    assert padded_to_bucket(torch.ones(2, 16)).shape == (2, 16)


class Graphs:
    """A compiler that compiles nothing and counts for what shapes it was asked."""

    def __init__(self, error=None):
        self.shapes, self.error = [], error

    def compile(self, graph, example_inputs):
        if self.error is not None:
            raise self.error
        self.shapes.append([e.shape for e in example_inputs if isinstance(e, torch.Tensor)])
        return graph.forward


def compiled_teacher(monkeypatch, kind, graphs, **changes):
    monkeypatch.setattr(compiling._Compiled, "failed", False)
    monkeypatch.setattr(
        "kd_ray.teachers.teacher.compile_parts", lambda model: compile_parts(model, graphs.compile)
    )
    torch._dynamo.reset()
    return teacher_of(make(kind), Computation(compile=True, **changes))


ATTENTION = ["speech_transformer", "text"]


SLOWLY = pytest.mark.slow
"""Compiling takes up to a minute."""


@pytest.mark.parametrize(
    "kind",
    [
        *(pytest.param(kind, marks=SLOWLY) for kind in ATTENTION),
        "berard_from_transformer",
        "recognizer_gru",
    ],
)
def test_compiled_teachers_say_what_others_say(monkeypatch, kind):
    """In padding up to a bucket, whoever is in the batch, masked or not."""
    graphs = Graphs()
    compiled, plain = compiled_teacher(monkeypatch, kind, graphs), teacher_of(make(kind))
    masks = Masks(np.full((5, 1, 2), [0.02, 0.09]), np.full((5, 1, 2), [0.2, 0.5]))
    for mine, theirs in (
        (score(compiled), score(plain)),
        (score(compiled, masks=masks), score(plain, masks=masks)),
        (score(compiled, slice(1, 2)), score(plain, slice(1, 2))),
    ):
        for row, n in enumerate(theirs.positions):
            a, b = (np.exp(each.log_probs[row, :n]) for each in (mine, theirs))
            np.testing.assert_allclose(a, b, atol=1e-5)
        assert mine.log_probs.shape == theirs.log_probs.shape
        np.testing.assert_array_equal(mine.frames, theirs.frames)
        for a, b in zip(mine.strings, theirs.strings, strict=True):
            np.testing.assert_array_equal(a, b)
    assert bool(graphs.shapes) == (kind != "recognizer_gru")


@SLOWLY
@pytest.mark.parametrize("kind", ATTENTION)
def test_few_shapes_are_compiled(monkeypatch, kind):
    graphs = Graphs()
    teacher = compiled_teacher(monkeypatch, kind, graphs)
    padded, _ = inputs(teacher.system.model)
    wanted = frozenset({"tokens"})
    for rows in (2, 3, 5):
        for frames in (33, 36, 38, 40):
            lengths = torch.full((rows,), frames)
            prefix = Labels.of([[3] * (frames % 7)] * rows)
            teacher.score(padded[:rows, :frames], lengths, prefix, None, wanted)
    # One length of the input, one of the prefix, any number of rows: an encoder and a decoder.
    assert len(graphs.shapes) == 2
    # Weights are inputs of a graph: another teacher of the same architecture needs no new one.
    other = make(kind, seed=4)
    compile_parts(other, graphs.compile)
    second = teacher_of(other)
    second._buckets = True
    second.score(padded[:2, :33], torch.tensor([33, 33]), Labels.of([[3], [4]]), None, wanted)
    assert len(graphs.shapes) == 2


@SLOWLY
@pytest.mark.parametrize("kind", ATTENTION)
def test_without_a_compiler_teachers_go_on_and_say_so_once(monkeypatch, caplog, kind):
    graphs = Graphs(RuntimeError("no compiler found on this machine"))
    teacher = compiled_teacher(monkeypatch, kind, graphs)
    with caplog.at_level(logging.WARNING, "kd_ray"):
        first, second = score(teacher), score(teacher)
    plain = score(teacher_of(make(kind)))
    for row, n in enumerate(plain.positions):
        for each in (first, second):
            np.testing.assert_allclose(
                np.exp(each.log_probs[row, :n]), np.exp(plain.log_probs[row, :n]), atol=1e-5
            )
    warnings = [r.getMessage() for r in caplog.records if r.name.startswith("kd_ray")]
    assert len(warnings) == 1
    assert "no compiler found" in warnings[0]


def test_a_fault_of_the_teacher_is_no_fault_of_the_compiler(monkeypatch, caplog):
    teacher = compiled_teacher(monkeypatch, "speech_transformer", Graphs())
    padded, _ = inputs(teacher.system.model)
    nothing = torch.tensor([0] * 5)
    with pytest.raises(ValueError, match="between 1 and"), caplog.at_level(logging.WARNING):
        teacher.score(padded, nothing, prefixes(), None, frozenset({"tokens"}))
    assert not caplog.records


@SLOWLY
def test_half_precision_is_compiled_too(monkeypatch):
    compiled = compiled_teacher(monkeypatch, "text", Graphs(), precision="bfloat16")
    assert isinstance(compiled.system.model.decoder, TransformerDecoderStack)
    error, divergence = distance(oracle(make("text")), score(compiled))
    assert error < MEAN_ERROR["bfloat16"]
    assert divergence < MEAN_KL["bfloat16"]
