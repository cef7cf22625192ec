"""Teachers that hear what the student hears, from the request to a whole run."""

import pytest
import tiny
import torch
from in_process_pool import InProcessPool

from kd_ray.config.load import ConfigError
from kd_ray.core.contracts import TeachersInfo
from kd_ray.core.handshake import HandshakeError, handshake
from kd_ray.evaluation.run_folder import RunFolder, read_json_lines
from kd_ray.evaluation.system import load_system
from kd_ray.students.collective import Alone
from kd_ray.students.materials import Inventories, build_data, student_needs
from kd_ray.students.pipeline import MicroBatch, Update
from kd_ray.students.requests import build_request
from kd_ray.students.session import run_session
from kd_ray.students.step import Learner
from kd_ray.teachers.local_source import LocalSource
from kd_ray.teachers.teacher import Teacher, load_teachers

AUGMENT = {"time_masks": 2, "max_time_s": 0.2, "max_time_share": 0.3, "max_frequency": 0.3}


@pytest.fixture(scope="module")
def folders(tiny_root):
    return [tiny_root / "teachers" / f"t{number}" for number in range(3)]


def config_of(name, **overrides):
    return tiny.distill_config(
        name, "teachers.txt", data__augment=AUGMENT, teachers__view="student", **overrides
    )


def batch_of(config, root, rows):
    inventories = Inventories.load(config, root)
    data = build_data(config, root, inventories)["train"]
    return data.batch(rows, with_audio=True), inventories


def heard_by(teacher, source, request):
    """What its encoder reads of a request: (B, T, F) normalised, masked."""
    model, read = teacher.system.model, []
    encode = model.encode

    def watch(normalized, lengths):
        read.append(normalized)
        return encode(normalized, lengths)

    model.encode = watch
    try:
        source.ask(request).result(60.0)
    finally:
        del model.encode
    (inputs,) = read
    return inputs


@pytest.mark.parametrize("epoch", [0, 3])
def test_a_teacher_with_the_students_front_end_reads_the_very_same_numbers(
    tiny_root, folders, epoch
):
    """Bit for bit, in any batch: student and teacher are one model here."""
    config = config_of("same-numbers")
    teacher = Teacher(load_system(folders[0]), 0)
    model = teacher.system.model
    batch, _ = batch_of(config, tiny_root, [7, 2, 11, 5])
    learner = Learner(
        model=model, forward=model, criterion=None, collective=Alone(),
        augment=config.data.augment, device=torch.device("cpu"), seed=config.training.seed,
    )  # fmt: skip
    update = Update(index=9, epoch=epoch, ends_epoch=False, utterance_ids=batch.utterance_ids)
    student, lengths, *_ = learner._inputs(update, MicroBatch(batch))
    source = LocalSource([teacher])
    ask = build_request(config, 60.0)
    together = heard_by(teacher, source, ask(batch, None, epoch))
    assert torch.equal(student, together)
    assert (student == 0).any(dim=2)[:, : int(lengths.min())].any()
    for row in range(4):
        alone = heard_by(teacher, source, ask(batch.take([row]), None, epoch))
        assert torch.equal(alone[0], student[row, : int(lengths[row])])
    clean = heard_by(teacher, source, build_request(_clean(config), 60.0)(batch, None, epoch))
    assert torch.equal(clean, model.normalize(batch.inputs, batch.lengths))
    source.close()


def _clean(config):
    return config.model_copy(
        update={"teachers": config.teachers.model_copy(update={"view": "clean"})}
    )


def test_a_teacher_with_more_mels_reads_the_same_times_and_fractions(tiny_root, folders):
    config = config_of("other-mels")
    teacher = Teacher(load_system(folders[1]), 0)
    assert teacher.system.extractor.config.num_mels == 64
    batch, _ = batch_of(config, tiny_root, [7, 2])
    request = build_request(config, 60.0)(batch, None, 1)
    source = LocalSource([teacher])
    read = heard_by(teacher, source, request)
    source.close()
    masks = request.view.masks
    for row, length in enumerate(batch.lengths.tolist()):
        for frame in range(length):
            time_s = (frame + 0.5) * 0.01
            hidden = any(start <= time_s < end for start, end in masks.times_s[row])
            assert bool((read[row, frame] == 0).all()) == hidden
        for mel in range(64):
            place = (mel + 0.5) / 64
            hidden = any(start <= place < end for start, end in masks.mels[row])
            assert bool((read[row, :length, mel] == 0).all()) == hidden


def losses_of(root, config, source):
    RunFolder(root, config.name).open(config)
    try:
        run_session(
            config, root=root, collective=Alone(), device=torch.device("cpu"), source=source
        )
    finally:
        source.close()
    lines = read_json_lines(root / "runs" / config.name / "metrics.jsonl")
    return [line["loss"] for line in lines if line["kind"] == "train"]


def test_a_run_learns_the_same_from_local_teachers_and_from_hosts(tiny_root, folders):
    """Few tokens, masked teachers, two hosts that merge: the whole way of a distillation."""
    few = {"distillation__top_k": 3, "training__max_updates": 5, **tiny.PLAIN_SGD}
    local = losses_of(
        tiny_root, config_of("view-local", **few), LocalSource(load_teachers(folders))
    )
    pooled = losses_of(
        tiny_root,
        config_of("view-pooled", **few),
        InProcessPool(load_teachers(folders), 2, batching="per_request"),
    )
    assert len(local) == 5
    assert pooled == pytest.approx(local, abs=1e-5)
    clean = losses_of(
        tiny_root, _clean(config_of("view-clean", **few)), LocalSource(load_teachers(folders))
    )
    assert abs(clean[0] - local[0]) > 1e-4


def test_there_must_be_a_view_to_share():
    for overrides, words in (
        ({"data__augment": None}, "data.augment is null"),
        ({"teachers__source": {"type": "store", "path": "s"}}, "'store', whose answers"),
    ):
        with pytest.raises(ConfigError, match=words):
            tiny.distill_config("no-view", "teachers.txt", teachers__view="student", **overrides)


def test_a_pool_of_readers_is_told_at_the_handshake(tiny_root, folders):
    config = config_of("readers")
    needs = student_needs(Inventories.load(config, tiny_root).target, config)
    tiny.make_experts(tiny_root, 1)
    (expert,) = load_teachers([tiny_root / "experts" / "e0"])
    with pytest.raises(HandshakeError, match="no teacher hears anything"):
        handshake(needs, TeachersInfo((expert.info,), "local"))
