"""Slow and obvious float64 references: loops over tokens, no code shared with kd_ray."""

import math
from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np

Vector = Sequence[float]


def log_sum_exp(values: Vector) -> float:
    highest = max(values)
    if highest == -math.inf:
        return -math.inf
    return highest + math.log(math.fsum(math.exp(value - highest) for value in values))


def log_softmax(logits: Vector, temperature: float = 1.0) -> list[float]:
    scaled = [float(logit) / temperature for logit in logits]
    total = log_sum_exp(scaled)
    return [value - total for value in scaled]


def softmax(logits: Vector, temperature: float = 1.0) -> list[float]:
    return [math.exp(value) for value in log_softmax(logits, temperature)]


def geometric_mean(distributions: Sequence[Vector], weights: Vector) -> list[float]:
    """exp of the weighted mean of logarithms, divided by its sum; a weight of 0 takes no part."""
    means = [
        math.fsum(w * (math.log(p) if p > 0 else -math.inf) for p, w in
                  zip(column, weights, strict=True) if w > 0)
        for column in zip(*distributions, strict=True)
    ]  # fmt: skip
    return softmax(means)


def cross_entropy(p: Vector, q: Vector) -> float:
    return -math.fsum(a * math.log(b) for a, b in zip(p, q, strict=True) if a > 0)


def entropy(p: Vector) -> float:
    return cross_entropy(p, p)


def kl(p: Vector, q: Vector) -> float:
    return math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def jsd(p: Vector, q: Vector, beta: float) -> float:
    m = [beta * a + (1 - beta) * b for a, b in zip(p, q, strict=True)]
    return beta * kl(p, m) + (1 - beta) * kl(q, m)


def smoothed_nll(logits: Vector, label: int, smoothing: float) -> float:
    log_s = log_softmax(logits)
    spread = -math.fsum(log_s) / len(log_s)
    return (1 - smoothing) * -log_s[label] + smoothing * spread


def collapse(path: Sequence[int], blank: int) -> list[int]:
    return [token for token, _ in groupby(path) if token != blank]


def argmax(values: Vector) -> int:
    return max(range(len(values)), key=lambda index: (values[index], -index))


def ctc_greedy(logits: Sequence[Vector], frames: int, blank: int) -> list[int]:
    return collapse([argmax(logits[t]) for t in range(frames)], blank)


def ctc_nll(logits: Sequence[Vector], frames: int, labels: Sequence[int], blank: int) -> float:
    """Forward algorithm over the string with blanks in between; inf if it does not fit."""
    extended = [blank]
    for label in labels:
        extended += [label, blank]
    log_probs = [log_softmax(logits[t]) for t in range(frames)]
    if frames == 0:
        return math.inf if labels else 0.0
    alpha = [-math.inf] * len(extended)
    alpha[0] = log_probs[0][blank]
    if labels:
        alpha[1] = log_probs[0][extended[1]]
    for t in range(1, frames):
        new = []
        for s, token in enumerate(extended):
            paths = [alpha[s]]
            if s >= 1:
                paths.append(alpha[s - 1])
            if s >= 2 and token != blank and token != extended[s - 2]:
                paths.append(alpha[s - 2])
            new.append(log_sum_exp(paths) + log_probs[t][token])
        alpha = new
    return -log_sum_exp(alpha[-2:])


def weights(
    strategy: str,
    errors: Sequence[Sequence[int]],
    reference_lengths: Sequence[int],
    *,
    scale: float = 0.0,
    scope: str = "utterance",
    ties: str = "first",
) -> list[list[float]]:
    """errors[teacher][utterance] to weights[teacher][utterance]."""
    teachers, utterances = range(len(errors)), range(len(reference_lengths))
    result = [[0.0] * len(reference_lengths) for _ in teachers]
    rates = [[100.0 * errors[n][i] / reference_lengths[i] for i in utterances] for n in teachers]
    for i in utterances:
        if strategy == "average":
            column = [1.0 / len(errors)] * len(errors)
        elif strategy == "best":
            lowest = min(errors[n][i] for n in teachers)
            winners = [n for n in teachers if errors[n][i] == lowest]
            if ties == "first":
                winners = winners[:1]
            column = [1.0 / len(winners) if n in winners else 0.0 for n in teachers]
        else:
            if scope == "batch":
                trust = [math.fsum(rates[n]) / len(reference_lengths) for n in teachers]
            else:
                trust = [rates[n][i] for n in teachers]
            column = softmax([-scale * rate for rate in trust])
        for n in teachers:
            result[n][i] = column[n]
    return result


def numeric_gradient(function: Callable[[np.ndarray], float], x: np.ndarray) -> np.ndarray:
    """Central differences. (torch's gradcheck does the same, after four seconds of imports.)"""
    gradient, step = np.zeros_like(x), 1e-5
    for place in np.ndindex(x.shape):
        ends = []
        for sign in (1, -1):
            moved = x.copy()
            moved[place] += sign * step
            ends.append(function(moved))
        gradient[place] = (ends[0] - ends[1]) / (2 * step)
    return gradient
