"""A recogniser in front of text experts: the same as experts on stored transcripts."""

import json

import numpy as np
import pytest
import tiny
import torch
from pydantic import ValidationError
from tiny_runs import assert_close, last_weights, run, train_lines

from kd_ray.commands.generate import transcribe
from kd_ray.config.generation import TranscribeConfig
from kd_ray.config.strategies import Average
from kd_ray.config.teachers import OnTheFly
from kd_ray.core.contracts import Audio, Fusion, Generate, Labels, Score, Writing
from kd_ray.core.handshake import HandshakeError
from kd_ray.evaluation.run_folder import RunFolderError
from kd_ray.evaluation.system import UnusableSystem
from kd_ray.speech.audio import read_waveform
from kd_ray.speech.manifest import read_manifest
from kd_ray.speech.tokens import Tokens
from kd_ray.teachers.local_source import LocalSource
from kd_ray.teachers.teacher import load_teachers
from kd_ray.teachers.transcriber import TranscriberSpec, load_transcriber

STUDENT = {
    "type": "speech_to_text",
    "front_end": {"num_mels": 16},
    "encoder": {**tiny.ATTENTION, "conv_channels": 8},
    "decoder": tiny.ATTENTION,
}
RECOGNIZER = "teachers/t0"
PLAIN = {key: value for key, value in tiny.PLAIN_SGD.items() if not key.startswith("model__")}


@pytest.fixture(scope="module")
def experts(tiny_root):
    return tiny.make_experts(tiny_root)


def transcriber_of(root, **settings):
    config = OnTheFly(system=RECOGNIZER, **settings)
    return load_transcriber(TranscriberSpec(root / RECOGNIZER, config))


def source_of(root, experts, transcriber=None):
    teachers = load_teachers([root / folder for folder in experts])
    return LocalSource(teachers, transcriber=transcriber)


def config_of(name, experts, **overrides):
    return tiny.distill_config(
        name, experts, model=STUDENT, teachers__strategy={"type": "average"},
        training__epochs=2, **PLAIN, **overrides,
    )  # fmt: skip


FLY = {"teachers__reads": "asr_transcript", "teachers__recognizer": {"system": RECOGNIZER}}


@pytest.mark.parametrize("preset", ["kd_transcripts", "imitkd_transcripts"])
def test_transcripts_on_the_fly_teach_what_stored_ones_teach(tiny_root, experts, preset):
    for split in ("train", "valid"):
        transcribe(
            TranscribeConfig(
                command="transcribe", manifest=f"data/{split}.parquet",
                output=f"data/{split}-asr.parquet", system=RECOGNIZER, decoding="attention",
                empty="keep",
            ),
            tiny_root,
        )  # fmt: skip
    stored = config_of(
        f"stored-{preset}", experts, distillation={"preset": preset},
        teachers__reads="transcript", data__train="data/train-asr.parquet",
        data__valid="data/valid-asr.parquet",
    )  # fmt: skip
    texts = {row.id: row.transcript for row in read_manifest(tiny_root / "data/train-asr.parquet")}
    assert len(set(texts.values())) > 3
    source = source_of(tiny_root, experts)
    run(stored, tiny_root, source=source)
    source.close()
    fly = config_of(f"fly-{preset}", experts, distillation={"preset": preset}, **FLY)
    transcriber = transcriber_of(tiny_root)
    source = source_of(tiny_root, experts, transcriber)
    run(fly, tiny_root, source=source)
    source.close()
    # Two epochs, each utterance decoded once.
    assert transcriber.decoded == tiny.SPLITS["train"]
    mine, theirs = (
        [line["loss"] for line in train_lines(tiny_root, name) if line["kind"] == "train"]
        for name in (fly.name, stored.name)
    )
    np.testing.assert_allclose(mine, theirs, atol=1e-5)
    assert_close(last_weights(tiny_root, fly.name), last_weights(tiny_root, stored.name), 1e-5)


def about(root, rows, kind=Score, **changes):
    audio = Audio.of([read_waveform(row, root) for row in rows])
    ids = tuple(row.id for row in rows)
    if kind is Generate:
        return Generate(ids, audio, writing=Writing(max_length=6), **changes)
    tokens = Tokens.load(root / "data/tokens.json")
    references = Labels.of([tokens.encode(row.phones) for row in rows])
    return Score(ids, audio, references, Fusion(Average()), wanted=frozenset({"tokens"}), **changes)


