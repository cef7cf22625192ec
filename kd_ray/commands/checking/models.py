"""What a check looks at before models are trained, decoded or evaluated: data, sizes, resources."""

import os
from pathlib import Path

from kd_ray.commands.checking.cluster import named_cluster, notes_of_changes
from kd_ray.commands.checking.findings import Findings
from kd_ray.commands.train_teachers import teacher_configs
from kd_ray.config.commands import DistillConfig, PrepareConfig, TrainConfig, TrainTeachersConfig
from kd_ray.config.data import ManifestCorpus
from kd_ray.config.evaluation import CascadeSystem, DecodeConfig, EvaluateConfig
from kd_ray.config.generation import TranscribeConfig, TranslateConfig
from kd_ray.config.model import Model, TextToText
from kd_ray.config.training import Workers
from kd_ray.evaluation.system import read_teacher_list, resolve_checkpoint
from kd_ray.evaluation.token_file import token_file
from kd_ray.models.checkpoint import read_config
from kd_ray.speech.joining import read_generate_log
from kd_ray.speech.manifest import Utterance, read_manifest
from kd_ray.speech.tokens import Tokens
from kd_ray.storage import fetch
from kd_ray.students.materials import read_split


def check_prepare(config: PrepareConfig, root: Path, found: Findings) -> None:
    """Manifests that a corpus is made of."""
    if isinstance(config.corpus, ManifestCorpus):
        for path in (config.corpus.train, config.corpus.valid, config.corpus.test):
            if path is not None:
                found.attempt(read_manifest, root / path)


def check_train(config: TrainConfig, root: Path, found: Findings) -> None:
    """Data and resources of one training."""
    check_data(config, root, found)
    check_workers(config.workers, 0.0, 0.0, found)


def check_train_teachers(config: TrainTeachersConfig, root: Path, found: Findings) -> None:
    """Data of every teacher, each combination once."""
    configs = found.attempt(teacher_configs, config)
    if configs is None:
        return
    checked: set[str] = set()
    for name, each in configs.items():
        # Teachers mostly share data and front end: look at each combination once.
        key = repr((each.data, each.model.type, front_end(each.model)))
        if key not in checked:
            checked.add(key)
            before = len(found.problems)
            check_data(each, root, found)
            found.problems[before:] = [
                f"teacher {name}: {text}" for text in found.problems[before:]
            ]
    check_workers(config.base.workers, 0.0, 0.0, found)


def front_end(model: Model) -> object:
    """What makes the number of encoder frames; nothing for a reader of text."""
    if isinstance(model, TextToText):
        return None
    return model.front_end, model.encoder


def check_data(
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


def check_workers(workers: Workers, more_cpus: float, more_gpus: float, found: Findings) -> None:
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


def check_evaluate(config: EvaluateConfig, root: Path, found: Findings) -> None:
    """Tokens, splits and systems."""
    if config.tokens is not None:
        found.attempt(Tokens.load, root / config.tokens)
    for manifest in config.splits.values():
        found.attempt(read_manifest, root / manifest)
    if config.systems.teachers:
        found.attempt(read_teacher_list, config.systems.teachers, root)
    cascades = [each for pair in config.systems.cascades.values() for each in (pair.asr, pair.mt)]
    for folder in [*config.systems.students.values(), *config.systems.experts.values(), *cascades]:
        found.attempt(lambda place=folder: read_config(resolve_checkpoint(root / place)))


def check_decode(config: DecodeConfig, root: Path, found: Findings) -> None:
    """The system, and what it is to decode."""
    _check_system(config.system, root, found)
    if config.manifest is not None:
        found.attempt(read_manifest, root / config.manifest)


def check_generate(config: TranscribeConfig | TranslateConfig, root: Path, found: Findings) -> None:
    """The manifest, and what writes its texts anew."""
    rows = found.attempt(read_manifest, root / config.manifest)
    if config.log is not None:
        log = found.attempt(lambda path=config.log: read_generate_log(fetch(root / path)))
        if rows is not None and log is not None:
            found.attempt(log.texts, [row.id for row in rows], config.log_lines)
    if config.system is not None:
        _check_system(config.system, root, found)


def _check_system(place: str | CascadeSystem, root: Path, found: Findings) -> None:
    for folder in [place] if isinstance(place, str) else [place.asr, place.mt]:
        found.attempt(lambda place=folder: read_config(resolve_checkpoint(root / place)))
