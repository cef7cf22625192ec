"""What a check looks at where teachers are asked: checkpoints, stores, pools, caches."""

from dataclasses import replace
from pathlib import Path

from kd_ray.commands.checking.findings import Findings
from kd_ray.commands.checking.models import check_data, check_workers
from kd_ray.commands.estimates import estimate_caches, estimate_signals
from kd_ray.config.commands import (
    DistillConfig,
    InferTeachersConfig,
)
from kd_ray.config.pool import PoolConfig
from kd_ray.config.sources import PoolSource, StoreSource
from kd_ray.core.contracts import TeacherInfo, TeachersInfo
from kd_ray.core.handshake import handshake
from kd_ray.evaluation.system import read_teacher_list
from kd_ray.models.checkpoint import checkpoint_digest
from kd_ray.report.trust_groups import groups_of
from kd_ray.speech.manifest import Utterance, read_manifest
from kd_ray.speech.tokens import Tokens
from kd_ray.students.materials import student_needs
from kd_ray.students.requests import strategy_of
from kd_ray.teachers.cache import StoreLevel, manifest_digest, open_levels
from kd_ray.teachers.cards import Blueprints, card_of
from kd_ray.teachers.inference import check_hears
from kd_ray.teachers.policies import deal
from kd_ray.teachers.store import TargetStore, estimate_bytes
from kd_ray.teachers.store_source import check_fusing
from kd_ray.teachers.teacher import load_teachers
from kd_ray.teachers.transcriber import TranscriberSpec, load_transcriber, transcriber_spec

_MIB = 2**20


def check_pool(config: PoolConfig, root: Path, found: Findings) -> None:
    """Every teacher's files, and whether all fit into the hosts at once."""
    folders = found.attempt(read_teacher_list, config.teachers.list, root)
    if config.teachers.recognizer is not None:
        section = config.teachers.recognizer
        found.attempt(load_transcriber, TranscriberSpec(root / section.system, section))
    if config.report is not None:
        found.attempt(Tokens.load, root / config.report.tokens)
        rows = found.attempt(read_manifest, root / config.report.manifest)
        if rows is not None:
            found.attempt(groups_of, rows, config.report.groups)
    if folders is None:
        return
    blueprints = Blueprints()
    cards = [
        found.attempt(card_of, folder, index, blueprints) for index, folder in enumerate(folders)
    ]
    hosts = config.hosts
    fullest = 0
    for dealt in deal(len(folders), hosts.hosts, hosts.replicas):
        known = [card.weight_bytes for index in dealt if (card := cards[index]) is not None]
        fullest = max(fullest, sum(known))
    note = (
        f"{len(folders)} teachers on {hosts.hosts} hosts, each on {hosts.replicas}; the fullest "
        f"host has {fullest / _MIB:.1f} MiB of weights"
    )
    if hosts.memory_mib is not None and fullest > hosts.memory_mib * _MIB:
        note += f", of which {hosts.memory_mib:g} MiB are loaded at a time (memory_mib)"
    found.notes.append(note)
    if hosts.cache_store is not None:
        found.attempt(open_levels, root / hosts.cache_store)


def check_distill(config: DistillConfig, root: Path, found: Findings) -> None:
    """Data, teachers and what lies between them; resources."""
    check_teaching(config, root, found)
    source = config.teachers.source
    cpus = gpus = 0.0
    # Hosts of a pool that runs already are nothing that this job needs.
    if isinstance(source, PoolSource) and source.name is None:
        cpus, gpus = source.hosts * source.cpus_per_host, source.hosts * source.gpus_per_host
    check_workers(config.workers, cpus, gpus, found)


