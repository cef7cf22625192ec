import dataclasses
from dataclasses import replace

import numpy as np
import pytest
from doubles import request, writing_request
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_ray.config.strategies import Average, Best
from kd_ray.core.contracts import Audio, Fusion, Generate, Labels, Score, View, Writing
from kd_ray.teachers.cache.keys import (
    KEY_BYTES,
    asks_chrf,
    asks_tokens,
    at_full_precision,
    narrower,
    row_keys,
    wider,
)

BOTH = request(1, 3, prefix=True)
TEXTS = ("a b", "c", "")


def changed_waveform(one, row):
    waves = [wave.copy() for wave in one.audio.waveforms()]
    waves[row][-1] += 1
    return replace(one, audio=Audio.of(waves))


def other(labels, row):
    strings = [string.copy() for string in labels.strings()]
    strings[row][-1] += 1
    return Labels.of(strings)


CHANGES = {
    "audio": lambda one: changed_waveform(one, 1),
    "texts": lambda one: replace(one, texts=("a b", "d", "")),
    "prefix": lambda one: replace(one, prefix=other(one.prefix, 1)),
    "references": lambda one: replace(one, references=other(one.references, 1)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_row_reads_changes_its_key_and_no_other(change):
    one = replace(BOTH, texts=TEXTS)
    before, after = row_keys(one), row_keys(CHANGES[change](one))
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True]


FOR_ALL = {
    "view name": lambda one: replace(one, view=View("specaugment", 0)),
    "view seed": lambda one: replace(one, view=View("clean", 1)),
    "tokens only": lambda one: replace(one, wanted=frozenset({"tokens"})),
    "labels only": lambda one: replace(one, wanted=frozenset({"labels"})),
    "rounded": lambda one: replace(one, fusion=replace(one.fusion, dtype="float16")),
    "no references": lambda one: replace(one, references=None),
    "references as prefix": lambda one: replace(one, prefix=None),
    "texts too": lambda one: replace(one, texts=TEXTS),
    "written": lambda one: Generate(one.utterance_ids, one.audio, prefix=one.prefix),
}


def test_every_part_of_a_request_changes_every_key():
    kinds = [row_keys(BOTH), *(row_keys(change(BOTH)) for change in FOR_ALL.values())]
    for rows in zip(*kinds, strict=True):
        assert len(set(rows)) == len(kinds)


IGNORED = {
    "ids": lambda one: replace(one, utterance_ids=("x", "y", "z")),
    "strategy": lambda one: replace(one, fusion=Fusion(Best())),
    "temperature": lambda one: replace(one, fusion=replace(one.fusion, temperature=3.0)),
    "fusing": lambda one: replace(one, fusion=replace(one.fusion, fusing="geometric")),
    "max strings": lambda one: replace(one, fusion=replace(one.fusion, max_strings=1)),
    "deadline": lambda one: replace(one, deadline_s=1.0),
    "priority": lambda one: replace(one, priority=7),
    "per teacher": lambda one: replace(one, per_teacher=True),
    "id dtype": lambda one: replace(
        one, references=Labels(one.references.ids.astype(np.int32), one.references.lengths)
    ),
    "padding": lambda one: replace(
        one,
        prefix=Labels(
            np.pad(one.prefix.ids, ((0, 0), (0, 4)), constant_values=5), one.prefix.lengths
        ),
    ),
}


@pytest.mark.parametrize("change", IGNORED)
def test_what_no_teacher_reads_is_in_no_key(change):
    assert row_keys(IGNORED[change](BOTH)) == row_keys(BOTH)


def test_keys_are_of_rows_not_of_batches():
    one = request(2, 4)
    strings, waves = one.references.strings(), one.audio.waveforms()
    for row, key in enumerate(row_keys(one)):
        alone = replace(
            one,
            utterance_ids=("alone",),
            audio=Audio.of([waves[row]]),
            references=Labels.of([strings[row]]),
        )
        assert row_keys(alone) == (key,)
        assert len(key) == KEY_BYTES


def test_no_prefix_is_an_empty_prefix_and_no_reference_is_no_empty_one():
    bare = replace(request(1, 1), prefix=None, references=None, wanted=frozenset({"labels"}))
    nothing = Labels.of([[]])
    assert row_keys(bare) == row_keys(replace(bare, prefix=nothing))
    assert row_keys(bare) != row_keys(replace(bare, references=nothing))
    written = writing_request(1, 1, prefix=False)
    assert row_keys(written) == row_keys(replace(written, prefix=nothing))


def test_each_setting_of_writing_changes_the_key():
    one = writing_request(1, 2)
    changed = {"beam_size": 3, "length_penalty": 0.5, "max_length": 9, "max_length_ratio": 0.5}
    assert changed.keys() == {field.name for field in dataclasses.fields(Writing)}
    kinds = [one.writing, *(replace(one.writing, **{k: v}) for k, v in changed.items())]
    assert len({row_keys(replace(one, writing=writing)) for writing in kinds}) == len(kinds)
    assert row_keys(replace(one, teacher=1, per_teacher=True)) == row_keys(one)


def test_speech_teachers_share_keys_whatever_the_text_and_text_teachers_whatever_the_audio():
    mixed = replace(BOTH, texts=TEXTS)
    assert row_keys(mixed, "speech") == row_keys(BOTH) == row_keys(BOTH, "speech")
    only_text = replace(mixed, audio=Audio.of([]), view=View("noisy", 3))
    assert row_keys(mixed, "text") == row_keys(only_text) == row_keys(only_text, "text")
    assert row_keys(BOTH, "text", TEXTS) == row_keys(mixed, "text")
    assert row_keys(BOTH, None, TEXTS) == row_keys(mixed)


def test_keys_of_what_is_not_there_are_refused():
    with pytest.raises(ValueError, match="carries none"):
        row_keys(BOTH, "text")
    with pytest.raises(ValueError, match="audio of 3 utterances"):
        row_keys(replace(BOTH, audio=Audio.of([]), texts=TEXTS), "speech")
    audio = Audio(BOTH.audio.samples.astype(np.float32), BOTH.audio.lengths)
    with pytest.raises(TypeError, match="Cannot cast"):
        row_keys(replace(BOTH, audio=audio))


ids = st.lists(st.integers(0, 3), max_size=3)
row = st.tuples(
    st.lists(st.integers(-2, 2), max_size=3), st.none() | st.text("ab", max_size=2), ids, ids
)


@settings(max_examples=200, deadline=None)
@given(row, row)
def test_keys_are_equal_just_where_rows_are(a, b):
    def key(part):
        samples, text, prefix, reference = part
        return row_keys(
            Score(
                ("u",),
                Audio.of([np.array(samples, dtype=np.int16)]),
                Labels.of([reference]),
                Fusion(Average()),
                prefix=Labels.of([prefix]),
                texts=None if text is None else (text,),
            )
        )

    assert (key(a) == key(b)) == (a == b)


def asked(wanted, dtype="float32", **more):
    return row_keys(
        replace(
            request(1, 1), wanted=frozenset(wanted), fusion=Fusion(Average(), dtype=dtype), **more
        )
    )[0]


def test_an_entry_answers_what_it_holds_and_nothing_more():
    both, tokens, labels = asked({"tokens", "labels"}), asked({"tokens"}), asked({"labels"})
    rounded, rounded_both = asked({"tokens"}, "float16"), asked({"tokens", "labels"}, "float16")
    with_chrf = {
        narrow: asked({*wanted, "chrf"}, dtype)
        for narrow, wanted, dtype in (
            (both, ("tokens", "labels"), "float32"), (tokens, ("tokens",), "float32"),
            (labels, ("labels",), "float32"), (rounded, ("tokens",), "float16"),
            (rounded_both, ("tokens", "labels"), "float16"),
        )
    }  # fmt: skip

    def and_chrf(*keys):
        """These, and the same with chrF beside."""
        return {*keys, *(with_chrf[key] for key in keys)}

    assert set(wider(labels)) == and_chrf(labels, both, rounded_both)
    assert set(wider(tokens)) == and_chrf(tokens, both)
    assert set(wider(rounded)) == and_chrf(rounded, rounded_both, tokens, both)
    assert set(wider(both)) == and_chrf(both)
    assert set(wider(with_chrf[both])) == {with_chrf[both]}
    assert both not in wider(with_chrf[labels])
    for key in (both, tokens, labels, rounded, rounded_both):
        assert wider(key)[0] == key
        for narrow in narrower(key):
            assert key in wider(narrow)
    trust = asked({"trust"})
    assert set(wider(trust)) == {trust, asked({"trust", "chrf"}), *with_chrf, *with_chrf.values()}
    assert not asks_tokens(trust)
    assert not asks_chrf(trust)
    assert set(narrower(labels)) == {trust}
    assert set(narrower(both)) == {labels, tokens, rounded, rounded_both, trust}
    assert at_full_precision(rounded) == tokens
    assert at_full_precision(rounded_both) == both
    assert at_full_precision(labels) == labels


def test_an_output_that_is_sent_back_is_never_rounded():
    sent_back = asked({"tokens"}, "float16", per_teacher=True)
    assert sent_back == asked({"tokens"}, "float32")


def test_what_was_written_answers_itself_only():
    [key] = row_keys(writing_request(1, 1))
    assert wider(key) == (key,)
    assert narrower(key) == ()
