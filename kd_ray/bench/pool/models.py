"""Checkpoint folders of teachers with random weights."""

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from kd_ray.config.model import Model
from kd_ray.models.build import build_model
from kd_ray.models.checkpoint import WEIGHTS, read_weights, save_model
from kd_ray.speech.tokens import SPECIALS, Tokens


def bench_tokens(vocabulary_size: int) -> Tokens:
    """An inventory of so many tokens."""
    symbols = (f"s{number}" for number in range(vocabulary_size - len(SPECIALS)))
    return Tokens("phones", (*SPECIALS, *symbols))


def write_teachers(
    folder: Path, model: Model, vocabulary_size: int, count: int, *, seed: int = 0
) -> list[Path]:
    """Teachers of one architecture, `folder/t0`, `folder/t1`, ...; no two have equal weights."""
    tokens = bench_tokens(vocabulary_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first = build_model(
            model,
            vocabulary_size=vocabulary_size,
            blank=tokens.blank,
            bos=tokens.bos,
            eos=tokens.eos,
        )
        folders = [folder / f"t{number}" for number in range(count)]
        save_model(folders[0], first, tokens=tokens.to_dict(), extra={})
        weights = read_weights(folders[0])
        for other in folders[1:]:
            # Not by `save_model`: it waits for the disk, for each of hundreds.
            shutil.copytree(folders[0], other, ignore=shutil.ignore_patterns(WEIGHTS))
            changed = {
                name: value + 0.02 * torch.randn_like(value)
                if name.endswith("weight")
                else value.clone()
                for name, value in weights.items()
            }
            save_file(changed, other / WEIGHTS)
    return folders