def check_teaching(config: DistillConfig, root: Path, found: Findings) -> None:
    """The same without resources."""
    data = check_data(config, root, found)
    source = config.teachers.source
    infos: list[TeacherInfo] | None = None
    store: TargetStore | None = None
    if config.teachers.list is not None and isinstance(source, StoreSource):
        # Also where the store cannot be opened: all problems at once.
        found.attempt(read_teacher_list, config.teachers.list, root)
    if isinstance(source, StoreSource):
        store = found.attempt(TargetStore.open, root / source.path)
        if store is not None:
            infos = found.attempt(_selected, store, config.teachers.list, root)
    elif config.teachers.list is not None:
        infos = found.attempt(_describe_teachers, config.teachers.list, root)
    hosts = source.hosts if isinstance(source, PoolSource) and source.name is None else 0
    if infos is not None and hosts > len(infos):
        found.notes.append(
            f"teachers.source.hosts is {hosts}, and there are {len(infos)} teachers: a host needs "
            f"at least one, so {len(infos)} are started"
        )
    if infos is None and isinstance(source, PoolSource):
        found.notes.append(
            f"the teachers of the pool {source.name!r} are looked at when the run starts"
        )
    if data is None or infos is None:
        return
    tokens, train = data
    needs = student_needs(tokens, config)
    transcriber = found.attempt(load_transcriber, transcriber_spec(config.teachers, root))
    recognizer = None if transcriber is None else transcriber.info
    offered = TeachersInfo(tuple(infos), source=source.type, recognizer=recognizer)
    found.attempt(handshake, needs, offered)
    found.attempt(strategy_of, config, infos, root)
    if store is not None:
        found.attempt(_check_coverage, store, train, infos, config)
        found.attempt(check_fusing, store, config.distillation.fusing)
    found.notes.append(estimate_signals(config, tokens, train, len(infos), hosts))
    if isinstance(source, PoolSource):
        found.notes += estimate_caches(config, source, tokens, train, len(infos))
        _check_caches(config, source, infos, root, found)


def _describe_teachers(spec: str | tuple[str, ...], root: Path) -> list[TeacherInfo]:
    return [teacher.info for teacher in load_teachers(read_teacher_list(spec, root))]


def _selected(
    store: TargetStore, spec: str | tuple[str, ...] | None, root: Path
) -> list[TeacherInfo]:
    """The store's teachers that the list names; all of them without a list."""
    if spec is None:
        return list(store.teachers)
    digests = [checkpoint_digest(folder) for folder in read_teacher_list(spec, root)]
    return [store.teacher(digest) for digest in digests]


def _check_coverage(
    store: TargetStore, train: list[Utterance], infos: list[TeacherInfo], config: DistillConfig
) -> None:
    ids = [row.id for row in train]
    split = store.split_for(ids)
    store.check_data(split, train, config.data.column)
    store.require(split, ids, [info.digest for info in infos])


def _check_caches(
    config: DistillConfig,
    source: PoolSource,
    infos: list[TeacherInfo],
    root: Path,
    found: Findings,
) -> None:
    """Whether the target store of this job's hosts has anything for it."""
    if source.cache_store is None:
        return
    levels: dict[str, StoreLevel] | None = found.attempt(open_levels, root / source.cache_store)
    if levels is None:
        return
    level = levels.get(manifest_digest(root / config.data.train, config.data.column))
    if level is None:
        found.notes.append(
            f"cache_store: {source.cache_store} was made of other data than {config.data.train}, "
            "and answers nothing"
        )
    else:
        known = level.count_teachers(info.digest for info in infos)
        found.notes.append(
            f"cache_store: {source.cache_store} was made of {config.data.train}, and knows "
            f"{known} of the {len(infos)} teachers"
        )


def check_infer(config: InferTeachersConfig, root: Path, found: Findings) -> None:
    """Teachers against the tokens, and the size of their store."""
    tokens: Tokens | None = found.attempt(Tokens.load, root / config.tokens)
    infos: list[TeacherInfo] | None = found.attempt(_describe_teachers, config.teachers, root)
    rows: list[Utterance] = []
    for manifest in config.splits.values():
        rows += found.attempt(read_manifest, root / manifest) or []
    if tokens is None or infos is None or not rows:
        return
    found.attempt(check_hears, infos)
    # Of a teacher without a CTC head no label strings are stored.
    needs = replace(student_needs(tokens), wanted=frozenset({"tokens"}))
    found.attempt(handshake, needs, TeachersInfo(tuple(infos), source="store"))
    texts = [row.text(config.column) or "" for row in rows]
    encoded = found.attempt(lambda: [tokens.encode(text) for text in texts])
    if encoded is None:
        return
    lengths = [len(ids) + 1 for ids in encoded]
    size = estimate_bytes(
        utterances=len(rows),
        positions=sum(lengths) / len(lengths),
        vocabulary_size=len(tokens),
        teachers=len(infos),
        dtype=config.dtype,
        top_k=config.top_k,
    )
    found.notes.append(
        f"{len(rows)} utterances, {len(infos)} teachers: a store of about {size / _MIB:.0f} MiB"
    )
