"""Manifests whose texts a system or a log wrote."""

import logging
import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import sacrebleu
import tiny
import torch

from kd_ray.commands.check import check as look_at
from kd_ray.commands.generate import (
    Choice,
    NothingToRead,
    hypotheses_folder,
    transcribe,
    translate,
)
from kd_ray.config.load import ConfigError, check
from kd_ray.config.model import TextToText
from kd_ray.evaluation import decode
from kd_ray.evaluation.cascade import load_any
from kd_ray.evaluation.decode import Search, decode_utterances
from kd_ray.evaluation.kept_texts import kept_texts
from kd_ray.models.build import build_model
from kd_ray.models.checkpoint import save_model
from kd_ray.speech.joining import JoinError
from kd_ray.speech.manifest import read_manifest, write_manifest
from kd_ray.speech.tokens import Tokens
from kd_ray.storage import StorageError


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


def test_rows_of_a_mix_keep_their_old_text_where_the_new_one_is_empty(tiny_root, expert):
    log = tiny_root / "mixed.log"
    texts = ["eins", "", "drei", "", "fuenf"]
    log.write_text("".join(f"D-{number}\t0\t{text}\n" for number, text in enumerate(texts)))
    config = settings("translate", log="mixed.log", share=0.999, keep_old_as="gold")
    result = translate(config, tiny_root)
    old = read_manifest(tiny_root / "data" / "texts.parquet")
    rows = read_manifest(result.manifest)
    gold = [row.translation for row in old]
    assert [row.translation for row in rows] == ["eins", gold[1], "drei", gold[3], "fuenf", gold[5]]
    assert [row.extra["gold"] for row in rows] == gold
    assert (result.mixed, result.left_out) == (3, 0)


def test_transcripts_of_a_recogniser_come_with_their_word_error_rate(tiny_root, expert):
    config = settings("transcribe", system="teachers/t0", decoding="ctc", empty="keep")
    result = transcribe(config, tiny_root)
    expected = said(tiny_root, "teachers/t0", "ctc")
    assert {row.id: row.transcript for row in read_manifest(result.manifest)} == expected
    assert result.word_error_rate > 0
    assert result.translation is None


NEAREST = {"candidates": "nearest_to_reference", "beam_size": 40}
SCORES = {
    "bleu": sacrebleu.sentence_bleu,
    "chrf": lambda text, references: sacrebleu.sentence_chrf(text, references),
}


def two_word_expert(root):
    """Reads phones, writes `ja` and `no`: 15 texts of at most three words."""
    phones = Tokens.load(root / "data" / "tokens.json")
    words = Tokens.train(["ja no"], "words")
    torch.manual_seed(1)
    model = build_model(
        TextToText.model_validate({"encoder": tiny.ATTENTION, "decoder": tiny.ATTENTION}),
        vocabulary_size=len(words), blank=words.blank, bos=words.bos, eos=words.eos,
        source_vocabulary_size=len(phones),
    )  # fmt: skip
    save_model(root / "two-words", model, tokens=words.to_dict(), extra={},
               source_tokens=phones.to_dict())  # fmt: skip


