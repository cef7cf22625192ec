"""`kd-ray check`: what would go wrong, found in seconds, before anything starts."""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kd_ray.cluster.search.resources import needs_of
from kd_ray.cluster.search.space import check_space, listed_settings, read_base
from kd_ray.commands.check_cluster import check_cluster, named_cluster, notes_of_changes
from kd_ray.commands.check_places import check_places
from kd_ray.commands.estimates import estimate_caches, estimate_signals
from kd_ray.commands.recipe import load_task
from kd_ray.commands.study import study_jobs
from kd_ray.commands.train_teachers import teacher_configs
from kd_ray.config.base import Section
from kd_ray.config.commands import (
    DecodeConfig,
    DistillConfig,
    EvaluateConfig,
    InferTeachersConfig,
    PrepareConfig,
    TrainConfig,
    TrainTeachersConfig,
)
from kd_ray.config.data import ManifestCorpus
from kd_ray.config.model import Model, TextToText
from kd_ray.config.pool import PoolConfig
from kd_ray.config.recipes import RecipeConfig, StudyConfig
from kd_ray.config.search import OptunaSearch, SearchConfig
from kd_ray.config.sources import PoolSource, StoreSource
from kd_ray.config.training import Workers
from kd_ray.core.contracts import TeacherInfo, TeachersInfo
from kd_ray.core.handshake import handshake
from kd_ray.evaluation.system import read_teacher_list, resolve_checkpoint
from kd_ray.evaluation.token_file import token_file
from kd_ray.models.checkpoint import checkpoint_digest, read_config
from kd_ray.report.trust_groups import groups_of
from kd_ray.speech.manifest import Utterance, read_manifest
from kd_ray.speech.tokens import Tokens
from kd_ray.students.materials import read_split, student_needs
from kd_ray.students.requests import strategy_of
from kd_ray.teachers.cache import StoreLevel, manifest_digest, open_levels
from kd_ray.teachers.cards import Blueprints, card_of
from kd_ray.teachers.policies import deal
from kd_ray.teachers.store import TargetStore, estimate_bytes
from kd_ray.teachers.store_source import check_fusing
from kd_ray.teachers.teacher import load_teachers
from kd_ray.teachers.transcriber import TranscriberSpec, load_transcriber, transcriber_spec

logger = logging.getLogger(__name__)

_MIB = 2**20


