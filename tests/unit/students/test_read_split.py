"""Which rows of a manifest a training refuses before it starts; `kd-ray check` asks the same."""

import numpy as np
import pytest
import soundfile
import tiny
from tiny_runs import run

from kd_ray.commands.check import check
from kd_ray.evaluation.token_file import token_file
from kd_ray.speech.checks import BadRowsError
from kd_ray.speech.features import LogMelExtractor
from kd_ray.speech.manifest import ManifestError, Utterance, read_manifest, write_manifest
from kd_ray.speech.tokens import Tokens
from kd_ray.students.materials import read_split


def split(config, root, manifest):
    return read_split(manifest, root, config, Tokens.load(token_file(config, root)))


def spoken(root, name, samples):
    """A row of one phone, whose file has so many samples."""
    noise = np.random.default_rng(0).normal(0, 1000, samples).astype(np.int16)
    soundfile.write(root / "data" / f"{name}.flac", noise, 16_000)
    return Utterance(name, audio=f"data/{name}.flac", duration_s=samples / 16_000, phones="a")


@pytest.mark.parametrize(
    ("frame_ms", "samples"), [(25.0, 480), (64.0, 1024), (62.5, 1000)], ids=["25", "64", "62.5"]
)
def test_audio_is_long_enough_where_the_front_end_makes_a_frame_of_it(tiny_root, frame_ms, samples):
    front_end = {"type": "log_mel", "frame_length_ms": frame_ms}
    config = tiny.train_config("short", model__front_end=front_end)
    rows = [spoken(tiny_root, f"short-{count}", count) for count in (samples - 1, samples)]
    write_manifest(tiny_root / "data" / "short.parquet", rows)
    with pytest.raises(BadRowsError, match=rf"too short: 0\.0\d+ s, at least {samples / 16_000:g}"):
        split(config, tiny_root, "data/short.parquet")
    skipping = tiny.train_config(
        "short", model__front_end=front_end, data__batches__on_bad_row="skip"
    )
    (good,) = split(skipping, tiny_root, "data/short.parquet")
    assert good.id == f"short-{samples}"
    waveform, _ = soundfile.read(tiny_root / good.audio, dtype="int16")
    extractor = LogMelExtractor(config.model.front_end)
    assert extractor([waveform])[1].tolist() == [extractor.num_frames(samples)]


def test_the_check_finds_audio_that_gives_no_frame(tiny_root):
    rows = read_manifest(tiny_root / "data" / "valid.parquet")
    short = spoken(tiny_root, "too-short", 960)
    write_manifest(tiny_root / "data" / "with-short.parquet", [*rows, short])
    config = tiny.train_config(
        "check-short",
        data__valid="data/with-short.parquet",
        model__front_end={"type": "log_mel", "frame_length_ms": 64.0},
    )
    (problem,) = check(config, tiny_root).problems
    assert "row 6, too-short: too short: 0.060 s, at least 0.064 s" in problem


@pytest.mark.parametrize("name", ["train", "valid"])
def test_a_manifest_without_rows_is_refused_before_the_first_update(tiny_root, name):
    write_manifest(tiny_root / "data" / "nobody.parquet", [])
    config = tiny.train_config(f"nobody-{name}", **{f"data__{name}": "data/nobody.parquet"})
    (problem,) = check(config, tiny_root).problems
    assert "manifest data/nobody.parquet has no rows" in problem
    with pytest.raises(ManifestError, match=r"nobody\.parquet has no rows.*kd-ray prepare"):
        run(config, tiny_root)
    assert not (tiny_root / "runs" / config.name / "metrics.jsonl").exists()


def test_a_limit_in_seconds_asks_for_durations(tiny_root):
    rows = read_manifest(tiny_root / "data" / "valid.parquet")
    unknown = Utterance("unknown", audio=rows[0].audio, phones=rows[0].phones)
    write_manifest(tiny_root / "data" / "unknown.parquet", [*rows[1:], unknown])
    options = {"data__valid": "data/unknown.parquet", "training__epochs": 1}
    limited = tiny.train_config("unknown", data__batches__max_batch_s=4.0, **options)
    with pytest.raises(BadRowsError, match=r"unknown: no duration_s, which data\.batches\.max_bat"):
        run(limited, tiny_root)
    skipping = tiny.train_config(
        "unknown-skipped", data__batches__max_batch_s=4.0, data__batches__on_bad_row="skip",
        **options,
    )  # fmt: skip
    assert run(skipping, tiny_root)["updates"] >= 1
    # Without one, nothing of validation depends on them but the order.
    assert run(tiny.train_config("unknown-unlimited", **options), tiny_root)["updates"] == 3
