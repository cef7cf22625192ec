"""What a distillation would take: of a store, of hosts' caches, of the object store."""

from kd_ray.config.commands import DistillConfig
from kd_ray.config.sources import PoolSource
from kd_ray.speech.manifest import Utterance
from kd_ray.speech.tokens import Tokens
from kd_ray.teachers.cache import CacheEstimate, estimate_cache
from kd_ray.teachers.policies import deal
from kd_ray.teachers.store import estimate_bytes

_MIB = 2**20
_SAMPLE_BYTES_PER_S = 32_000


def target_lengths(config: DistillConfig, tokens: Tokens, train: list[Utterance]) -> list[int]:
    """Decoder positions of each utterance."""
    return [len(tokens.encode(row.text(config.data.column) or "")) + 1 for row in train]


def estimate_signals(
    config: DistillConfig, tokens: Tokens, train: list[Utterance], teachers: int, hosts: int
) -> str:
    """A note about a store of all signals, and about those that are in flight."""
    lengths = target_lengths(config, tokens, train)
    positions = sum(lengths) / len(lengths)
    stored = estimate_bytes(
        utterances=len(train), positions=positions, vocabulary_size=len(tokens), teachers=teachers
    )
    batch = config.data.batches.batch_size
    longest_s = max(row.duration_s or 0.0 for row in train)
    audio = batch * longest_s * _SAMPLE_BYTES_PER_S
    answers = max(1, hosts) * batch * max(lengths) * len(tokens) * 4
    flying = (config.training.lookahead + 1) * (audio + answers)
    return (
        f"a store of these {teachers} teachers takes about {stored / _MIB:.0f} MiB (float32); "
        f"signals in flight take at most {flying / _MIB:.1f} MiB of the object store"
    )


def estimate_caches(
    config: DistillConfig,
    source: PoolSource,
    tokens: Tokens,
    train: list[Utterance],
    teachers: int,
) -> list[str]:
    """Notes about what hosts' caches would hold of the training data, and whether they can."""
    lengths = target_lengths(config, tokens, train)
    hosts = 1 if source.name is not None else source.hosts
    fullest = max(len(dealt) for dealt in deal(teachers, hosts, source.replicas))
    estimate = estimate_cache(
        utterances=len(train),
        positions=sum(lengths) / len(lengths),
        vocabulary_size=len(tokens),
        teachers=fullest,
        labels=0.0 if config.distillation.ctc_weight == 0 else None,
    )
    if source.name is not None:
        return [
            f"remembering {config.data.train} takes about {estimate.outputs.total_bytes / _MIB:.1f}"
            f" MiB for what all {teachers} teachers say (cache_mib, all hosts of the pool "
            f"{source.name!r} together), {estimate.fused.total_bytes / _MIB:.1f} MiB for what is "
            "fused of it (fused_cache_mib, of each host)"
        ]
    if not source.cache_mib and not source.fused_cache_mib:
        return []
    return _compare(source, estimate, config, fullest)


def _compare(
    source: PoolSource, estimate: CacheEstimate, config: DistillConfig, teachers: int
) -> list[str]:
    notes = []
    outputs, fused = estimate.outputs.total_bytes, estimate.fused.total_bytes
    if source.cache_mib:
        notes.append(
            f"cache_mib: what {teachers} teachers of a host say about {config.data.train} takes "
            f"about {outputs / _MIB:.1f} MiB, {_fits(outputs, source.cache_mib)}"
        )
        if outputs > source.cache_mib * _MIB and not source.fused_cache_mib:
            notes[-1] += (
                f"; what is fused of it takes {fused / _MIB:.1f} MiB (fused_cache_mib), and is "
                "good for one strategy and temperature"
            )
    if source.fused_cache_mib:
        notes.append(
            f"fused_cache_mib: what a host fuses of {config.data.train} takes about "
            f"{fused / _MIB:.1f} MiB for each strategy and temperature, "
            f"{_fits(fused, source.fused_cache_mib)}"
        )
    if "rollout" in config.distillation.learns_on:
        notes[-1] += "; rollouts are new prefixes, which take as much again in every epoch"
    return notes


def _fits(needed_bytes: int, mib: float) -> str:
    if needed_bytes <= mib * _MIB:
        return f"which fits into {mib:g} MiB"
    return f"which does not fit into {mib:g} MiB ({mib * _MIB / needed_bytes:.0%} of it does)"
