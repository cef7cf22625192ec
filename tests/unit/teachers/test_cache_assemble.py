from dataclasses import replace

import numpy as np
import pytest
from doubles import FakeTeacher, request, writing_request

from kd_ray.config.strategies import Best, Weighted
from kd_ray.core.contracts import Audio, Fusion, Generate, Labels, Written
from kd_ray.core.strategies import fuse
from kd_ray.teachers.cache import Found, OutputCache, find, needed, row_keys, take_request
from kd_ray.teachers.rows import join_rows, pad_together, split_request

LARGE = 2**30


def run(teacher, works, one):
    """As a host would: one forward pass for each piece."""
    outputs = []
    for work in works:
        inputs, lengths = pad_together([work])
        labels = [work.prefix, work.references]
        prefix, references = (None if each is None else Labels.of(each) for each in labels)
        if isinstance(one, Generate):
            outputs.append(teacher.generate(inputs, lengths, prefix, one.writing))
        else:
            outputs.append(teacher.score(inputs, lengths, prefix, references, one.wanted))
    return join_rows(outputs)


def ask(teachers, one, cache, *, job="", max_utterances=2):
    """The example of the module's docstring; outputs by teacher, and what was computed."""
    keys = row_keys(one, "speech")
    found = [find(t.info.digest, one, keys, memory=cache, job=job) for t in teachers]
    made = needed(found)
    inputs = {}
    if made:
        part = take_request(one, made)
        inputs = {
            t.info.front_end_digest: t.reader(part.audio.waveforms(), part.texts) for t in teachers
        }
    outputs = []
    for index, (teacher, mine) in enumerate(zip(teachers, found, strict=True)):
        fresh = None
        if mine.missing:
            works = mine.works(one, inputs[teacher.info.front_end_digest], made, max_utterances)
            assert max(work.size for work in works) <= max_utterances
            fresh = run(teacher, works, one)
            cache.put_rows(teacher.info.digest, [keys[row] for row in mine.missing], fresh)
        output = mine.whole(fresh, index)
        outputs.append(output if isinstance(output, Written) else replace(output, teacher=index))
    return outputs


def teachers():
    return [FakeTeacher(1), FakeTeacher(2, num_mels=9), FakeTeacher(4)]


def computed(pool):
    return [sum(teacher.batch_sizes) for teacher in pool]


