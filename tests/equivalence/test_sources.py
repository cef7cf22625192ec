"""One loss from three sources: local, store and (in tests/cluster) pool."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
from source_losses import STRATEGIES, TOLERANCE, request_for, rows_of, update_loss

from kd_ray.core.contracts import PROTOCOL_VERSION, TeachersInfo
from kd_ray.core.handshake import HandshakeError, handshake
from kd_ray.core.targets import truncate
from kd_ray.speech.tokens import Tokens
from kd_ray.students.materials import student_needs
from kd_ray.teachers.local_source import LocalSource
from kd_ray.teachers.teacher import load_teachers
from kd_ray.teachers.temporary import temporary_store


@pytest.fixture(scope="module")
def folders(tiny_root):
    return [tiny_root / "teachers" / f"t{number}" for number in range(3)]


@pytest.fixture(scope="module")
def local(folders):
    source = LocalSource(load_teachers(folders))
    yield source
    source.close()


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda each: each["type"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_store_and_local_give_the_same_loss(tiny_root, folders, local, strategy, dtype):
    config = tiny.distill_config(
        "sources",
        "teachers.txt",
        teachers__strategy=strategy,
        teachers__dtype=dtype,
        distillation__temperature=2.0,
    )
    rows = rows_of(tiny_root)
    with temporary_store(
        folders,
        rows,
        root=tiny_root,
        tokens=tiny_root / config.data.tokens,
        column="phones",
        dtype=dtype,
    ) as store:
        # Another order and another cut than the store was made with.
        for batch in (rows[5:9], rows[::-3]):
            request = request_for(config, tiny_root, batch)
            signals = [source.ask(request).result(60.0) for source in (local, store)]
            losses = [update_loss(config, tiny_root, request, signal) for signal in signals]
            assert losses[0] == pytest.approx(losses[1], abs=TOLERANCE[dtype])
            np.testing.assert_array_equal(signals[0].ctc_errors, signals[1].ctc_errors)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda each: each["type"])
def test_k_tokens_of_the_fused_target_teach_what_the_whole_target_does(
    tiny_root, folders, local, strategy
):
    """The student keeps k of them either way; sent are only those."""
    config = tiny.distill_config(
        "few-tokens", "teachers.txt", teachers__strategy=strategy, distillation__top_k=3
    )
    rows = rows_of(tiny_root)
    where = {"root": tiny_root, "tokens": tiny_root / config.data.tokens, "column": "phones"}
    with temporary_store(folders, rows, **where) as store:
        short = request_for(config, tiny_root, rows[::-3])
        whole = replace(short, fusion=replace(short.fusion, top_k=None))
        few, stored, all_ = (
            each.ask(one).result(60.0)
            for each, one in ((local, short), (store, short), (local, whole))
        )
    assert few.tokens.log_probs.shape[-1] == 3
    assert few.tokens.ids.dtype == np.int32
    np.testing.assert_array_equal(few.tokens.ids, stored.tokens.ids)
    expected = truncate(all_.tokens, 3)
    for name in ("ids", "log_probs", "log_tail"):
        np.testing.assert_array_equal(getattr(few.tokens, name), getattr(expected, name))
    losses = [update_loss(config, tiny_root, short, signal) for signal in (few, stored, all_)]
    assert losses[0] == pytest.approx(losses[1], abs=TOLERANCE["float32"])
    assert losses[0] == losses[2]


def test_a_request_alone_is_the_request_in_a_batch(tiny_root, local):
    config = tiny.distill_config("alone", "teachers.txt")
    rows = rows_of(tiny_root)[:6]
    together = local.ask(request_for(config, tiny_root, rows)).result(60.0).tokens
    for position, row in enumerate(rows):
        alone = local.ask(request_for(config, tiny_root, [row])).result(60.0).tokens
        length = int(alone.lengths[0])
        mine = alone.log_probs[0, :length]
        theirs = together.log_probs[position, :length]
        np.testing.assert_allclose(np.exp(mine), np.exp(theirs), atol=1e-5)
        np.testing.assert_allclose(mine, theirs, atol=1e-4)


def test_teachers_with_different_front_ends_sit_in_one_source(local):
    digests = {teacher.front_end_digest for teacher in local.describe().teachers}
    assert len(digests) == 2


def test_the_handshake_names_teacher_both_values_and_ways_out(tiny_root, local):
    needs = student_needs(Tokens.train(["x y z"], "phones"))
    with pytest.raises(HandshakeError) as caught:
        handshake(needs, local.describe())
    text = str(caught.value)
    assert "teacher t0: vocabulary size is 11, student's is 6" in text
    assert "token order" in text
    assert "Ways out" in text
    handshake(student_needs(Tokens.load(tiny_root / "data" / "tokens.json")), local.describe())


def test_the_handshake_refuses_an_empty_source_and_another_protocol(tiny_root, local):
    needs = student_needs(Tokens.load(tiny_root / "data" / "tokens.json"))
    with pytest.raises(HandshakeError, match="no teacher"):
        handshake(needs, TeachersInfo((), "local"))
    teachers = local.describe().teachers
    with pytest.raises(HandshakeError, match=f"student has {PROTOCOL_VERSION}, pool has 99"):
        handshake(needs, TeachersInfo(teachers, "pool", protocol=99))


def test_reverse_kl_gives_the_same_loss_from_store_and_local(tiny_root, folders, local):
    switches = {"divergence": "reverse_kl", "ctc_weight": 0.0}
    config = tiny.distill_config("geometric", "teachers.txt", distillation=switches)
    rows = rows_of(tiny_root)
    where = {"root": tiny_root, "tokens": tiny_root / config.data.tokens, "column": "phones"}
    with temporary_store(folders, rows, dtype="float32", **where) as store:
        request = request_for(config, tiny_root, rows[5:9])
        assert request.fusion.fusing == "geometric"
        signals = [source.ask(request).result(60.0) for source in (local, store)]
    assert [signal.fusing for signal in signals] == ["geometric"] * 2
    losses = [update_loss(config, tiny_root, request, signal) for signal in signals]
    assert losses[0] == pytest.approx(losses[1], abs=TOLERANCE["float32"])
