"""`kd-ray evaluate`: scores, sizes and speed of systems, with every hypothesis."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kd_ray.commands.decoders import DecoderOf, decoders
from kd_ray.config.evaluation import CascadeSystem, EvaluateConfig, Head
from kd_ray.config.placing import DecodingActors
from kd_ray.config.strategies import TrustTable
from kd_ray.core.translation_scores import REPORTED, TITLES, signature
from kd_ray.evaluation.cascade import AnySystem, Cascade, load_any
from kd_ray.evaluation.decode import BatchDecoder, Search, greedy_heads
from kd_ray.evaluation.heartbeat import Heartbeat, Work
from kd_ray.evaluation.run_folder import RunFolder, write_json, write_json_lines
from kd_ray.evaluation.score import real_time_factor, score_split, split_scores
from kd_ray.evaluation.system import (
    UnusableSystem,
    read_teacher_list,
    resolve_checkpoint,
    system_name,
)
from kd_ray.evaluation.translation import score_translations, translation_scores
from kd_ray.models.checkpoint import original_name
from kd_ray.report.progress import Task, progress
from kd_ray.report.systems import hypotheses_path
from kd_ray.speech.manifest import Utterance, manifest_digest, read_manifest
from kd_ray.speech.tokens import Tokens
from kd_ray.storage import fetch

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """A row of the table to be: what it is called, and where its models lie."""

    kind: str
    label: str
    place: str | CascadeSystem


def evaluate(config: EvaluateConfig, root: Path) -> dict[str, Any]:
    """Score every system on every split; returns (and writes) results.json of the run folder.

    A system that was scored before from the same weights and manifests is not decoded again.
    """
    torch.set_num_threads(config.threads)
    run = RunFolder(root, config.name)
    for part in ("hypotheses", "systems"):
        (run.path / part).mkdir(parents=True, exist_ok=True)
    with run.opened(config, may_change=_MAY_CHANGE):
        return _evaluate(config, root, run)


_MAY_CHANGE = (*DecodingActors.model_fields, "batch_size", "threads")
"""Where and in which batches is decoded: an evaluation that was interrupted may go on otherwise."""


def _evaluate(config: EvaluateConfig, root: Path, run: RunFolder) -> dict[str, Any]:
    splits = {name: read_manifest(root / path) for name, path in config.splits.items()}
    results = {**_header(config, root, splits), "systems": []}
    paces: dict[str, float | None] = {}
    entries = _entries(config, root)
    each = sum(map(len, splits.values()))
    total = len(entries) * each
    with (
        Heartbeat(run, "evaluate", Work("decoding", 0, total, "utterances")) as heartbeat,
        progress("decoding", "utterances", total) as task,
        decoders(config, root) as decoder_of,
    ):
        told = _Told(heartbeat, task, total, each)
        for entry in entries:
            results["systems"].append(
                _score(config, root, run, splits, entry, paces, told, decoder_of)
            )
        write_json(run.path / "results.json", results)
        _write_trust(run, results)
        run.write_summary({"name": config.name, "command": "evaluate", "status": "finished"})
    return results


class _Told:
    """Tells the heartbeat and whoever waits how much of all systems and splits is decoded."""

    def __init__(self, heartbeat: Heartbeat, task: Task, total: int, each: int) -> None:
        self._heartbeat, self._task = heartbeat, task
        self._done, self._total, self._each = 0, total, each

    def decoded(self, count: int) -> None:
        """So many utterances more."""
        self._done += count
        self._tell()

    def known(self) -> None:
        """A system that was decoded in an earlier run is no work."""
        self._total -= self._each
        self._tell()

    def _tell(self) -> None:
        self._heartbeat.at(done=self._done, total=self._total)
        self._task.at(self._done, self._total)


def _header(
    config: EvaluateConfig, root: Path, splits: Mapping[str, list[Utterance]]
) -> dict[str, Any]:
    header: dict[str, Any] = {"decoding": config.decoding}
    if config.decoding == "beam":
        header |= {"beam_size": config.beam_size, "length_penalty": config.length_penalty}
    if config.translates:
        header |= {
            "family": "translation",
            "protocol": config.protocol,
            "signatures": {
                metric: signature(metric, tokenizer=config.bleu_tokenizer) for metric in REPORTED
            },
        }
    else:
        assert config.tokens is not None
        unit = Tokens.load(root / config.tokens).unit
        header |= {"family": "error_rate", "unit": "words" if unit == "sentencepiece" else unit}
    header["splits"] = {
        name: {
            "manifest": config.splits[name],
            "digest": manifest_digest(rows),
            "utterances": len(rows),
        }
        for name, rows in splits.items()
    }
    return header


def _entries(config: EvaluateConfig, root: Path) -> list[Entry]:
    found: list[Entry] = []
    systems = config.systems
    if systems.teachers:
        folders = read_teacher_list(systems.teachers, root)
        found += [Entry("teacher", system_name(folder), str(folder)) for folder in folders]
    found += [
        Entry(kind, label, place)
        for kind, places in (
            ("student", systems.students),
            ("expert", systems.experts),
            ("cascade", systems.cascades),
        )
        for label, place in places.items()
    ]
    labels = [entry.label for entry in found]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise UnusableSystem(f"systems: the labels {', '.join(twice)} are used twice")
    files = [hypotheses_path(Path(), "", label) for label in labels]
    alike = [label for label, file in zip(labels, files, strict=True) if files.count(file) > 1]
    if alike:
        raise UnusableSystem(
            f"systems: the labels {', '.join(alike)} would have one file of hypotheses, where '/' "
            "becomes '-'; rename one of them"
        )
    for entry in found:
        # Every folder before the first system is decoded, which may take long.
        for place in _places(entry.place):
            resolve_checkpoint(root / place)
    return found


def _write_trust(run: RunFolder, results: Mapping[str, Any]) -> None:
    """Error rates of teachers and experts by split: what `scope: corpus` trusts them by."""
    trusted = [row for row in results["systems"] if row["kind"] in ("teacher", "expert")]
    if not trusted:
        return
    translates = results["family"] == "translation"
    measure = "1 - chrF++" if translates else f"{results['decoding']} error rate"
    for split in results["splits"]:
        scores = [row["scores"][split] for row in trusted]
        errors = [
            100.0 - score["chrf++"] if translates else score[results["decoding"]]["error_rate"]
            for score in scores
        ]
        table = TrustTable(
            split=split,
            measure=measure,
            teachers=tuple(row["digest"] for row in trusted),
            error_percent=tuple(errors),
        )
        write_json(run.path / "trust" / f"{split}.json", table.model_dump(mode="json"))


def _places(place: str | CascadeSystem) -> tuple[str, ...]:
    return (place.asr, place.mt) if isinstance(place, CascadeSystem) else (place,)


def _load(config: EvaluateConfig, root: Path, entry: Entry) -> AnySystem:
    system = load_any(entry.place, root, reads_column=config.reads_column)
    system.require(config.decoding)
    if entry.kind == "expert" and system.reads != "text":
        raise UnusableSystem(
            f"{entry.label} ({system.folders[0]}) reads speech, and experts read text; name it "
            "under systems.students or systems.teachers"
        )
    if config.tokens is not None:
        tokens = Tokens.load(root / config.tokens)
        if system.tokens.digest != tokens.digest:
            own = system.folders[-1] / "tokens.json"
            raise UnusableSystem(
                f"{entry.label} ({system.folders[-1]}) writes other tokens "
                f"({system.tokens.digest}) than {config.tokens} ({tokens.digest}): their error "
                f"rates cannot be compared; evaluate it apart, with tokens: {own}"
            )
    return system


def _score(
    config: EvaluateConfig,
    root: Path,
    run: RunFolder,
    splits: Mapping[str, list[Utterance]],
    entry: Entry,
    paces: dict[str, float | None],
    told: _Told,
    decoder_of: DecoderOf,
) -> dict[str, Any]:
    system = _load(config, root, entry)
    cached = run.path / "systems" / f"{_key(config, splits, entry, system)}.json"
    written = [hypotheses_path(run.path, name, entry.label) for name in splits]
    known = _scored_before(cached, written)
    if known is not None:
        paces.setdefault(_architecture(system), known["real_time_factor"])
        told.known()
        return known
    folders = [
        str(folder.relative_to(root) if folder.is_relative_to(root) else folder)
        for folder in system.folders
    ]
    row: dict[str, Any] = {
        "label": entry.label,
        "kind": entry.kind,
        "folder": folders[-1],
        "parameters": system.parameters,
        "bytes": system.bytes,
        "digest": system.digest,
        "strategy": None if isinstance(system, Cascade) else _strategy(system.folder),
        "scores": {},
    }
    if isinstance(system, Cascade):
        row["asr_folder"] = folders[0]
    elsewhere = decoder_of(entry.place, system, config.reads_column)
    for name, utterances in splits.items():
        scores, lines = _score_split(config, root, system, utterances, told, elsewhere)
        write_json_lines(hypotheses_path(run.path, name, entry.label), lines)
        row["scores"][name] = scores
    last = list(splits)[-1]
    # One measurement for each architecture: between equal ones there is nothing but noise.
    architecture = _architecture(system)
    if architecture not in paces:
        paces[architecture] = _speed(config, root, system, splits[last])
    row["real_time_factor"] = paces[architecture]
    _log(config, entry, last, row["scores"][last])
    write_json(cached, {**row, _HYPOTHESES: _digests(written)})
    return row


_HYPOTHESES = "hypotheses_digests"
"""In what is kept of a system: another evaluation may write its hypotheses over these."""


def _scored_before(cached: Path, written: Sequence[Path]) -> dict[str, Any] | None:
    """The row of a system, if the hypotheses that are there are those that were counted in it."""
    if not cached.exists() or not all(path.exists() for path in written):
        return None
    known: dict[str, Any] = json.loads(cached.read_text(encoding="utf-8"))
    return known if known.pop(_HYPOTHESES, None) == _digests(written) else None


def _digests(files: Sequence[Path]) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in files]


def _key(
    config: EvaluateConfig,
    splits: Mapping[str, list[Utterance]],
    entry: Entry,
    system: AnySystem,
) -> str:
    identity = {
        "digest": system.digest,
        "splits": {name: manifest_digest(rows) for name, rows in splits.items()},
        "column": config.column,
        "speed_utterances": config.speed_utterances,
        "search": [config.decoding, config.beam_size, config.length_penalty, config.max_tokens],
        "texts": [config.reads_column, config.protocol, config.bleu_tokenizer],
    }
    described = json.dumps([entry.kind, entry.label, identity], sort_keys=True)
    return hashlib.sha256(described.encode()).hexdigest()[:16]


def _search(config: EvaluateConfig, heads: tuple[Head, ...]) -> Search:
    return Search(heads, config.beam_size, config.length_penalty, config.max_tokens)


def _score_split(
    config: EvaluateConfig,
    root: Path,
    system: AnySystem,
    utterances: list[Utterance],
    told: _Told,
    elsewhere: BatchDecoder | None,
) -> tuple[dict[str, Any], Any]:
    """Scores and a line for each utterance."""
    if config.translates:
        translated = score_translations(
            system,
            utterances,
            root=root,
            batch_size=config.batch_size,
            search=_search(config, (config.decoding,)),
            head=config.decoding,
            protocol=config.protocol,
            tokenizer=config.bleu_tokenizer,
            on_decoded=told.decoded,
            elsewhere=elsewhere,
        )
        return translation_scores(translated), translated.rows
    model = system.mt.model if isinstance(system, Cascade) else system.model
    heads = greedy_heads(model)
    counted = score_split(
        system,
        utterances,
        root=root,
        column=config.column,
        batch_size=config.batch_size,
        search=_search(config, heads if config.decoding in heads else (*heads, config.decoding)),
        on_decoded=told.decoded,
        elsewhere=elsewhere,
    )
    return split_scores(counted), counted.rows


def _log(config: EvaluateConfig, entry: Entry, split: str, scores: Mapping[str, Any]) -> None:
    if config.translates:
        shown = "  ".join(f"{TITLES[metric]} {scores[metric]:6.2f}" for metric in REPORTED)
        logger.info("%-24s %s %s", entry.label, split, shown)
    else:
        rate = scores[config.decoding]["error_rate"]
        logger.info("%-24s %s error %6.2f %%", entry.label, split, rate)


def _architecture(system: AnySystem) -> str:
    """Equal for systems that differ in their weights alone."""
    parts = (system.asr, system.mt) if isinstance(system, Cascade) else (system,)
    return json.dumps(
        [[part.model.config.model_dump(mode="json"), len(part.tokens)] for part in parts]
    )


def _speed(
    config: EvaluateConfig, root: Path, system: AnySystem, utterances: list[Utterance]
) -> float | None:
    if not config.speed_utterances:
        return None
    # Ranked by CTC or not, a recogniser is as fast as its attention decoder.
    head: Head = "attention" if config.decoding == "ctc" else config.decoding
    rows = utterances[: config.speed_utterances]
    return real_time_factor(system, rows, root, _search(config, (head,)))


def _strategy(folder: Path) -> str | None:
    """The strategy that a student was distilled with, from its run folder; None: undistilled."""
    path = fetch(folder.parent / "config.json")
    if original_name(folder) != "model" or not path.exists():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    strategy: str | None = content.get("teachers", {}).get("strategy", {}).get("type")
    return strategy