@pytest.mark.parametrize("metric", SCORES)
def test_the_nearest_candidate_is_the_nearest_of_all_texts_where_the_beam_holds_all(
    tiny_root, expert, metric
):
    two_word_expert(tiny_root)
    old = ["ja no ja", "no", "ja ja", "no no ja no ja", "", "x y"]
    rows = read_manifest(tiny_root / "data" / "texts.parquet")
    rows = [replace(row, translation=text) for row, text in zip(rows, old, strict=True)]
    write_manifest(tiny_root / "data" / "two-words.parquet", rows)
    changes = {"system": "two-words", "manifest": "data/two-words.parquet", "max_tokens": 3,
               "empty": "keep"}  # fmt: skip
    plain = translate(settings("translate", **changes, beam_size=40), tiny_root)
    best = {row.id: row.translation for row in read_manifest(plain.manifest)}
    result = translate(settings("translate", **changes, **NEAREST, nearest_by=metric), tiny_root)
    texts = [" ".join(words) for length in range(4) for words in product(["ja", "no"],
             repeat=length)]  # fmt: skip
    others = 0
    written = read_manifest(result.manifest)
    for row, reference in zip(written, old, strict=True):
        if not reference:
            assert row.translation == best[row.id]
            continue
        scores = {text: SCORES[metric](text, [reference]).score for text in texts}
        assert scores[row.translation or ""] == max(scores.values())
        others += row.translation != best[row.id]
    assert written[0].translation == "ja no ja"
    assert written[5].translation == best[written[5].id], "nothing is near: the beam's best"
    assert result.choice == Choice(others=others, without_reference=1)
    assert others
    assert plain.choice is None


def test_transcripts_too_are_chosen_among_the_candidates(tiny_root, expert):
    changes = {"system": "teachers/t0", "empty": "keep", "beam_size": 8, "max_tokens": 5}
    near = {"candidates": "nearest_to_reference", "nearest_by": "chrf"}
    results = [transcribe(settings("transcribe", **changes, **more), tiny_root).manifest
               for more in ({}, {"output": "data/near.parquet", **near})]  # fmt: skip
    best, nearest = ([row.transcript or "" for row in read_manifest(path)] for path in results)
    old = [row.transcript for row in read_manifest(tiny_root / "data" / "texts.parquet")]
    scores = [[sacrebleu.sentence_chrf(text, [right]).score for text, right in zip(new, old,
              strict=True)] for new in (best, nearest)]  # fmt: skip
    assert all(after >= before for before, after in zip(*scores, strict=True))
    assert sum(scores[1]) > sum(scores[0])


def test_candidates_need_a_beam():
    for changes in ({"decoding": "attention"}, {"beam_size": 1}, {"system": None, "log": "x"}):
        with pytest.raises(ConfigError, match="chooses among the hypotheses of a system's beam"):
            settings("translate", **{"system": "e", **NEAREST, **changes})


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


@pytest.fixture
def decoded(monkeypatch):
    """Utterance ids, batch by batch, as they are decoded; the third batch of a run may fail."""
    batches, decode_one = [], decode.decode_batch

    def watched(system, rows, root, search):
        if watched.fails and len(batches) == 2:
            raise KeyboardInterrupt
        batches.append([row.id for row in rows])
        return decode_one(system, rows, root, search)

    watched.fails = False
    monkeypatch.setattr(decode, "decode_batch", watched)
    return batches, watched


@pytest.mark.parametrize("more", [{}, NEAREST], ids=["best", "nearest"])
def test_an_interrupted_command_goes_on_where_it_was(tiny_root, expert, decoded, more):
    batches, watched = decoded
    whole, torn = (
        settings("translate", system=expert, output=f"data/{name}-{len(more)}.parquet",
                 batch_size=2, **more)
        for name in ("whole", "torn")
    )  # fmt: skip
    expected = translate(whole, tiny_root)
    all_batches = batches.copy()
    batches.clear()
    watched.fails = True
    with pytest.raises(KeyboardInterrupt):
        translate(torn, tiny_root)
    assert not (tiny_root / torn.output).exists()
    # What a killed process was writing.
    (kept,) = hypotheses_folder(torn, tiny_root).glob("*.jsonl")
    with kept.open("a") as file:
        file.write('{"id": "half')
    watched.fails = False
    result = translate(torn, tiny_root)
    assert batches == all_batches
    assert read_manifest(result.manifest) == read_manifest(expected.manifest)
    assert result.choice == expected.choice
    # Another share of the same texts, and the same once more, cost no decoding.
    translate(torn.model_copy(update={"share": 0.5}), tiny_root)
    assert read_manifest(translate(torn, tiny_root).manifest) == read_manifest(expected.manifest)
    assert batches == all_batches