@pytest.mark.parametrize("kind", [Score, Generate])
def test_every_expert_reads_the_transcript_for_either_kind_of_request(tiny_root, experts, kind):
    rows = read_manifest(tiny_root / "data/train.parquet")[:5]
    transcriber = transcriber_of(tiny_root)
    heard = transcriber([row.id for row in rows], about(tiny_root, rows).audio.waveforms(), 2)
    source = source_of(tiny_root, experts, transcriber)
    fly = source.ask(about(tiny_root, rows, kind)).result(60.0)
    given = source.ask(about(tiny_root, rows, kind, texts=heard)).result(60.0)
    source.close()
    assert fly.answered == given.answered == (0, 1)
    if kind is Score:
        np.testing.assert_allclose(fly.tokens.log_probs, given.tokens.log_probs, atol=1e-5)
    else:
        np.testing.assert_array_equal(fly.best.strings.ids, given.best.strings.ids)


def test_transcripts_are_remembered_by_what_is_heard_as_long_as_there_is_room(tiny_root):
    rows = read_manifest(tiny_root / "data/train.parquet")[:4]
    names = [row.id for row in rows]
    waveforms = [read_waveform(row, tiny_root) for row in rows]
    transcriber = transcriber_of(tiny_root, cache_utterances=3)
    first = transcriber(names[:3], waveforms[:3], 8)
    assert transcriber(names[:3], waveforms[:3], 8) == first
    assert transcriber.decoded == 3
    # The same utterance twice in a request is one transcript.
    assert transcriber([names[3]] * 2, [waveforms[3]] * 2, 8)[0]
    assert transcriber.decoded == 4
    assert transcriber(names[1:3], waveforms[1:3], 8) == first[1:]
    assert transcriber.decoded == 4
    transcriber(names[:1], waveforms[:1], 8)
    assert transcriber.decoded == 5
    # Another job may have other audio under the same id.
    other = transcriber(names[:1], waveforms[3:], 8)
    assert other == transcriber(names[3:], waveforms[3:], 8) != first[:1]
    assert transcriber.decoded == 6
    # Nothing is remembered, and everything is still answered.
    forgetful = transcriber_of(tiny_root, cache_utterances=0)
    assert forgetful(names[:3], waveforms[:3], 2) == first
    assert forgetful(names[:3], waveforms[:3], 2) == first
    assert forgetful.decoded == 6


def test_a_beam_and_the_ctc_head_can_transcribe_too(tiny_root):
    rows = read_manifest(tiny_root / "data/train.parquet")[:6]
    waveforms = [read_waveform(row, tiny_root) for row in rows]
    found = {
        head: transcriber_of(tiny_root, decoding=head, beam_size=3)(
            [row.id for row in rows], waveforms, 8
        )
        for head in ("attention", "ctc", "beam")
    }
    assert len(set(found.values())) == 3


@pytest.mark.parametrize(
    ("teachers", "words"),
    [
        ({"teachers__reads": "asr_transcript"}, "need reads 'asr_transcript' and recognizer"),
        (
            {"teachers__reads": "transcript", "teachers__recognizer": {"system": "x"}},
            "leave recognizer out",
        ),
        ({**FLY, "teachers__source": {"type": "store", "path": "x"}}, "take 'local' or 'pool'"),
        ({**FLY, "distillation": {"preset": "word_kd"}}, "'kd_transcripts' or 'imitkd_transcripts"),
    ],
    ids=["no recogniser", "stored", "store", "preset"],
)
def test_what_does_not_belong_together_is_refused(teachers, words):
    with pytest.raises((ValidationError, ValueError), match=words):
        tiny.distill_config("refused", ["experts/e0"], **teachers)


def test_a_source_without_recogniser_or_with_a_reader_is_refused(tiny_root, experts):
    source = source_of(tiny_root, experts)
    with pytest.raises(HandshakeError, match=r"teachers\.recognizer"):
        run(
            config_of("lonely", experts, distillation={"preset": "kd_transcripts"}, **FLY),
            tiny_root,
            source=source,
        )
    source.close()
    with pytest.raises(UnusableSystem, match="reads text, and a recogniser hears"):
        load_transcriber(TranscriberSpec(tiny_root / experts[0], OnTheFly(system=experts[0])))


def test_a_run_goes_on_with_the_recogniser_that_it_began_with_only(tiny_root, experts, monkeypatch):
    config = config_of("same-recogniser", experts, distillation={"preset": "kd_transcripts"}, **FLY)
    source = source_of(tiny_root, experts, transcriber_of(tiny_root))
    run(config, tiny_root, source=source)
    source.close()
    folder = tiny_root / "runs" / config.name
    (folder / "summary.json").unlink()
    made_of = json.loads(next(iter(sorted(folder.glob("checkpoints/*/state.json")))).read_text())[
        "made_of"
    ]
    assert len(made_of["teachers"]) == 3
    other = load_transcriber(
        TranscriberSpec(tiny_root / "teachers/t1", OnTheFly(system="teachers/t1"))
    )
    source = source_of(tiny_root, experts, other)
    with pytest.raises(RunFolderError, match="teachers: digest"):
        run(config, tiny_root, source=source)
    source.close()
    assert torch.is_tensor(next(iter(last_weights(tiny_root, config.name).values())))
