"""What learning k teacher tokens costs against learning one label.

Both losses read the same logits, forward and backward; they alternate, so that whatever else the
machine does hits both alike. Medians; the ratio is of medians. Memory is what each holds at most
beyond the logits, in a pass of its own.

Shapes: B rows, U positions, V vocabulary, K kept tokens.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kd_ray.bench.clock import Stopwatch, compare
from kd_ray.bench.memory import peak_bytes
from kd_ray.config.bench import BenchSparseConfig
from kd_ray.core.losses import TokenTensors, token_cross_entropy, token_tensors
from kd_ray.core.targets import TokenTarget, renormalise_top_k, truncate

Loss = Callable[[Tensor], Tensor]
"""Logits (B, U, V) to a sum."""

PLAIN = "cross_entropy"
"""torch's own cross-entropy with one label: what the others are compared with."""


def measure_sparse(config: BenchSparseConfig) -> dict[str, Any]:
    """Seconds and bytes of the losses for each vocabulary, and their ratios to the plain one."""
    torch.set_num_threads(config.threads)
    return {
        "threads": config.threads,
        "top_k": config.top_k,
        "positions": config.batch_size * config.length,
        "repeats": config.repeats,
        "vocabularies": {
            str(vocabulary): _measure(config, vocabulary) for vocabulary in config.vocabulary_sizes
        },
    }


def _measure(config: BenchSparseConfig, vocabulary: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    shape = (config.batch_size, config.length, vocabulary)
    logits = torch.randn(shape, generator=generator)
    losses = _losses(config, torch.randn(shape, generator=generator))
    watches = {name: Stopwatch() for name in losses}
    for turn in range(config.warmup + config.repeats):
        for name, loss in losses.items():
            watch = watches[name] if turn >= config.warmup else Stopwatch()
            watch.run(partial(_learn, loss, logits.clone().requires_grad_()))
    peaks = {
        name: peak_bytes(partial(_learn, loss, logits.clone().requires_grad_()))
        for name, loss in losses.items()
    }
    times = compare(watches, PLAIN, PLAIN)
    return {
        name: {
            **times[name],
            "peak_bytes": peaks[name],
            "peak_to_cross_entropy": peaks[name] / peaks[PLAIN],
            "peak_with_logits_to_cross_entropy": (peaks[name] + logits.nbytes)
            / (peaks[PLAIN] + logits.nbytes),
        }
        for name in losses
    }


def _losses(config: BenchSparseConfig, teacher_logits: Tensor) -> Mapping[str, Loss]:
    """One label; the k likeliest tokens renormalised; the k likeliest and the mass of the rest."""
    labels = teacher_logits.argmax(dim=-1).flatten()
    dense = TokenTarget(
        torch.log_softmax(teacher_logits, dim=-1).numpy(),
        np.full(config.batch_size, config.length, dtype=np.int64),
    )
    kept = truncate(dense, config.top_k)
    return {
        PLAIN: lambda logits: F.cross_entropy(logits.flatten(0, 1), labels, reduction="sum"),
        "top_k": partial(_top_k, token_tensors(renormalise_top_k(kept, config.top_k))),
        "top_k_and_tail": partial(_top_k, token_tensors(kept)),
    }


def _top_k(target: TokenTensors, logits: Tensor) -> Tensor:
    return token_cross_entropy(logits, target).sum


def _learn(loss: Loss, leaf: Tensor) -> None:
    loss(leaf).backward()  # type: ignore[no-untyped-call]
