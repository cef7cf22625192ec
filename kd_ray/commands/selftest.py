"""`kd-ray selftest`: a student that equals its teacher must find nothing left to learn.

The first teacher is asked about a few training utterances through each source (local, store,
pool); its own weights play the student. KL(signal || student) must be 0 up to rounding, and the
label strings must be its own.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from kd_ray.cluster.pool import PoolSource, TeacherPool
from kd_ray.cluster.runtime import ensure_ray
from kd_ray.commands.signals import expect_distillation, score_request
from kd_ray.config.base import Section
from kd_ray.config.commands import DistillConfig
from kd_ray.config.load import ConfigError
from kd_ray.config.sources import PoolSource as PoolSection
from kd_ray.config.strategies import Average
from kd_ray.core.contracts import Fusion, Score, Signal, TeacherSource
from kd_ray.core.losses import forward_kl, token_tensors
from kd_ray.evaluation.system import load_system, read_teacher_list
from kd_ray.evaluation.token_file import token_file
from kd_ray.models.decoding import ctc_greedy
from kd_ray.speech.manifest import read_manifest
from kd_ray.speech.tokens import Tokens
from kd_ray.teachers.local_source import LocalSource
from kd_ray.teachers.store import TargetStore
from kd_ray.teachers.teacher import Teacher, load_teachers
from kd_ray.teachers.temporary import temporary_store

logger = logging.getLogger(__name__)

MAX_KL = {"float32": 1e-4, "float16": 1e-2}
"""Nats per utterance that rounding may leave."""
UTTERANCES = 8


@dataclass(frozen=True)
class SourceCheck:
    """What one source gave."""

    source: str
    max_kl: float
    """Largest KL of an utterance, summed over its positions, in nats."""
    strings_agree: bool
    seconds: float


@dataclass(frozen=True)
class SelfTest:
    """The outcome over all sources."""

    checks: tuple[SourceCheck, ...]
    max_kl: float

    @property
    def ok(self) -> bool:
        """Every source passed."""
        return all(each.max_kl <= self.max_kl and each.strings_agree for each in self.checks)


def selftest(config: Section, root: Path) -> SelfTest:
    """Compare the first teacher with itself through every source."""
    distill = expect_distillation(config, "selftest")
    folder = _first_teacher(distill, root)
    tokens = Tokens.load(token_file(distill, root))
    utterances = read_manifest(root / distill.data.train)[:UTTERANCES]
    fusion = Fusion(
        strategy=Average(),
        temperature=distill.distillation.temperature,
        dtype=distill.teachers.dtype,
    )
    request = score_request(
        utterances, root=root, tokens=tokens, config=distill, fusion=fusion, per_teacher=False
    )
    teacher = load_teachers([folder])[0]
    limit = MAX_KL[distill.teachers.dtype]
    sources: dict[str, Callable[[], AbstractContextManager[TeacherSource]]] = {
        "local": lambda: _local(folder),
        "store": lambda: temporary_store(
            [folder],
            utterances,
            root=root,
            tokens=token_file(distill, root),
            column=distill.data.column,
            dtype=distill.teachers.dtype,
        ),
        "pool": lambda: _pool(distill, folder),
    }
    checks = []
    for name, open_source in sources.items():
        started = time.perf_counter()
        with open_source() as source:
            signal = source.ask(request).result(600.0)
        max_kl, agree = _compare(teacher, request, signal)
        checks.append(SourceCheck(name, max_kl, agree, time.perf_counter() - started))
        logger.info(
            "%-6s largest KL of an utterance %.2e nats (at most %.0e), label strings %s, %.1f s",
            name, max_kl, limit, "equal" if agree else "DIFFER", checks[-1].seconds,
        )  # fmt: skip
    result = SelfTest(tuple(checks), limit)
    logger.info("selftest %s", "passed" if result.ok else "FAILED")
    return result


def _first_teacher(config: DistillConfig, root: Path) -> Path:
    if config.teachers.list:
        return read_teacher_list(config.teachers.list, root)[0]
    if config.teachers.source.type != "store":
        raise ConfigError(
            "teachers.list is missing: the pool that teachers.source names knows its teachers, but "
            "this command loads them itself; name them (teachers.list=...)"
        )
    return Path(TargetStore.open(root / config.teachers.source.path).teachers[0].folder)


def _compare(teacher: Teacher, request: Score, signal: Signal) -> tuple[float, bool]:
    """Largest KL(signal || student) of an utterance; whether label strings are the student's."""
    assert signal.tokens is not None
    assert signal.labels is not None
    assert request.references is not None
    system = load_system(teacher.system.folder)
    encoded = system.encode_waveforms(request.audio.waveforms())
    prefix = request.decoder_prefix()
    with torch.inference_mode():
        logits = system.model.decoder_logits(
            encoded, torch.from_numpy(prefix.ids), torch.from_numpy(prefix.lengths)
        )
        strings = ctc_greedy(system.model.ctc_logits(encoded), encoded.lengths, system.model.blank)
    kl = forward_kl(logits, token_tensors(signal.tokens), temperature=request.fusion.temperature)
    # KL is never negative, so an utterance's sum bounds each of its positions.
    largest = float(kl.rows.abs().max())
    told = {
        int(row): signal.labels.labels[index, : signal.labels.lengths[index]].tolist()
        for index, row in enumerate(signal.labels.utterance)
    }
    return largest, all(told.get(row, []) == own for row, own in enumerate(strings))


@contextmanager
def _local(folder: Path) -> Iterator[TeacherSource]:
    source = LocalSource(load_teachers([folder]))
    try:
        yield source
    finally:
        source.close()


@contextmanager
def _pool(config: DistillConfig, folder: Path) -> Iterator[TeacherSource]:
    section = config.teachers.source
    settings = section if isinstance(section, PoolSection) else PoolSection()
    settings = settings.model_copy(update={"hosts": 1, "cache_store": None})
    with ensure_ray(cpus=2), TeacherPool.start([folder], settings) as pool:
        source = PoolSource(pool.address)
        try:
            yield source
        finally:
            source.close()
