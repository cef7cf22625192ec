"""Actors that decode: the same hypotheses as one process, whatever becomes of the actors."""

import dataclasses

import pytest
import ray

from kd_ray.cluster.decoding import Decoders
from kd_ray.commands.evaluate import evaluate
from kd_ray.commands.generate import transcribe
from kd_ray.config.evaluation import EvaluateConfig
from kd_ray.config.load import check
from kd_ray.config.placing import DecodingActors
from kd_ray.evaluation.decode import Search, decode_utterances
from kd_ray.evaluation.run_folder import read_json_lines
from kd_ray.evaluation.system import UnusableSystem, load_system
from kd_ray.speech.audio import AudioError
from kd_ray.speech.manifest import read_manifest

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.usefixtures("local_ray")]

TWO = {"actors": 2, "cpus_per_actor": 0.5}


def test_actors_hear_what_one_process_hears_though_one_is_killed(tiny_root, tmp_path):
    system = load_system(tiny_root / "teachers" / "t0")
    rows = read_manifest(tiny_root / "data" / "train.parquet")
    search = Search(("attention", "ctc", "beam"), beam_size=3)
    alone = decode_utterances(system, rows, tiny_root, 4, search)
    expected = {each.utterance_id: each for each in alone}
    with Decoders(DecodingActors(**TWO), tiny_root) as decoders:
        decode = decoders.of("teachers/t0", system)
        killed, found = False, {}
        for each in decode_utterances(system, rows, tiny_root, 4, search, elsewhere=decode):
            found[each.utterance_id] = each
            if not killed:
                # As if its process had crashed.
                ray.kill(decoders._actors[0], no_restart=False)
                killed = True
        assert found == expected
        # The actors stay for another system, and find out that it is not the one that is meant.
        other = load_system(tiny_root / "teachers" / "t1")
        decode = decoders.of("teachers/t2", other)
        with pytest.raises(UnusableSystem, match="where an actor decodes"):
            list(decode_utterances(other, rows, tiny_root, 4, search, elsewhere=decode))


def test_what_an_actor_finds_wrong_is_told_as_the_command_itself_would(tiny_root):
    rows = read_manifest(tiny_root / "data" / "train.parquet")[:2]
    missing = dataclasses.replace(rows[1], audio="data/audio/nowhere.flac")
    system = load_system(tiny_root / "teachers" / "t0")
    with Decoders(DecodingActors(**TWO), tiny_root) as decoders:
        decode = decoders.of("teachers/t0", system)
        with pytest.raises(AudioError, match=rf"nowhere\.flac \(utterance {rows[1].id}\)"):
            list(decode([[rows[0], missing]], Search()))


def test_commands_write_the_same_with_actors_and_without(tiny_root):
    evaluated, transcribed = [], []
    for label, actors in (("here", {}), ("actors", TWO)):
        config = EvaluateConfig(
            command="evaluate",
            name=f"decoding/{label}",
            systems={"teachers": ["teachers/t0", "teachers/t1"]},
            splits={"valid": "data/valid.parquet"},
            tokens="data/tokens.json",
            batch_size=2,
            speed_utterances=0,
            **actors,
        )
        results = evaluate(config, tiny_root)
        evaluated.append([row["scores"] for row in results["systems"]])
        written = sorted((tiny_root / "runs" / config.name / "hypotheses").rglob("*.jsonl"))
        evaluated.append([read_json_lines(path) for path in written])
        content = {"command": "transcribe", "system": "teachers/t0", "decoding": "ctc",
                   "manifest": "data/valid.parquet", "output": f"data/{label}.parquet",
                   "batch_size": 2, **actors}  # fmt: skip
        transcribed.append(read_manifest(transcribe(check(content, "test"), tiny_root).manifest))
    assert evaluated[:2] == evaluated[2:]
    assert transcribed[0] == transcribed[1]