@dataclass
class Findings:
    """What a check found: problems stop a run, notes help to plan it."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Nothing stands in the way."""
        return not self.problems

    def attempt(self, action: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Call, and turn a user's error into a problem; None in that case."""
        try:
            return action(*arguments, **options)
        except (ValueError, OSError) as error:
            if str(error) not in self.problems:
                self.problems.append(str(error))
            return None


def check(config: Section, root: Path) -> Findings:
    """Look at everything that a command would read; logs problems and notes, returns them.

    Where `RAY_ADDRESS` names a cluster, its versions and resources are compared with what is
    installed here and with what the command asks for.
    """
    found = Findings()
    check_places(config, root, found.attempt)
    if not found.ok:
        # Everything else would say once more that the address cannot be read.
        return _told(found)
    for kind, look in _CHECKS.items():
        if isinstance(config, kind):
            look(config, root, found)
    problems, notes = found.attempt(check_cluster, config, named_cluster()) or ([], [])
    found.problems += problems
    found.notes += notes
    return _told(found)


def _told(found: Findings) -> Findings:
    for note in found.notes:
        logger.info("note: %s", note)
    for problem in found.problems:
        logger.error("problem: %s", problem)
    if found.ok:
        logger.info("no problem found")
    else:
        logger.error("%d problem%s", len(found.problems), "s" * (len(found.problems) > 1))
    return found


def _check_prepare(config: PrepareConfig, root: Path, found: Findings) -> None:
    if isinstance(config.corpus, ManifestCorpus):
        for path in (config.corpus.train, config.corpus.valid, config.corpus.test):
            if path is not None:
                found.attempt(read_manifest, root / path)


def _check_train(config: TrainConfig, root: Path, found: Findings) -> None:
    _check_data(config, root, found)
    _check_workers(config.workers, 0.0, 0.0, found)


def _check_train_teachers(config: TrainTeachersConfig, root: Path, found: Findings) -> None:
    configs = found.attempt(teacher_configs, config)
    if configs is None:
        return
    checked: set[str] = set()
    for name, each in configs.items():
        # Teachers mostly share data and front end: look at each combination once.
        key = repr((each.data, each.model.type, _front_end(each.model)))
        if key not in checked:
            checked.add(key)
            before = len(found.problems)
            _check_data(each, root, found)
            found.problems[before:] = [
                f"teacher {name}: {text}" for text in found.problems[before:]
            ]
    _check_workers(config.base.workers, 0.0, 0.0, found)


def _check_pool(config: PoolConfig, root: Path, found: Findings) -> None:
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


def _front_end(model: Model) -> object:
    """What makes the number of encoder frames; nothing for a reader of text."""
    if isinstance(model, TextToText):
        return None
    return model.front_end, model.encoder


def _check_data(
    config: TrainConfig | DistillConfig, root: Path, found: Findings
) -> tuple[Tokens, list[Utterance]] | None:
    """Tokens, manifests with every row (audio headers, symbols, CTC lengths), warm start."""
    found.notes += notes_of_changes(config.workers, config.training)
    tokens: Tokens | None = found.attempt(lambda: Tokens.load(token_file(config, root)))
    rows: dict[str, list[Utterance] | None] = {}
    for manifest in (config.data.train, config.data.valid):
        if tokens is None:
            found.attempt(read_manifest, root / manifest)
        else:
            rows[manifest] = found.attempt(read_split, manifest, root, config, tokens)
    if config.training.init_encoder_from:
        folder = root / config.training.init_encoder_from
        found.attempt(lambda: read_config(resolve_checkpoint(folder)))
    train = rows.get(config.data.train)
    if tokens is None or train is None:
        return None
    hours = sum(row.duration_s or 0.0 for row in train) / 3600
    found.notes.append(
        f"{config.data.train}: {len(train)} utterances, {hours:.2f} h; {len(tokens)} tokens"
    )
    return tokens, train


def _check_distill(config: DistillConfig, root: Path, found: Findings) -> None:
    data = _check_data(config, root, found)
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
    hosts = 0
    # Hosts of a pool that runs already are nothing that this job needs.
    if isinstance(source, PoolSource) and source.name is None:
        hosts = source.hosts
        _check_workers(
            config.workers, hosts * source.cpus_per_host, hosts * source.gpus_per_host, found
        )
    else:
        _check_workers(config.workers, 0.0, 0.0, found)
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


def _check_workers(workers: Workers, more_cpus: float, more_gpus: float, found: Findings) -> None:
    """Resources, where they can be known: a cluster's are known to the cluster."""
    if named_cluster():
        return
    import torch

    cpus, gpus = os.cpu_count() or 1, torch.cuda.device_count()
    wanted_cpus = workers.most * workers.cpus + more_cpus
    wanted_gpus = workers.most * workers.gpus + more_gpus
    if wanted_gpus > gpus:
        found.problems.append(
            f"workers and teacher hosts ask for {wanted_gpus:g} GPUs, this machine has {gpus}; "
            "lower workers.gpus or teachers.source.gpus_per_host, or submit to a cluster"
        )
    if wanted_cpus > cpus:
        found.notes.append(
            f"workers and teacher hosts ask for {wanted_cpus:g} CPUs, this machine has {cpus}: "
            "they will share them, and be slower for it"
        )


def _check_infer(config: InferTeachersConfig, root: Path, found: Findings) -> None:
    tokens: Tokens | None = found.attempt(Tokens.load, root / config.tokens)
    infos: list[TeacherInfo] | None = found.attempt(_describe_teachers, config.teachers, root)
    rows: list[Utterance] = []
    for manifest in config.splits.values():
        rows += found.attempt(read_manifest, root / manifest) or []
    if tokens is None or infos is None or not rows:
        return
    found.attempt(handshake, student_needs(tokens), TeachersInfo(tuple(infos), source="store"))
    lengths = [len(tokens.encode(row.text(config.column) or "")) + 1 for row in rows]
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


def _check_evaluate(config: EvaluateConfig, root: Path, found: Findings) -> None:
    if config.tokens is not None:
        found.attempt(Tokens.load, root / config.tokens)
    for manifest in config.splits.values():
        found.attempt(read_manifest, root / manifest)
    if config.systems.teachers:
        found.attempt(read_teacher_list, config.systems.teachers, root)
    cascades = [each for pair in config.systems.cascades.values() for each in (pair.asr, pair.mt)]
    for folder in [*config.systems.students.values(), *config.systems.experts.values(), *cascades]:
        found.attempt(lambda place=folder: read_config(resolve_checkpoint(root / place)))


def _check_decode(config: DecodeConfig, root: Path, found: Findings) -> None:
    parts = config.system
    for folder in [parts] if isinstance(parts, str) else [parts.asr, parts.mt]:
        found.attempt(lambda place=folder: read_config(resolve_checkpoint(root / place)))
    if config.manifest is not None:
        found.attempt(read_manifest, root / config.manifest)


def _check_recipe(config: RecipeConfig, root: Path, found: Findings) -> None:
    """Only the configurations: what later steps read is made by earlier ones."""
    for step in config.steps:
        for task in step.tasks:
            section = found.attempt(load_task, task, root)
            if isinstance(section, TrainTeachersConfig):
                found.attempt(teacher_configs, section)
            if isinstance(section, SearchConfig):
                base = found.attempt(read_base, section, root)
                if base is not None:
                    found.attempt(check_space, section, base)


def _check_study(config: StudyConfig, root: Path, found: Findings) -> None:
    """The same, for every row and seed."""
    if config.first:
        steps = RecipeConfig(command="recipe", name=config.name, steps=config.first)
        _check_recipe(steps, root, found)
    found.attempt(study_jobs, config, root)


def _check_search(config: SearchConfig, root: Path, found: Findings) -> None:
    """The base as its own command would see it, and every value of the space."""
    base = found.attempt(read_base, config, root)
    if base is None:
        return
    found.attempt(check_space, config, base)
    if isinstance(base.config, DistillConfig):
        _check_distill(base.config, root, found)
    else:
        _check_train(base.config, root, found)
    if config.evaluate is not None:
        for manifest in config.evaluate.splits.values():
            found.attempt(read_manifest, root / manifest)
    needs = needs_of(config, base)
    settings = listed_settings(config)
    algorithm = config.algorithm
    count = algorithm.samples if isinstance(algorithm, OptunaSearch) else len(settings or ())
    found.notes.append(
        f"{count} settings, {len(config.seeds)} seeds: {count * len(config.seeds)} trials; each "
        f"takes {_amounts(needs.trial)}, a pool for all of them {_amounts(needs.pool) or 'nothing'}"
    )


def _amounts(amounts: Mapping[str, float]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in amounts.items())


_CHECKS: dict[type[Section], Callable[[Any, Path, Findings], None]] = {
    PrepareConfig: _check_prepare,
    TrainConfig: _check_train,
    TrainTeachersConfig: _check_train_teachers,
    DistillConfig: _check_distill,
    InferTeachersConfig: _check_infer,
    EvaluateConfig: _check_evaluate,
    DecodeConfig: _check_decode,
    RecipeConfig: _check_recipe,
    StudyConfig: _check_study,
    SearchConfig: _check_search,
    PoolConfig: _check_pool,
}
