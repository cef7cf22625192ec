"""Pools that remember: what hosts fused, and a target store; and whose requests go first."""

import contextlib
import dataclasses
from pathlib import Path

import pytest
import tiny
import torch
from doubles import load_fake_teachers, request
from pool_help import FOUR, assert_same_signal, local_signal, statuses
from safetensors.torch import load_file
from store_doubles import store_answers

from kd_ray.cluster.pool import PoolSource, PoolStartError, attach, service
from kd_ray.cluster.pool.plan import PoolSpec
from kd_ray.cluster.trainer import run_training
from kd_ray.commands.pool import spec_of
from kd_ray.config.pool import PoolConfig
from kd_ray.config.sources import PoolSource as PoolSection
from kd_ray.config.strategies import Best, TopM, Weighted
from kd_ray.core.contracts import Fusion
from kd_ray.speech.manifest import read_manifest
from kd_ray.teachers.temporary import temporary_store

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


def spec(name, folders=FOUR, **hosts):
    content = {
        "command": "pool",
        "name": name,
        "teachers": {"list": "unused"},
        "hosts": {"cpus_per_host": 0.25, **hosts},
        "lease_s": 5,
    }
    config = PoolConfig.model_validate(content)
    return PoolSpec(config, tuple(map(str, folders)), load=load_fake_teachers)


@contextlib.contextmanager
def pool(name, folders=FOUR, **hosts):
    service.up(spec(name, folders, **hosts))
    try:
        yield
    finally:
        service.down(name, force=True)


@contextlib.contextmanager
def job(pool, name, data="", **settings):
    attachment = attach(PoolSection(type="pool", name=pool, **settings), job=name)
    source = PoolSource(attachment.address, job=name, data=data)
    yield source
    source.close()
    attachment.close()


def passes(name):
    return sum(status.batches.passes for status in statuses(name))


STORED = request(7, 6, strategy=Best())


@pytest.fixture(scope="module")
def remembering(local_ray, tmp_path_factory):
    """A pool that remembers what it fuses, and has a store of one request; and that one's data."""
    folder = tmp_path_factory.mktemp("remembering") / "store"
    data = store_answers(folder, STORED, load_fake_teachers(FOUR, "cpu"))
    with pool("remembering", hosts=2, fused_cache_mib=16, cache_store=str(folder)):
        yield data


@pytest.mark.usefixtures("remembering")
def test_hosts_remember_what_they_fused_for_whoever_comes_later():
    asked = [request(seed, strategy=strategy) for seed, strategy in
             ((1, Weighted()), (2, Best()), (3, TopM(m=3)))]  # fmt: skip
    expected = [local_signal(FOUR, one, range(4)) for one in asked]
    with job("remembering", "first") as source:
        for one, signal in zip(asked, expected, strict=True):
            assert_same_signal(source.ask(one).result(30), signal)
    before = passes("remembering")
    with job("remembering", "second") as source:
        for one, signal in zip(asked, expected, strict=True):
            again = source.ask(one).result(30)
            assert_same_signal(again, signal)
            assert again.teacher_s == 0.0
    assert passes("remembering") == before
    hosts = [view.status for view in service.status("remembering").hosts]
    assert [each.fused.jobs["second"].hit_share for each in hosts] == [1.0, 1.0]
    assert [each.cache for each in hosts] == [None, None]


def test_a_target_store_answers_jobs_that_read_its_data(remembering):
    before = passes("remembering")
    expected = local_signal(FOUR, STORED, range(4))
    with job("remembering", "reader", data=remembering) as source:
        assert source.address.stored_data == (remembering,)
        signal = source.ask(STORED).result(30)
        assert_same_signal(signal, expected)
        assert signal.teacher_s == 0.0
    assert passes("remembering") == before
    hits = [view.status.stored.hits for view in service.status("remembering").hosts]
    assert sum(hits) == 4 * 6
    other = dataclasses.replace(STORED, fusion=Fusion(Weighted()))
    with job("remembering", "stranger") as source:
        assert_same_signal(source.ask(other).result(30), local_signal(FOUR, other, range(4)))
    assert passes("remembering") > before


def test_a_store_that_is_not_there_is_told_at_the_start(tmp_path):
    with pytest.raises(PoolStartError, match=r"cache_store.*nowhere"):
        service.up(spec("storeless", cache_store=str(tmp_path / "nowhere")))
    assert "storeless" not in service.names()


@pytest.mark.slow
def test_requests_of_a_job_of_higher_priority_go_first():
    slow = [Path("fakes/1-slow-0.5")]
    with (
        pool("ranked", slow, max_batch_utterances=3),
        job("ranked", "search", priority=-1) as search,
        job("ranked", "training") as training,
    ):
        waiting = [search.ask(request(seed)) for seed in range(8)]
        waiting[0].result(30)
        training.ask(request(20)).result(30)
        # One of the search's passes ran when it came, and the next may have begun meanwhile.
        assert sum(each.done for each in waiting) <= 5
        for each in waiting[1:]:
            each.result(30)


@pytest.mark.slow
def test_a_distillation_costs_no_teacher_computation_where_a_store_has_its_data(tiny_root):
    folders = [tiny_root / "teachers" / f"t{number}" for number in range(3)]
    rows = read_manifest(tiny_root / "data" / "train.parquet")
    tokens = tiny_root / "data" / "tokens.json"
    with temporary_store(folders, rows, root=tiny_root, tokens=tokens, column="phones") as stored:
        content = {
            "command": "pool",
            "name": "answers",
            "teachers": {"list": [str(folder) for folder in folders]},
            "hosts": {"cpus_per_host": 0.25, "cache_store": str(stored.store.folder)},
        }
        service.up(spec_of(PoolConfig.model_validate(content), tiny_root))
        weights = []
        for name, source in (
            ("asked-here", {"type": "local"}),
            ("asked-there", {"type": "pool", "name": "answers"}),
        ):
            distill = tiny.distill_config(
                name, "teachers.txt", **tiny.PLAIN_SGD,
                teachers__source=source, training__epochs=1,
            )  # fmt: skip
            run_training(distill, tiny_root)
            weights.append(load_file(tiny_root / "runs" / name / "model" / "model.safetensors"))
        assert passes("answers") == 0
        [status] = statuses("answers")
        assert status.stored.hit_share == 1.0
        service.down("answers")
    for key, expected in weights[0].items():
        torch.testing.assert_close(weights[1][key], expected, atol=1e-4, rtol=1e-3)
