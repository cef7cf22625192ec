"""A corpus and models of the smallest size that real code can run on: phones are sine tones."""

from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from kd_ray.config.commands import DistillConfig, TrainConfig
from kd_ray.config.load import apply_overrides, check
from kd_ray.evaluation.run_folder import write_atomically
from kd_ray.speech.manifest import Utterance, write_manifest
from kd_ray.speech.tokens import Tokens

PHONES = ("a", "b", "d", "e", "f", "g", "i", "k")
SPLITS = {"train": 24, "valid": 6}
_PHONE_S = 0.12

MODEL: dict[str, Any] = {
    "encoder": {"cnn_channels": [4, 4], "rnn_layers": 1, "rnn_size": 12, "dnn_size": 12},
    "decoder": {"embedding_size": 8, "hidden_size": 12, "attention_size": 12},
}

ATTENTION: dict[str, Any] = {
    "layers": 1,
    "size": 16,
    "heads": 2,
    "feed_forward_size": 16,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
}
"""Attention layers of a tiny translator."""

PLAIN_SGD: dict[str, Any] = {
    "model__encoder__dropout": 0.0,
    "model__decoder__dropout": 0.0,
    "training__optimizer": {"type": "sgd", "lr": 0.05},
    "training__schedule": {"type": "constant"},
}
"""Overrides under which rounding is all that workers or micro-batches may change."""


def make_corpus(root: Path) -> None:
    """`data/{train,valid}.parquet`, FLAC files and `data/tokens.json` below `root`."""
    generator = np.random.default_rng(0)
    folder = root / "data"
    folder.mkdir(parents=True)
    texts = []
    for split, count in SPLITS.items():
        rows = []
        for number in range(count):
            phones = [PHONES[each] for each in generator.integers(0, 8, generator.integers(3, 7))]
            waveform = _speak(phones, generator)
            name = f"{split}-{number}"
            soundfile.write(folder / f"{name}.flac", waveform, 16_000)
            rows.append(
                Utterance(
                    id=name,
                    audio=f"data/{name}.flac",
                    duration_s=len(waveform) / 16_000,
                    phones=" ".join(phones),
                )
            )
            texts.append(" ".join(phones))
        write_manifest(folder / f"{split}.parquet", rows)
    Tokens.train([*texts, " ".join(PHONES)], "phones").save(folder / "tokens.json")


def _speak(phones: list[str], generator: np.random.Generator) -> np.ndarray:
    time_s = np.arange(int(16_000 * _PHONE_S)) / 16_000
    tones = [np.sin(2 * np.pi * (200 + 300 * PHONES.index(phone)) * time_s) for phone in phones]
    noise = generator.normal(0, 300, len(time_s) * len(phones))
    return (8000 * np.concatenate(tones) + noise).astype(np.int16)


def train_config(name: str, **overrides: Any) -> TrainConfig:
    """Two epochs on the tiny corpus; `overrides` with `__` for the dots of dotted keys."""
    content: dict[str, Any] = {
        "command": "train",
        "name": name,
        "data": {
            "train": "data/train.parquet",
            "valid": "data/valid.parquet",
            "tokens": "data/tokens.json",
            "batches": {"batch_size": 8},
        },
        "model": MODEL,
        "training": {"epochs": 2},
    }
    section = check(apply_overrides(content, _dotted(overrides)), "test")
    assert isinstance(section, TrainConfig)
    return section


def distill_config(name: str, teachers: list[str] | str, **overrides: Any) -> DistillConfig:
    """Like `train_config`, from teachers in this process."""
    content = train_config(name).model_dump(mode="json")
    del content["loss"]
    content |= {"command": "distill", "teachers": {"list": teachers, "source": {"type": "local"}}}
    section = check(apply_overrides(content, _dotted(overrides)), "test")
    assert isinstance(section, DistillConfig)
    return section


def _dotted(overrides: dict[str, Any]) -> dict[str, Any]:
    return {key.replace("__", "."): value for key, value in overrides.items()}


def make_teachers(root: Path, count: int = 3) -> list[str]:
    """Checkpoint folders (relative to `root`) of recognisers with random, different weights.

    They differ in seed, and every second one hears 64 mels instead of 40.
    """
    import torch

    from kd_ray.config.model import Recognizer
    from kd_ray.models.checkpoint import save_model
    from kd_ray.models.recognizer import RecognizerModel

    tokens = Tokens.load(root / "data" / "tokens.json")
    folders = []
    for number in range(count):
        torch.manual_seed(100 + number)
        front_end = {"num_mels": 64 if number % 2 else 40}
        config = Recognizer.model_validate({**MODEL, "front_end": front_end})
        model = RecognizerModel(
            config, vocabulary_size=len(tokens), blank=tokens.blank, bos=tokens.bos, eos=tokens.eos
        )
        for parameter in model.parameters():
            # Far from uniform: teachers must differ, and say something.
            parameter.data.mul_(3.0)
        folder = f"teachers/t{number}"
        save_model(root / folder, model, tokens=tokens.to_dict(), extra={})
        folders.append(folder)
    write_atomically(root / "teachers.txt", "\n".join(["# tiny teachers", *folders]) + "\n")
    return folders


def make_experts(root: Path, count: int = 2) -> list[str]:
    """Checkpoint folders (relative to `root`) of text translators with random, different weights.

    They read phones and write phones.
    """
    import torch

    from kd_ray.config.model import TextToText
    from kd_ray.models.build import build_model
    from kd_ray.models.checkpoint import save_model

    tokens = Tokens.load(root / "data" / "tokens.json")
    folders = []
    for number in range(count):
        torch.manual_seed(number)
        model = build_model(
            TextToText.model_validate({"encoder": ATTENTION, "decoder": ATTENTION}),
            vocabulary_size=len(tokens),
            blank=tokens.blank,
            bos=tokens.bos,
            eos=tokens.eos,
            source_vocabulary_size=len(tokens),
        )
        for parameter in model.parameters():
            # Far from uniform: experts must differ, and say something.
            parameter.data.mul_(2.0)
        folder = f"experts/e{number}"
        table = tokens.to_dict()
        save_model(root / folder, model, tokens=table, extra={}, source_tokens=table)
        folders.append(folder)
    return folders
