"""Manifests whose texts a system or a log wrote."""

from dataclasses import replace

import pytest
import tiny

from kd_ray.commands.generate import NothingToRead, transcribe, translate
from kd_ray.config.load import ConfigError, check
from kd_ray.evaluation.cascade import load_any
from kd_ray.evaluation.decode import Search, decode_utterances
from kd_ray.speech.joining import JoinError
from kd_ray.speech.manifest import read_manifest, write_manifest


@pytest.fixture(scope="module")
def expert(tiny_root):
    """An expert's folder; `data/texts.parquet` has its phones as transcript and translation."""
    rows = [
        replace(row, transcript=row.phones, translation=row.phones)
        for row in read_manifest(tiny_root / "data" / "valid.parquet")
    ]
    write_manifest(tiny_root / "data" / "texts.parquet", rows)
    return tiny.make_experts(tiny_root, 1)[0]


def settings(command, **changes):
    content = {"command": command, "manifest": "data/texts.parquet", "output": "data/new.parquet"}
    return check({**content, **changes}, "test")


def said(root, place, decoding):
    system = load_any(place, root)
    rows = read_manifest(root / "data" / "texts.parquet")
    search = Search((decoding,), beam_size=3)
    return {
        found.utterance_id: system.tokens.decode(found.by(decoding))
        for found in decode_utterances(system, rows, root, 2, search)
    }


@pytest.mark.parametrize("decoding", ["attention", "beam"])
def test_translations_take_the_place_of_the_old_ones_by_id(tiny_root, expert, decoding):
    config = settings("translate", system=expert, decoding=decoding, beam_size=3, empty="keep",
                      keep_old_as="gold")  # fmt: skip
    result = translate(config, tiny_root)
    expected = said(tiny_root, expert, decoding)
    rows = read_manifest(result.manifest)
    assert {row.id: row.translation for row in rows} == expected
    old = {row.id: row for row in read_manifest(tiny_root / "data" / "texts.parquet")}
    assert all(row.extra["gold"] == old[row.id].translation for row in rows)
    assert all(row.transcript == old[row.id].transcript for row in rows)
    assert result.joined.replaced == len(rows) == 6
    assert result.translation.sentences == 6


def test_rows_with_an_empty_new_text_are_left_out_and_counted(tiny_root, expert):
    log = tiny_root / "generate.log"
    log.write_text("D-0\t-0.1\tein Haus\nH-0\t-0.1\tein@@ Haus\nD-1\t-0.2\t\nD-3\t-0.2\tzwei\n")
    result = translate(settings("translate", log="generate.log"), tiny_root)
    rows = read_manifest(result.manifest)
    old = read_manifest(tiny_root / "data" / "texts.parquet")
    assert result.left_out == 1
    assert [row.id for row in rows] == [row.id for row in old if row.id != old[1].id]
    assert rows[0].translation == "ein Haus"
    assert rows[1].translation == old[2].translation
    assert result.joined.missing == tuple(old[place].id for place in (2, 4, 5))


def test_a_share_of_the_rows_gets_the_new_text_the_same_ones_each_time(tiny_root, expert):
    log = tiny_root / "share.log"
    log.write_text("".join(f"D-{number}\t0\tneu {number}\n" for number in range(6)))
    config = settings("translate", log="share.log", share=0.5, seed=3)
    first = translate(config, tiny_root)
    again = [row.translation for row in read_manifest(translate(config, tiny_root).manifest)]
    texts = [row.translation for row in read_manifest(first.manifest)]
    assert texts == again
    assert 0 < first.mixed == sum(text.startswith("neu") for text in texts) < 6


def test_transcripts_of_a_recogniser_come_with_their_word_error_rate(tiny_root, expert):
    config = settings("transcribe", system="teachers/t0", decoding="ctc", empty="keep")
    result = transcribe(config, tiny_root)
    expected = said(tiny_root, "teachers/t0", "ctc")
    assert {row.id: row.transcript for row in read_manifest(result.manifest)} == expected
    assert result.word_error_rate > 0
    assert result.translation is None


def test_what_does_not_belong_together_is_refused(tiny_root, expert):
    with pytest.raises(ConfigError, match="either system or log"):
        settings("translate")
    with pytest.raises(ConfigError, match="either system or log"):
        settings("transcribe", system="a", log="b")
    (tiny_root / "long.log").write_text("D-99\t0\tzu weit\n")
    with pytest.raises(JoinError, match="sentence 99, the data set 6 rows"):
        translate(settings("translate", log="long.log"), tiny_root)
    write_manifest(tiny_root / "data" / "empty.parquet", [])
    with pytest.raises(NothingToRead, match="has no rows"):
        translate(settings("translate", system=expert, manifest="data/empty.parquet"), tiny_root)