def test_what_something_else_wrote_is_not_taken_and_stays(tiny_root, expert, decoded, caplog):
    batches, _ = decoded
    first = settings("translate", system=expert, output="data/other.parquet", decoding="attention")
    written = read_manifest(translate(first, tiny_root).manifest)
    rows = read_manifest(tiny_root / "data" / "texts.parquet")
    write_manifest(tiny_root / "data" / "less.parquet", rows[1:])
    config = first
    changes = [{"decoding": "beam"}, {"beam_size": 3}, {"manifest": "data/less.parquet"}]
    for others, change in enumerate(changes, start=1):
        batches.clear()
        config = config.model_copy(update=change)
        with caplog.at_level(logging.INFO, logger="kd_ray"):
            caplog.clear()
            translate(config, tiny_root)
        assert sum(map(len, batches)) == (5 if "manifest" in change else 6)
        assert f"{others} files of texts that another system" in caplog.messages[0]
    batches.clear()
    assert read_manifest(translate(first, tiny_root).manifest) == written
    assert batches == []


def test_two_processes_do_not_write_the_same_texts(tiny_root, expert, monkeypatch):
    config = settings("translate", system=expert, output="data/twice.parquet")
    with kept_texts(hypotheses_folder(config, tiny_root), {}):
        monkeypatch.setattr("os.getpid", lambda: 1)
        monkeypatch.setattr("kd_ray.storage.lock.PATIENCE_S", 0.1)
        with pytest.raises(StorageError, match="is being written by process"):
            translate(config, tiny_root)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full")
def test_a_full_disk_is_told_with_the_file_and_keeps_what_was_there(tiny_root):
    folder = tiny_root / "kept"
    with kept_texts(folder, {"system": "t"}) as kept:
        kept.add({"u0": ["first"]})
    (path,) = folder.glob("*.jsonl")
    before = path.read_bytes()

    def write_more():
        with kept_texts(folder, {"system": "t"}) as kept, Path("/dev/full").open("wb", 0) as full:
            assert kept.known == {"u0": ("first",)}
            kept._file = full
            kept.add({"u1": ["second"]})

    with pytest.raises(OSError, match=rf"cannot write .*{path.name}: No space left"):
        write_more()
    assert path.read_bytes() == before


def test_texts_at_an_address_are_found_from_another_node(far, tiny_root, expert, decoded):
    batches, watched = decoded
    for name in ("data/texts.parquet", "data/tokens.json"):
        target = far.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tiny_root / name, target)
    config = settings("translate", system=str(tiny_root / expert), batch_size=2)
    watched.fails = True
    with pytest.raises(KeyboardInterrupt):
        translate(config, far.root)
    far.other_node()
    watched.fails = False
    rows = read_manifest(translate(config, far.root).manifest)
    assert len(batches) == 3
    assert rows == read_manifest(translate(config, tiny_root).manifest)
    assert (far.folder / "data" / "new.parquet").exists()


def test_a_check_reads_what_the_command_would_read(tiny_root, expert):
    def problems(**changes):
        return look_at(settings("translate", **changes), tiny_root).problems

    assert problems(system=expert) == []
    (problem,) = problems(system="nowhere")
    assert "nowhere does not exist" in problem
    missing = problems(system={"asr": "teachers/t0", "mt": "nowhere"}, manifest="data/no.parquet")
    assert len(missing) == 2
    (tiny_root / "far.log").write_text("D-99\t0\tzu weit\n")
    (problem,) = problems(log="far.log")
    assert "sentence 99, the data set 6 rows" in problem


def test_places_of_actors_need_actors():
    for changes in ({"gpus_per_actor": 0.5}, {"label_selector": {"kind": "a"}}):
        with pytest.raises(ConfigError, match="actors is 0; set actors to 1 or more"):
            settings("transcribe", system="a", **changes)
