"""Cards and loads of real checkpoints: the same teacher as ever, and what a broken one costs."""

import os
import shutil

import numpy as np
import pytest
import tiny
import torch

from kd_ray.config.sources import Computation
from kd_ray.core.contracts import Labels
from kd_ray.evaluation.system import load_system
from kd_ray.models.checkpoint import CheckpointError
from kd_ray.teachers.cards import Blueprints, card_of
from kd_ray.teachers.loading import CheckpointLoader, WarmStore
from kd_ray.teachers.residency import LoadFailed, Residency
from kd_ray.teachers.teacher import Teacher, info_of


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("loading")
    tiny.make_corpus(root)
    return [root / name for name in (*tiny.make_teachers(root, 3), *tiny.make_experts(root, 1))]


@pytest.fixture
def own(folders, tmp_path):
    """Copies that a test may break."""
    return [shutil.copytree(folder, tmp_path / folder.name) for folder in folders[:3]]


def score(teacher):
    generator = torch.Generator().manual_seed(0)
    if teacher.info.reads == "text":
        inputs = torch.randint(3, 9, (2, 6), generator=generator)
    else:
        inputs = torch.randn(2, 30, teacher.reader._extractor.config.num_mels, generator=generator)
    lengths = torch.tensor([inputs.shape[1], inputs.shape[1] - 2])
    prefix = Labels.of([[3, 4, 5], [6]])
    return teacher.score(inputs, lengths, prefix, None, frozenset({"tokens"})).log_probs


def test_a_card_says_what_loading_would(folders):
    blueprints = Blueprints()
    for index, folder in enumerate(folders):
        card = card_of(folder, index, blueprints)
        assert card.info == info_of(load_system(folder), index)
        assert 0 < card.weight_bytes < (folder / "model.safetensors").stat().st_size


def test_cards_and_loaded_teachers_know_their_precision(folders):
    half = Computation(precision="bfloat16")
    card = card_of(folders[0], 0, precision="bfloat16")
    loaded = CheckpointLoader(computation=half)(card, "cpu")
    assert loaded.info == card.info == Teacher(load_system(folders[0]), 0, half).info
    assert card.info.answers_digest == f"{card.info.digest}-bfloat16"
    plain = Teacher(load_system(folders[0]), 0)
    assert plain.info.answers_digest == plain.info.digest == card.info.digest
    assert np.abs(score(loaded) - score(plain)).max() > 1e-6


@pytest.mark.parametrize("warm", [None, WarmStore(1 << 30), WarmStore(1)])
def test_a_visit_brings_the_same_teacher(folders, warm):
    load = CheckpointLoader(warm)
    for index, folder in enumerate(folders):
        card, expected = card_of(folder, index), score(Teacher(load_system(folder), index))
        for _ in range(2):
            teacher = load(card, "cpu")
            np.testing.assert_array_equal(score(teacher), expected)
            assert teacher.info == card.info
            assert not any(p.requires_grad for p in teacher.system.model.parameters())
            assert not teacher.system.model.training


def test_two_teachers_of_one_architecture_do_not_share_weights(folders):
    load = CheckpointLoader()
    first, second = (load(card_of(folders[i], i), "cpu") for i in (0, 2))
    assert not np.array_equal(score(first), score(second))


def test_loading_leaves_the_random_state_alone(folders):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    CheckpointLoader()(card_of(folders[0], 0), "cpu")
    assert torch.equal(before, torch.get_rng_state())


def test_weights_are_the_mapped_file_unless_they_are_kept_warm(folders):
    card = card_of(folders[0], 0)
    size = card.weight_bytes

    def mapped(teacher):
        address = next(teacher.system.model.parameters()).data_ptr()
        with open("/proc/self/maps") as maps:
            for line in maps:
                begin, end = (int(part, 16) for part in line.split()[0].split("-"))
                if begin <= address < end:
                    return str(card.folder) in line
        return False

    assert mapped(CheckpointLoader()(card, "cpu"))
    warm = WarmStore(size)
    assert not mapped(CheckpointLoader(warm)(card, "cpu"))
    assert warm.used_bytes == size
    CheckpointLoader(warm)(card, "cpu")
    assert (warm.hits, warm.misses) == (1, 1)
    warm.forget(card.info.digest)
    assert warm.used_bytes == 0


def cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def swap(folder):
    shutil.copy(folder.with_name("t0") / "model.safetensors", folder / "model.safetensors")


def lose(folder):
    (folder / "model.safetensors").unlink()


def garble(folder):
    (folder / "tokens.json").write_text("{")


@pytest.mark.parametrize("harm", [cut, swap, lose, garble])
def test_a_broken_checkpoint_is_found_by_its_card_and_by_its_load(own, harm):
    blueprints = Blueprints()
    cards = [card_of(folder, index, blueprints) for index, folder in enumerate(own)]
    residency = Residency(cards, CheckpointLoader(), max_bytes=1 << 30)
    harm(own[1])
    with pytest.raises((CheckpointError, ValueError), match=str(own[1])):
        card_of(own[1], 1, Blueprints())
    with pytest.raises(LoadFailed, match="teacher 1 cannot be loaded"), residency.use(1):
        pass
    for index in (0, 2):
        with residency.use(index) as teacher:
            assert np.isfinite(score(teacher)).any()


def test_weights_that_changed_behind_the_pool_are_refused(own):
    card, load = card_of(own[0], 0), CheckpointLoader()
    weights = own[0] / "model.safetensors"
    os.utime(weights, ns=(1, 1))
    load(card, "cpu")  # the same bytes with another date: a copy on another node
    shutil.copy(own[2] / "model.safetensors", weights)
    with pytest.raises(CheckpointError, match="teacher 0 was registered with"):
        load(card, "cpu")
