"""What a rollout costs: greedy decoding with a cache, without one, and by Transformers.

Every way writes the same number of tokens for the same encoder states (the end symbol is barred),
and they take turns, so that whatever else the machine does hits all alike. Medians; ratios are of
medians. With and without the cache the same model must write the same tokens.

Shapes: B utterances, T frames, F mels, T' encoder states, L tokens, V vocabulary.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kd_ray.bench.clock import Stopwatch, compare
from kd_ray.bench.transformers_model import build_generator
from kd_ray.config.bench import BenchRolloutsConfig
from kd_ray.models.decoding import attention_greedy
from kd_ray.models.encoders import Encoded
from kd_ray.models.speech_to_text import SpeechToTextModel

_BLANK, _BOS, _EOS = 0, 1, 2


class RolloutsDiffer(RuntimeError):
    """Decoding with a cache wrote something else than decoding without one."""


class Endless(SpeechToTextModel):
    """A student that never writes its end symbol: every rollout has the same length."""

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """As the student's, with no chance for the end symbol."""
        logits, state = super().step(tokens, state)
        logits[:, self.eos] = float("-inf")
        return logits, state


def measure_rollouts(config: BenchRolloutsConfig) -> dict[str, Any]:
    """Seconds of a batch of rollouts by each way, and ratios to the one with the cache.

    Raises:
        RolloutsDiffer: a token that the cache changed.
        NeedsTransformers: it is asked for and not there.
    """
    torch.set_num_threads(config.threads)
    torch.manual_seed(0)
    model = _build(config)
    features = torch.randn(config.batch_size, config.frames, config.model.front_end.num_mels)
    lengths = torch.full((config.batch_size,), config.frames)
    with torch.no_grad():
        encoded = model.encode(model.normalize(features, lengths), lengths)
    limits = torch.full((config.batch_size,), config.length)
    ways: dict[str, Callable[[], list[list[int]]]] = {
        "cache": lambda: attention_greedy(model, encoded, limits),
        "whole_prefix": lambda: greedy_without_cache(model, encoded, config.length),
    }
    if config.transformers:
        ways["transformers"] = build_generator(config)
    watches = {name: Stopwatch() for name in ways}
    written: dict[str, list[list[int]]] = {}

    def write(name: str) -> None:
        written[name] = ways[name]()

    for turn in range(-config.warmup, config.repeats):
        for name in ways:
            few = config.whole_prefix_repeats if name == "whole_prefix" else None
            if few is None or 0 <= turn < few:
                watch = watches[name] if turn >= 0 else Stopwatch()
                watch.run(partial(write, name))
    check_equal(written["cache"], written["whole_prefix"])
    return {
        "threads": config.threads,
        "batch_size": config.batch_size,
        "length": config.length,
        "encoder_states": encoded.states.shape[1],
        "vocabulary_size": config.vocabulary_size,
        "parameters": sum(each.numel() for each in model.parameters()),
        "repeats": config.repeats,
        "ways": compare(watches, "cache", "cache"),
        "all_s": {name: watch.wall_s for name, watch in watches.items()},
    }


def _build(config: BenchRolloutsConfig) -> Endless:
    model = Endless(
        config.model, vocabulary_size=config.vocabulary_size, blank=_BLANK, bos=_BOS, eos=_EOS
    )
    return model.eval().requires_grad_(False)


@torch.no_grad()
def greedy_without_cache(
    model: SpeechToTextModel, encoded: Encoded, length: int
) -> list[list[int]]:
    """Teacher forcing of everything that was written, once for each token; no row ends."""
    count = len(encoded.lengths)
    written = torch.zeros(count, 0, dtype=torch.int64)
    for position in range(length):
        lengths = torch.full((count,), position)
        logits = model.decoder_logits(encoded, written, lengths)[:, -1]
        logits[:, [model.blank, model.bos, model.eos]] = float("-inf")
        written = torch.cat([written, logits.argmax(-1, keepdim=True)], dim=1)
    return written.tolist()


def check_equal(cached: list[list[int]], without: list[list[int]]) -> None:
    """Refuse any difference.

    Raises:
        RolloutsDiffer: naming the first token that differs.
    """
    for row, (first, second) in enumerate(zip(cached, without, strict=True)):
        for position, (one, other) in enumerate(zip(first, second, strict=True)):
            if one != other:
                raise RolloutsDiffer(
                    f"row {row}, token {position}: {one} with the cache, {other} without"
                )
