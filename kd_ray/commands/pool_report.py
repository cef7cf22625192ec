"""`kd-ray pool report CONFIG`: who is trusted where, and the table that corpus scope reads."""

import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kd_ray.cluster.pool import PoolSource, attach, join_cluster
from kd_ray.config.load import ConfigError
from kd_ray.config.pool import PoolConfig, PoolReport
from kd_ray.config.sources import PoolSource as PoolSettings
from kd_ray.config.strategies import Average, Trust
from kd_ray.core.contracts import (
    Audio,
    Busy,
    Fusion,
    Labels,
    PendingSignal,
    Score,
    Signal,
    TeacherInfo,
    TeacherSource,
    Wanted,
)
from kd_ray.core.handshake import StudentNeeds, handshake
from kd_ray.evaluation.run_folder import RunFolder, write_atomically, write_json
from kd_ray.evaluation.system import read_teacher_list
from kd_ray.report.console import log_console
from kd_ray.report.trust import Asked, TrustRecords, TrustReport, trust_report
from kd_ray.report.trust_groups import groups_of
from kd_ray.report.trust_page import trust_page
from kd_ray.report.trust_tables import print_trust, trust_csv, trust_json
from kd_ray.speech.audio import read_waveform
from kd_ray.speech.manifest import Utterance, manifest_digest, read_manifest
from kd_ray.speech.tokens import Tokens
from kd_ray.teachers.local_source import LocalSource
from kd_ray.teachers.teacher import load_teachers
from kd_ray.teachers.transcriber import TranscriberSpec, load_transcriber

logger = logging.getLogger(__name__)

_DEADLINE_S = 300.0
_TELL_S = 10.0


def pool_report(config: PoolConfig, root: Path) -> TrustReport:
    """Ask all teachers about a split, write what they got wrong, and print who is trusted where.

    Writes `report.html`, `report.json`, `groups.csv` and `trust/<split>.json` into the run folder.

    Raises:
        ConfigError: the configuration has no section `report`, or asks for trust that these
            teachers cannot give.
        PoolError: there is no such pool.
        TeachersGone: fewer than half of the teachers answer.
        ReportError: nothing to group by, or nothing to compare.
    """
    section = config.report
    if section is None:
        raise ConfigError(
            "`kd-ray pool report` needs a section `report` with name, split, manifest and tokens"
        )
    with RunFolder(root, section.name).opened(config) as run:
        return _report(config, section, run, root)


def _report(config: PoolConfig, section: PoolReport, run: RunFolder, root: Path) -> TrustReport:
    everyone = read_manifest(root / section.manifest)
    utterances = [row for row in everyone if (row.text(section.column) or "").strip()]
    groups = groups_of(utterances, section.groups, buckets=section.buckets)
    with _source(config, section, root) as source:
        trust = _trust(section, source.describe().teachers)
        records = _ask_all(section, source, utterances, root, trust)
    notes = []
    if len(utterances) < len(everyone):
        notes.append(
            f"{len(everyone) - len(utterances)} of {len(everyone)} utterances have no "
            f"{section.column} and are left out."
        )
    found = trust_report(
        records,
        groups,
        asked=Asked(
            f"pool {config.name}" if section.source == "pool" else "teachers in this process",
            section.split, section.manifest, manifest_digest(everyone),
        ),
        trust=trust,
        strategies=section.strategies,
        resamples=section.resamples,
        notes=notes,
    )  # fmt: skip
    _write(run, section, found)
    print_trust(found, log_console())
    logger.info("report: %s", run.path / "report.html")
    return found


def _write(run: RunFolder, section: PoolReport, found: TrustReport) -> None:
    write_json(run.path / "trust" / f"{section.split}.json", found.table.model_dump(mode="json"))
    write_atomically(run.path / "report.json", trust_json(found))
    write_atomically(run.path / "groups.csv", trust_csv(found))
    title = f"Who is trusted where: {section.split}"
    write_atomically(run.path / "report.html", trust_page(found, title))
    run.write_summary({"name": section.name, "command": "pool report", "status": "finished"})


@contextmanager
def _source(config: PoolConfig, section: PoolReport, root: Path) -> Iterator[TeacherSource]:
    """All teachers: of the running pool, or loaded here."""
    if section.source == "local":
        recognizer = config.teachers.recognizer
        spec = None if recognizer is None else TranscriberSpec(root / recognizer.system, recognizer)
        local = LocalSource(
            load_teachers(read_teacher_list(config.teachers.list, root)),
            transcriber=load_transcriber(spec),
        )
        try:
            yield local
        finally:
            local.close()
        return
    settings = PoolSettings(name=config.name, deadline_s=_DEADLINE_S)
    job = f"report {section.name}"
    with join_cluster():
        attachment = attach(settings, job=job)
        try:
            source = PoolSource(attachment.address, job=job)
            try:
                yield source
            finally:
                source.close()
        finally:
            attachment.close()