def same(mine, theirs):
    for a, b in zip(mine, theirs, strict=True):
        for name in ("positions", "frames", "ctc_errors", "reference_lengths", "confidence"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        for row, length in enumerate(b.positions):
            np.testing.assert_allclose(
                a.log_probs[row, :length], b.log_probs[row, :length], atol=1e-6
            )
        for x, y in zip(a.strings, b.strings, strict=True):
            np.testing.assert_array_equal(x, y)


def test_another_strategy_temperature_and_job_cost_no_teacher_computation():
    pool, cache, one = teachers(), OutputCache(LARGE), request(3, 5)
    ask(pool, one, cache, job="first")
    assert computed(pool) == [5, 5, 5]
    other = replace(one, fusion=Fusion(Best(), temperature=2.0, max_strings=1))
    warm = ask(pool, other, cache, job="third")
    assert computed(pool) == [5, 5, 5]
    assert cache.statistics.jobs["third"].hit_share == 1.0
    cold = ask(teachers(), other, OutputCache(LARGE))
    same(warm, cold)
    mine, theirs = (fuse(outputs, other.fusion, 3) for outputs in (warm, cold))
    np.testing.assert_allclose(mine.tokens.log_probs, theirs.tokens.log_probs, atol=1e-6)
    np.testing.assert_array_equal(mine.weights_tokens, theirs.weights_tokens)


def test_only_missing_rows_are_computed_and_the_whole_is_in_order():
    pool, cache, one = teachers(), OutputCache(LARGE), request(3, 6)
    ask(pool, take_request(one, [1, 4]), cache)
    ask(pool[:1], take_request(one, [5]), cache)
    before = computed(pool)
    outputs = ask(pool, one, cache)
    assert [now - then for now, then in zip(computed(pool), before, strict=True)] == [3, 4, 4]
    same(outputs, ask(teachers(), one, OutputCache(LARGE)))


def test_a_changed_teacher_computes_alone():
    pool, cache, one = teachers(), OutputCache(LARGE), request(3, 4)
    ask(pool, one, cache)
    cache.forget_teacher(pool[1].info.digest)
    ask(pool, one, cache)
    assert computed(pool) == [4, 8, 4]


def test_what_teachers_write_is_found_again():
    pool, cache = teachers(), OutputCache(LARGE)
    one = writing_request(5, 5)
    ask(pool, take_request(one, [0, 3]), cache)
    outputs = ask(pool, one, cache)
    assert computed(pool) == [5, 5, 5]
    cold = ask(teachers(), one, OutputCache(LARGE))
    for index, (mine, theirs) in enumerate(zip(outputs, cold, strict=True)):
        np.testing.assert_array_equal(mine.strings.ids, theirs.strings.ids)
        np.testing.assert_array_equal(mine.mean_log_probs, theirs.mean_log_probs)
        assert set(mine.teachers.tolist()) <= {index, -7}
    longer = replace(one, writing=replace(one.writing, beam_size=3))
    ask(pool, longer, cache)
    assert computed(pool) == [10, 10, 10]


@pytest.mark.parametrize(("prefix", "references"), [(True, True), (True, False), (False, True)])
def test_work_for_some_rows_is_theirs_out_of_the_work_for_all(prefix, references):
    one = request(6, 6, prefix=prefix, references=references)
    teacher = FakeTeacher(1)
    rows = (None, 1, None, None, 4, None)
    made = (0, 2, 3, 4, 5)
    part = take_request(one, made)
    [whole] = split_request(one, teacher.reader(one.audio.waveforms()), 99)
    works = Found(rows).works(one, teacher.reader(part.audio.waveforms()), made, 3)
    assert [work.size for work in works] == [3, 1]
    place = 0
    for work in works:
        for row in range(work.size):
            expected = (0, 2, 3, 5)[place]
            frames = int(whole.lengths[expected])
            assert int(work.lengths[row]) == frames
            assert work.inputs[row, :frames].equal(whole.inputs[expected, :frames])
            np.testing.assert_array_equal(work.prefix[row], whole.prefix[expected])
            assert (work.references is None) == (not references)
            if references:
                np.testing.assert_array_equal(work.references[row], whole.references[expected])
            place += 1


def test_nothing_missing_is_no_work_and_no_row_is_needed():
    cache, one = OutputCache(LARGE), request(1, 3)
    ask([FakeTeacher(1)], one, cache)
    found = find("digest-1", one, row_keys(one), memory=cache)
    assert found.missing == ()
    assert needed([found]) == ()
    nothing = FakeTeacher(1).reader(one.audio.waveforms())
    assert found.works(one, nothing, (), 9) == []
    assert find("digest-1", one, row_keys(one)).missing == (0, 1, 2)


def test_fresh_rows_for_other_rows_than_the_missing_ones_are_refused():
    one = request(1, 3)
    [output] = ask([FakeTeacher(1)], one, OutputCache(LARGE))
    with pytest.raises(ValueError, match="3 fresh rows for 2 missing"):
        Found((None, 1, None)).whole(output, 0)
    with pytest.raises(ValueError, match="0 fresh rows for 2 missing"):
        Found((None, 1, None)).whole(None, 0)


def test_part_of_a_request_is_a_request():
    one = replace(request(2, 4, prefix=True), texts=("a", "b", "c", "d"))
    part = take_request(one, [1, 3])
    assert part.utterance_ids == (one.utterance_ids[1], one.utterance_ids[3])
    assert part.texts == ("b", "d")
    assert row_keys(part) == (row_keys(one)[1], row_keys(one)[3])
    assert take_request(one, range(4)) is one
    silent = replace(one, audio=Audio.of([]))
    assert len(take_request(silent, [2]).audio.lengths) == 0
    assert part.fusion == Fusion(Weighted())
