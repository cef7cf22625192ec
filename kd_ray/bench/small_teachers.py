"""Recognisers with random weights, and requests to them: real teachers at next to no cost."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from kd_ray.config.model import Recognizer
from kd_ray.config.strategies import Average, Best, Strategy, TopM, Weighted
from kd_ray.core.contracts import Audio, Fusion, Generate, Labels, Score, Writing
from kd_ray.models.checkpoint import save_model
from kd_ray.models.recognizer import RecognizerModel
from kd_ray.speech.tokens import Tokens

PHONES = tuple("abdefgiklmnoprstuvxz")
STRATEGIES: tuple[Strategy, ...] = (Weighted(), Best(), Average(), TopM(m=2, scale=0.1))
TEMPERATURES = (1.0, 2.0)

_MODEL = {
    "encoder": {"cnn_channels": [8, 8], "rnn_layers": 1, "rnn_size": 32, "dnn_size": 32},
    "decoder": {"embedding_size": 16, "hidden_size": 32, "attention_size": 32},
}


def save_small_teachers(folder: Path, count: int, *, seed: int = 0) -> list[Path]:
    """Checkpoint folders `t0`, `t1`, ...; every second one hears 64 mels instead of 40."""
    tokens = Tokens.train([" ".join(PHONES)], "phones")
    folders = []
    for number in range(count):
        torch.manual_seed(1000 * seed + number)
        front_end = {"num_mels": 64 if number % 2 else 40}
        model = RecognizerModel(
            Recognizer.model_validate({**_MODEL, "front_end": front_end}),
            vocabulary_size=len(tokens),
            blank=tokens.blank,
            bos=tokens.bos,
            eos=tokens.eos,
        )
        for parameter in model.parameters():
            # Far from uniform: teachers must differ, and say something.
            parameter.data.mul_(3.0)
        folders.append(folder / f"t{number}")
        save_model(folders[-1], model, tokens=tokens.to_dict(), extra={})
    return folders


def small_requests(
    count: int, *, seed: int = 0, utterances: int = 3, strategies: Sequence[Strategy] = STRATEGIES
) -> list[Score | Generate]:
    """Requests about noise of 0.5 to 1.5 s; every eighth asks for strings instead of scores."""
    generator = np.random.default_rng(seed)
    requests: list[Score | Generate] = []
    for number in range(count):
        sizes = generator.integers(8_000, 24_000, utterances)
        audio = Audio.of(
            [generator.integers(-2000, 2000, int(size), dtype=np.int16) for size in sizes]
        )
        names = tuple(f"s{seed}-{number}-{row}" for row in range(utterances))
        if number % 8 == 7:
            requests.append(Generate(names, audio, writing=Writing(max_length=6)))
            continue
        # The first ids are the special symbols.
        strings = [
            generator.integers(3, 3 + len(PHONES), int(length))
            for length in generator.integers(3, 9, utterances)
        ]
        fusion = Fusion(
            strategies[number % len(strategies)], TEMPERATURES[number % len(TEMPERATURES)]
        )
        requests.append(Score(names, audio, Labels.of(strings), fusion))
    return requests
