import threading

import numpy as np
import pytest
from doubles import load_fake_teachers
from store_doubles import (
    fill,
    filled_store,
    inference_job,
    info,
    output,
    references_of,
    utterances,
)

from kd_ray.config.strategies import Average, Best, Weighted
from kd_ray.core.contracts import Audio, Busy, Fusion, Labels, Masks, Score, View
from kd_ray.core.strategies import fuse
from kd_ray.speech.audio import read_waveform
from kd_ray.speech.manifest import read_manifest
from kd_ray.speech.tokens import Tokens
from kd_ray.teachers.inference import ShardScorer
from kd_ray.teachers.local_source import LocalSource
from kd_ray.teachers.store import StoreError, TargetStore
from kd_ray.teachers.store_source import StoreSource

D = [f"{n:016x}" for n in range(9)]


@pytest.fixture
def source(tmp_path):
    source = StoreSource(filled_store(tmp_path / "store"), utterances(10), column="phones")
    yield source
    source.close()


def ask(ids, strategy=None, references=None, **changes):
    fusion = Fusion(strategy or Weighted(), **changes.pop("fusion", {}))
    references = references_of(ids) if references is None else references
    return Score(tuple(ids), Audio.of([]), Labels.of(references), fusion, **changes)


def same_signal(mine, theirs):
    np.testing.assert_array_equal(mine.weights_tokens, theirs.weights_tokens)
    np.testing.assert_array_equal(mine.weights_labels, theirs.weights_labels)
    np.testing.assert_array_equal(mine.ctc_errors, theirs.ctc_errors)
    np.testing.assert_array_equal(mine.labels.labels, theirs.labels.labels)
    np.testing.assert_array_equal(mine.labels.weights, theirs.labels.weights)
    np.testing.assert_array_equal(mine.tokens.lengths, theirs.tokens.lengths)
    np.testing.assert_array_equal(mine.tokens.log_probs, theirs.tokens.log_probs)


@pytest.mark.parametrize(
    ("strategy", "fusion"),
    [
        (Average(), {}),
        (Best(), {"temperature": 2.0}),
        (Weighted(scale=0.1), {"dtype": "float16", "temperature": 1.5}),
        (Weighted(), {"compatibility": "reference"}),
    ],
    ids=["average", "best tau 2", "weighted float16", "reference"],
)
def test_a_stored_signal_is_the_signal_fused_from_the_teachers_themselves(source, strategy, fusion):
    ids = ["u7", "u0", "u4", "u9"]
    request = ask(ids, strategy, fusion=fusion)
    signal = source.ask(request).result(10)
    outputs = [output(n, ids, padding=0.0) for n in range(3)]
    same_signal(signal, fuse(outputs, request.fusion, 3))
    assert signal.utterance_ids == tuple(ids)
    assert signal.answered == (0, 1, 2)
    assert signal.outputs == ()


def test_trust_alone_has_no_targets_and_nothing_is_computed(source):
    ids = ["u7", "u0"]
    signal = source.ask(ask(ids, wanted=frozenset({"trust"}))).result(10)
    assert (signal.tokens, signal.labels) == (None, None)
    expected = np.stack([output(n, ids, padding=0.0).ctc_errors for n in range(3)])
    np.testing.assert_array_equal(signal.ctc_errors, expected)
    costs = source.costs()
    assert (costs.requests, costs.utterances, costs.rows, costs.known_rows) == (1, 2, 6, 6)
    assert costs.teacher_s == 0


@pytest.mark.parametrize("top_k", [None, 4])
def test_geometric_means_need_every_token(tmp_path, top_k):
    store = filled_store(tmp_path / "store", top_k=top_k)
    source = StoreSource(store, utterances(10), column="phones")
    ids = ["u7", "u0"]
    request = ask(ids, Average(), fusion={"fusing": "geometric"})
    if top_k is None:
        signal = source.ask(request).result(10)
        same_signal(signal, fuse([output(n, ids, padding=0.0) for n in range(3)],
                                 request.fusion, 3))  # fmt: skip
        assert signal.fusing == "geometric"
    else:
        with pytest.raises(StoreError, match=r"the 4 likeliest tokens .* reverse_kl needs"):
            source.ask(request)
        source.ask(ask(ids, Average())).result(10)
    source.close()


def test_a_float16_store_gives_what_a_float32_store_gives_under_float16_fusion(tmp_path, source):
    half = filled_store(tmp_path / "half", dtype="float16")
    rounded = StoreSource(half, utterances(10), column="phones")
    ids = ["u7", "u0"]
    request = ask(ids, fusion={"dtype": "float16", "temperature": 1.5})
    same_signal(rounded.ask(request).result(10), source.ask(request).result(10))
    rounded.close()


def test_the_selection_decides_who_answers_and_in_what_order(tmp_path):
    store = filled_store(tmp_path / "store")
    with_two = StoreSource(store, utterances(10), column="phones", teachers=[D[2], D[0]])
    assert [(t.index, t.digest) for t in with_two.describe().teachers] == [(0, D[2]), (1, D[0])]
    assert with_two.describe().source == "store"
    ids = ["u1", "u2"]
    signal = with_two.ask(ask(ids, per_teacher=True)).result(10)
    np.testing.assert_array_equal(signal.ctc_errors[0], output(2, ids).ctc_errors)
    np.testing.assert_array_equal(signal.ctc_errors[1], output(0, ids).ctc_errors)
    assert len(signal.outputs) == signal.num_teachers == 2
    with_two.close()


