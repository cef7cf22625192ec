import hashlib
from dataclasses import replace

import numpy as np
import pytest

from kd_ray.config.strategies import Average
from kd_ray.core.contracts import Fusion, TeacherOutput
from kd_ray.core.strategies import fuse
from kd_ray.core.targets import truncate
from kd_ray.teachers.cache import FusedCache, OutputCache, estimate_cache

LARGE = 2**30
EXACT, ROUNDS = 5, 4
"""Codes of keys that ask for distributions, in float32 or rounded, and label strings."""


def outputs(rows, lengths, vocabulary, teachers, *, ctc):
    random = np.random.default_rng(0)
    positions = np.array(lengths) + 1
    made = []
    for teacher in range(teachers):
        logits = random.normal(size=(rows, int(positions.max()), vocabulary)).astype(np.float32)
        log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        # Strings of one length that all differ: one for each teacher.
        strings = [random.integers(3, vocabulary, length) for length in lengths]
        made.append(
            TeacherOutput(
                teacher, log_probs, positions, tuple(strings) if ctc else (), positions, *
                [np.zeros(rows, dtype=np.int64)] * 2, np.array(lengths),
                np.full(rows, -1, dtype=np.float32),
            )
        )  # fmt: skip
    return made


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("top_k", [None, 4])
@pytest.mark.parametrize("ctc", [True, False])
@pytest.mark.parametrize(("vocabulary", "teachers"), [(50, 3), (400, 12)])
def test_estimates_are_within_a_tenth_of_what_caches_count(dtype, top_k, ctc, vocabulary, teachers):
    rows, lengths = 8, [9, 14, 20, 25, 11, 17, 8, 30]
    code = EXACT if dtype == "float32" else ROUNDS
    keys = [
        hashlib.blake2b(bytes([row]), digest_size=16).digest() + bytes([code])
        for row in range(rows)
    ]
    made = outputs(rows, lengths, vocabulary, teachers, ctc=ctc)
    memory, targets = OutputCache(LARGE, dtype=dtype), FusedCache(LARGE)
    for output in made:
        memory.put_rows(f"t{output.teacher}", keys, output)
    fusion = Fusion(Average(), dtype=dtype)
    fused = fuse(made, fusion, teachers)
    if top_k is not None:
        fused = replace(fused, tokens=truncate(fused.tokens, top_k))
    targets.put_rows(fusion, [f"t{n}" for n in range(teachers)], keys, fused)
    estimate = estimate_cache(
        utterances=rows,
        positions=float(np.mean(lengths)) + 1,
        vocabulary_size=vocabulary,
        teachers=teachers,
        labels=None if ctc else 0.0,
        dtype=dtype,
        top_k=top_k,
    )
    assert estimate.outputs.total_bytes == pytest.approx(memory.statistics.num_bytes, rel=0.1)
    assert estimate.fused.total_bytes == pytest.approx(targets.statistics.num_bytes, rel=0.1)
    assert estimate.outputs.bytes_per_utterance == pytest.approx(
        estimate.outputs.total_bytes / rows, abs=1
    )


def test_strings_that_agree_take_less():
    common = {"utterances": 1, "positions": 11, "vocabulary_size": 50, "teachers": 100}
    every, few = estimate_cache(**common), estimate_cache(**common, strings=2)
    assert every.fused.total_bytes - few.fused.total_bytes == 98 * (10 * 4 + 4 + 8)
    assert every.outputs == few.outputs