def _trust(section: PoolReport, teachers: Sequence[TeacherInfo]) -> Trust:
    """Which errors count."""
    labels = all(each.has_ctc for each in teachers)
    if section.trust == "ctc_greedy" and not labels:
        without = ", ".join(each.name for each in teachers if not each.has_ctc)
        raise ConfigError(
            f"report.trust is 'ctc_greedy', and {without} have no CTC head; take 'teacher_forced', "
            "'confidence', or leave trust out"
        )
    if section.trust is None and labels:
        return "ctc_greedy"
    if section.trust in (None, "teacher_forced"):
        reading = any(each.reads == "text" for each in teachers)
        return "teacher_forced_chrf" if reading else "teacher_forced"
    assert section.trust is not None
    return section.trust


def _ask_all(
    section: PoolReport,
    source: TeacherSource,
    utterances: Sequence[Utterance],
    root: Path,
    trust: Trust,
) -> TrustRecords:
    """Bounded requests, several at a time; nothing but trust comes back."""
    tokens = Tokens.load(root / section.tokens)
    teachers = source.describe().teachers
    wanted = frozenset[Wanted]({"trust", "chrf"} if trust == "teacher_forced_chrf" else {"trust"})
    needs = StudentNeeds(
        tokens.digest, len(tokens), tokens.blank, tokens.bos, tokens.eos,
        wanted=wanted, texts=section.reads is not None,
    )  # fmt: skip
    handshake(needs, source.describe())
    hear = source.describe().recognizer is not None or any(
        each.reads == "speech" for each in teachers
    )
    ask = _Questions(section, root, tokens, wanted, hear)
    seen = _Collector(teachers, len(utterances), trust)
    waiting: deque[tuple[Sequence[int], PendingSignal[Signal]]] = deque()

    def collect() -> None:
        rows, pending = waiting.popleft()
        seen.add(rows, pending.result(_DEADLINE_S + 30.0))

    for rows in _batches(utterances, section.batch_size):
        request = ask([utterances[row] for row in rows])
        while len(waiting) >= section.in_flight:
            collect()
        while True:
            try:
                waiting.append((rows, source.ask(request)))
                break
            except Busy:
                if not waiting:
                    raise
                collect()
    while waiting:
        collect()
    seen.tell(done=True)
    return seen.records()


def _batches(utterances: Sequence[Utterance], size: int) -> Iterator[list[int]]:
    """Places of utterances of like length, the longest first: what does not fit fails early."""
    order = sorted(range(len(utterances)), key=lambda row: -(utterances[row].duration_s or 0.0))
    for start in range(0, len(order), size):
        yield order[start : start + size]


@dataclass(frozen=True)
class _Questions:
    """Makes requests."""

    section: PoolReport
    root: Path
    tokens: Tokens
    wanted: frozenset[Wanted]
    hear: bool

    def __call__(self, rows: Sequence[Utterance]) -> Score:
        section = self.section
        texts = None
        if section.reads is not None:
            texts = tuple(row.text(section.reads) or "" for row in rows)
        return Score(
            utterance_ids=tuple(row.id for row in rows),
            audio=Audio.of([read_waveform(row, self.root) for row in rows] if self.hear else []),
            references=Labels.of(
                [self.tokens.encode(row.text(section.column) or "") for row in rows]
            ),
            fusion=Fusion(Average()),
            texts=texts,
            wanted=self.wanted,
            per_teacher=True,
            deadline_s=_DEADLINE_S,
        )


class _Collector:
    """Lays answers where their utterances stand, and tells how far it is."""

    def __init__(self, teachers: Sequence[TeacherInfo], utterances: int, trust: Trust) -> None:
        shape = (len(teachers), utterances)
        measures: list[Trust] = ["teacher_forced"]
        if all(each.has_ctc for each in teachers):
            measures.append("ctc_greedy")
        if trust == "teacher_forced_chrf":
            measures.append(trust)
        self._teachers = tuple(teachers)
        self._errors = {measure: np.full(shape, -1, dtype=np.int64) for measure in measures}
        self._confidence = np.full(shape, np.nan)
        self._lengths = np.zeros(utterances, dtype=np.int64)
        self._done = 0
        self._began_s = self._told_s = time.monotonic()

    def add(self, rows: Sequence[int], signal: Signal) -> None:
        """What teachers said about some utterances."""
        self._lengths[rows] = signal.reference_lengths
        for output in signal.outputs:
            found = {
                "ctc_greedy": output.ctc_errors,
                "teacher_forced": output.decoder_errors,
                "teacher_forced_chrf": output.chrf_errors,
            }
            for measure, errors in self._errors.items():
                counts = found[measure]
                assert counts is not None, "chrF is asked for where it counts"
                errors[output.teacher, rows] = counts
            self._confidence[output.teacher, rows] = output.confidence
        self._done += len(rows)
        self.tell()

    def tell(self, *, done: bool = False) -> None:
        """One line every few seconds, and at the end."""
        now = time.monotonic()
        if not done and now - self._told_s < _TELL_S:
            return
        self._told_s = now
        rate = self._done / max(1e-9, now - self._began_s)
        logger.info(
            "%d of %d utterances, %.0f a second by %d teachers",
            self._done, len(self._lengths), rate, len(self._teachers),
        )  # fmt: skip

    def records(self) -> TrustRecords:
        """All of it."""
        return TrustRecords(self._teachers, self._errors, self._confidence, self._lengths)