def test_another_prefix_than_the_stored_one_is_refused_by_name(source):
    ids = ["u1", "u2"]
    other = references_of(ids)
    other[1] = [*other[1], 3]
    with pytest.raises(ValueError, match=r"references of 1 utterance\(s\) \(u2\) .*teacher t0"):
        source.ask(ask(ids, references=other)).result(10)
    with pytest.raises(ValueError, match=r"prefix of 1 utterance\(s\) \(u2\)"):
        source.ask(ask(ids, prefix=Labels.of(other))).result(10)
    kept = source.ask(ask(ids, prefix=Labels.of(references_of(ids)))).result(10)
    assert kept.tokens is not None


def test_label_strings_alone_need_no_prefix_and_bring_no_distributions(source):
    request = Score(("u1",), Audio.of([]), None, Fusion(Average()), wanted=frozenset({"labels"}))
    signal = source.ask(request).result(10)
    assert signal.tokens is None
    assert signal.labels is not None
    with pytest.raises(ValueError, match="prefix or references"):
        source.ask(Score(("u1",), Audio.of([]), None, Fusion(Average())))


def test_augmented_audio_and_empty_requests_are_refused(source):
    with pytest.raises(ValueError, match="view 'clean' only, asked for is 'noisy'"):
        source.ask(ask(["u1"], view=View("noisy", 3)))
    masks = Masks(np.zeros((1, 1, 2)), np.array([[[0.2, 0.4]]]))
    with pytest.raises(ValueError, match="asked for is 'clean' with masks"):
        source.ask(ask(["u1"], view=View(masks=masks)))
    with pytest.raises(ValueError, match="at least one utterance"):
        source.ask(ask([]))


def test_missing_rows_are_told_before_training_starts(tmp_path):
    store = TargetStore.create(tmp_path / "store", [info(0), info(1)])
    store.plan("train", utterances(10), 4, column="phones")
    fill(store, "train", [D[0]])
    with pytest.raises(StoreError, match=r"t1 .*10 utterance\(s\).*\n.*infer-teachers"):
        StoreSource(store, utterances(10), column="phones")
    StoreSource(store, utterances(10), column="phones", teachers=[D[0]]).close()
    with pytest.raises(StoreError, match="no teacher"):
        StoreSource(store, utterances(10), column="phones", teachers=[D[8]])
    with pytest.raises(StoreError, match="lacks 2 utterance"):
        StoreSource(store, utterances(12), column="phones", teachers=[D[0]])


def test_busy_above_the_byte_budget_until_a_signal_is_collected(tmp_path):
    store = filled_store(tmp_path / "store")
    source = StoreSource(store, utterances(10), column="phones", max_in_flight_mib=0.0005)
    first = source.ask(ask(["u1", "u2"]))
    with pytest.raises(Busy, match="in flight"):
        source.ask(ask(["u3", "u7"]))
    first.result(10)
    first.result(10)  # a second look does not free bytes twice
    second = source.ask(ask(["u3", "u7"]))
    second.cancel()
    source.ask(ask(["u3", "u7"])).result(10)
    source.close()


def test_asking_returns_at_once_and_waiting_ends_in_time(source, monkeypatch):
    gate = threading.Event()
    batch = source.store.batch

    def slow(*arguments):
        gate.wait(10)
        return batch(*arguments)

    monkeypatch.setattr(source.store, "batch", slow)
    pending = source.ask(ask(["u1"]))
    with pytest.raises(TimeoutError, match=r"within 0\.0 s"):
        pending.result(0.01)
    waiting = source.ask(ask(["u2"]))
    waiting.cancel()
    with pytest.raises(RuntimeError, match="given up"):
        waiting.result(10)
    gate.set()
    assert pending.result(10).utterance_ids == ("u1",)


def test_a_closed_source_refuses(source):
    source.close()
    with pytest.raises(RuntimeError, match="closed"):
        source.ask(ask(["u1"]))


def test_store_and_local_source_send_the_same_signals(tmp_path):
    job = inference_job(tmp_path, batch_size=4)
    scorer = ShardScorer(job, load_fake_teachers)
    group = list(job.folders)
    for shard in range(3):
        scorer.run("train", shard, group, group)
    rows, tokens = read_manifest(job.manifests["train"]), Tokens.load(job.tokens)
    stored = StoreSource(TargetStore.open(job.store), rows, column="phones")
    local = LocalSource(load_fake_teachers(list(job.folders.values()), "cpu"))
    batch = [rows[n] for n in (9, 0, 5, 3)]
    request = Score(
        tuple(row.id for row in batch),
        Audio.of([read_waveform(row, job.root) for row in batch]),
        Labels.of([tokens.encode(row.phones) for row in batch]),
        Fusion(Weighted(), temperature=2.0),
    )
    mine, theirs = stored.ask(request).result(30), local.ask(request).result(30)
    np.testing.assert_allclose(mine.weights_tokens, theirs.weights_tokens, atol=1e-12)
    np.testing.assert_array_equal(mine.labels.labels, theirs.labels.labels)
    np.testing.assert_array_equal(mine.labels.utterance, theirs.labels.utterance)
    np.testing.assert_allclose(mine.labels.weights, theirs.labels.weights, atol=1e-12)
    for row, length in enumerate(mine.tokens.lengths):
        np.testing.assert_allclose(
            np.exp(mine.tokens.log_probs[row, :length]),
            np.exp(theirs.tokens.log_probs[row, :length]),
            atol=1e-6,
        )
    stored.close()
    local.close()
