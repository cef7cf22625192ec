"""Made-up teachers, utterances and outputs for the tests of the target store."""

import os
from dataclasses import replace

import numpy as np
import soundfile
from doubles import FakeTeacher, load_fake_teachers

from kd_ray.core.contracts import Labels, Score, TeacherInfo, TeacherOutput
from kd_ray.speech.manifest import Utterance, write_manifest
from kd_ray.speech.tokens import Tokens
from kd_ray.teachers.cache import data_digest, take_request
from kd_ray.teachers.inference import InferenceJob
from kd_ray.teachers.store import TargetStore, rows_of

VOCABULARY = 11


def info(number: int, **changes: object) -> TeacherInfo:
    fields = {
        "index": number,
        "name": f"t{number}",
        "folder": f"teachers/t{number}",
        "digest": f"{number:016x}",
        "tokens_digest": "tokens",
        "vocabulary_size": VOCABULARY,
        "blank": 0,
        "bos": 1,
        "eos": 2,
        "front_end_digest": "mels",
        "frame_rate_hz": 25.0,
        "parameters": 10,
    }
    return TeacherInfo(**{**fields, **changes})


def utterances(count: int) -> list[Utterance]:
    return [
        Utterance(id=f"u{n}", audio=f"audio/u{n}.wav", duration_s=1.0, phones="a b")
        for n in range(count)
    ]


def references_of(ids: list[str]) -> list[list[int]]:
    """1 to 4 tokens, a function of the id."""
    numbers = [int(name[1:]) for name in ids]
    return [[3 + (n + k) % (VOCABULARY - 3) for k in range(1 + n % 4)] for n in numbers]


def output(number: int, ids: list[str], *, padding: float = np.nan) -> TeacherOutput:
    """What made-up teacher `number` says; each utterance's part depends on its id alone."""
    references = references_of(ids)
    positions = np.array([len(string) + 1 for string in references])
    log_probs = np.full((len(ids), int(positions.max()), VOCABULARY), padding, dtype=np.float32)
    strings, errors = [], []
    for row, name in enumerate(ids):
        random = np.random.default_rng([number, int(name[1:])])
        logits = random.normal(size=(positions[row], VOCABULARY)) * 3
        log_probs[row, : positions[row]] = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        strings.append(random.integers(3, VOCABULARY, size=random.integers(0, 4)))
        errors.append(random.integers(0, 4, size=2))
    return TeacherOutput(
        teacher=number,
        log_probs=log_probs,
        positions=positions,
        strings=tuple(strings),
        frames=positions * 4,
        ctc_errors=np.array(errors)[:, 0],
        decoder_errors=np.array(errors)[:, 1],
        reference_lengths=positions - 1,
        confidence=np.array([-0.5 - 0.01 * int(name[1:]) for name in ids], dtype=np.float32),
    )


def rows(number: int, ids: list[str]) -> list:
    return rows_of(ids, output(number, ids), Labels.of(references_of(ids)))


def fill(store: TargetStore, split: str, digests: list[str] | None = None) -> None:
    """Commit whatever is missing."""
    for teacher in store.teachers:
        if digests is None or teacher.digest in digests:
            for shard in store.missing(split, teacher.digest):
                made = rows(int(teacher.digest, 16), list(shard.ids))
                store.write_shard(split, teacher.digest, shard.index, made)


def filled_store(
    folder, *, teachers: int = 3, count: int = 10, shard: int = 4, precision="float32", **settings
) -> TargetStore:
    infos = [info(n, precision=precision) for n in range(teachers)]
    store = TargetStore.create(folder, infos, **settings)
    store.plan("train", utterances(count), shard, column="phones")
    fill(store, "train")
    return store


def store_answers(folder, one: Score, teachers: list[FakeTeacher]) -> str:
    """A store of what made-up teachers say to a request along its references; its data digest."""
    references = one.references.strings()
    made = [
        Utterance(id=name, audio=f"{name}.wav", phones=" ".join(map(str, string.tolist())))
        for name, string in zip(one.utterance_ids, references, strict=True)
    ]
    store = TargetStore.create(folder, [teacher.info for teacher in teachers])
    store.plan("train", made, 4, column="phones")
    for teacher in teachers:
        for shard in store.missing("train", teacher.info.digest):
            part = take_request(one, [one.utterance_ids.index(name) for name in shard.ids])
            inputs, lengths = teacher.reader(part.audio.waveforms(), None)
            said = teacher.score(inputs, lengths, part.references, part.references, part.wanted)
            store.write_shard(
                "train", teacher.info.digest, shard.index, rows_of(shard.ids, said, part.references)
            )
    return data_digest("any", made, "phones")


def inference_job(folder, *, seeds=("1", "2", "3"), count=10, shard=4, **settings) -> InferenceJob:
    """Noise for speech, made-up teachers (`doubles.FakeTeacher`), and a store planned for them."""
    tokens = Tokens.train(["a b c d"], "phones")
    tokens.save(folder / "tokens.json")
    random = np.random.default_rng(0)
    texts = ["a b", "c", "d a c", "b"]
    made = []
    (folder / "audio").mkdir()
    for n in range(count):
        size = int(random.integers(800, 1920))
        noise = random.integers(-2000, 2000, size, dtype=np.int16)
        soundfile.write(folder / "audio" / f"u{n}.wav", noise, 16000)
        made.append(Utterance(id=f"u{n}", audio=f"audio/u{n}.wav", phones=texts[n % 4]))
    write_manifest(folder / "train.parquet", made)
    folders = {f"digest-{seed.split('-')[0]}": folder / "fakes" / seed for seed in seeds}
    infos = [
        replace(
            FakeTeacher(int(seed.split("-")[0])).info,
            tokens_digest=tokens.digest,
            vocabulary_size=7,
        )
        for seed in seeds
    ]
    store = TargetStore.prepare(folder / "store", infos)
    store.plan("train", made, shard, column="phones")
    return InferenceJob(
        store=folder / "store",
        root=folder,
        manifests={"train": folder / "train.parquet"},
        tokens=folder / "tokens.json",
        column="phones",
        folders=folders,
        **{"batch_size": 3, **settings},
    )


def stored_files(job: InferenceJob) -> dict:
    """Every shard file with its inode, time and bytes."""
    return {
        str(path.relative_to(job.store)): (
            path.stat().st_ino,
            path.stat().st_mtime_ns,
            path.read_bytes(),
        )
        for path in sorted(job.store.rglob("part-*"))
    }


def load_teachers_that_crash(folders, device):
    """As `load_fake_teachers`; teacher 2 takes its process down."""
    if any(folder.name == "2" for folder in folders):
        os._exit(9)
    return load_fake_teachers(folders, device)
