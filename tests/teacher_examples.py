"""Made-up teacher outputs, and a gradient check, for tests of fusing and of losses."""

from collections.abc import Callable, Sequence

import numpy as np
import oracles
import torch
from torch import Tensor

from kd_ray.core.contracts import TeacherOutput


def example_outputs(
    seed: int,
    *,
    teachers: int = 3,
    positions: Sequence[int] = (4, 2, 3),
    vocabulary: int = 5,
    strings: int = 3,
    most_errors: int = 4,
) -> list[TeacherOutput]:
    """Random outputs about one batch, with NaN in the padding.

    Label strings come from a pool of `strings` candidates, so that some teachers agree.
    """
    rng = np.random.default_rng(seed)
    batch, width = len(positions), max(positions)
    pool = [rng.integers(1, vocabulary, size=rng.integers(0, 4)) for _ in range(strings)]
    lengths = np.array(positions) + 2
    outputs = []
    for teacher in range(teachers):
        logits = rng.normal(size=(batch, width, vocabulary)) * 2
        log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        log_probs[np.arange(width) >= np.array(positions)[:, None]] = np.nan
        outputs.append(
            TeacherOutput(
                teacher=teacher,
                log_probs=log_probs.astype(np.float32),
                positions=np.array(positions),
                strings=tuple(pool[rng.integers(strings)] for _ in range(batch)),
                frames=np.array(positions) + 6,
                ctc_errors=rng.integers(0, most_errors + 1, size=batch),
                decoder_errors=rng.integers(0, most_errors + 1, size=batch),
                reference_lengths=lengths,
                confidence=np.zeros(batch, dtype=np.float32),
            )
        )
    return outputs


def check_gradient(loss: Callable[[Tensor], Tensor], logits: Tensor) -> None:
    """The gradient of `loss` at `logits` (float64) is that of finite differences."""
    found = logits.detach().clone().requires_grad_()
    loss(found).backward()
    expected = oracles.numeric_gradient(
        lambda moved: loss(torch.from_numpy(moved)).item(), logits.detach().numpy()
    )
    np.testing.assert_allclose(found.grad, expected, atol=1e-8, rtol=1e-6)
