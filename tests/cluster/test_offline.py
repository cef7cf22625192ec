import pytest
from doubles import load_fake_teachers
from store_doubles import inference_job, load_teachers_that_crash, stored_files

from kd_ray.cluster.offline import OfflineError, plan_work, run_offline
from kd_ray.teachers.inference import ShardScorer
from kd_ray.teachers.store import StoreError, TargetStore
from kd_ray.teachers.store.files import TEMPORARY_SUFFIX

D = ["digest-1", "digest-2", "digest-3"]


def offline(job, **settings):
    seen = []
    summary = run_offline(
        job,
        cpus_per_actor=0.5,
        progress=lambda done, total: seen.append((done, total)),
        load=load_fake_teachers,
        **settings,
    )
    return summary, seen


def test_work_is_planned_group_by_group_and_leaves_out_what_is_there(tmp_path):
    job = inference_job(tmp_path)
    scorer = ShardScorer(job, load_fake_teachers)
    scorer.run("train", 0, ["digest-1"], ["digest-1"])
    store = TargetStore.open(job.store)
    items = plan_work(store, ["train"], D, 2)
    assert [(item.shard, item.due) for item in items] == [
        (0, ("digest-2",)),
        (1, ("digest-1", "digest-2")),
        (2, ("digest-1", "digest-2")),
        (0, ("digest-3",)),
        (1, ("digest-3",)),
        (2, ("digest-3",)),
    ]
    assert {item.group for item in items} == {("digest-1", "digest-2"), ("digest-3",)}
    for shard in (1, 2):
        scorer.run("train", shard, ["digest-1"], ["digest-1"])
    assert {item.group for item in plan_work(store, ["train"], D, 2)} == {("digest-2", "digest-3")}


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_actors_finish_an_interrupted_run_with_the_rows_that_one_process_writes(tmp_path):
    for name in ("alone", "actors"):
        (tmp_path / name).mkdir()
    alone = inference_job(tmp_path / "alone")
    scorer = ShardScorer(alone, load_fake_teachers)
    for shard in range(3):
        scorer.run("train", shard, D, D)

    job = inference_job(tmp_path / "actors")
    ShardScorer(job, load_fake_teachers).run("train", 1, D[:2], D)
    before = stored_files(job)
    half = (
        job.store / "split=train" / "teacher=digest-1" / f".part-00000.parquet.1{TEMPORARY_SUFFIX}"
    )
    half.write_bytes(b"PAR1")
    summary, seen = offline(job, actors=2, teachers_per_actor=2)
    assert (len(before), summary.kept, len(summary.records)) == (2, 2, 7)
    assert seen[0] == (2, 9)
    assert seen[-1] == (9, 9)
    assert len(seen) == 6
    assert not half.exists()
    made = stored_files(job)
    assert {name: made[name] for name in before} == before
    assert [data for *_, data in made.values()] == [
        data for *_, data in stored_files(alone).values()
    ]
    assert sorted(path.name for path in job.store.iterdir()) == [
        ".writing", "_plans", "split=train", "store.json",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_a_teacher_that_answers_nan_stops_the_run_and_is_named(tmp_path):
    job = inference_job(tmp_path, seeds=("1", "2-nan"))
    with pytest.raises(
        OfflineError, match=r"shard \d of split 'train': StoreError: teacher fake-2"
    ):
        offline(job)
    names = list(stored_files(job))
    assert names
    assert all("digest-1" in name for name in names)
    assert [path for path in job.store.rglob("*") if "tmp" in path.name] == []
    with TargetStore.open(job.store).writing():
        pass


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_teacher_that_takes_its_process_down_is_not_tried_for_ever(tmp_path):
    job = inference_job(tmp_path, seeds=("1", "2"))
    with pytest.raises(OfflineError, match=r"process that scored it died 3 times.*digest-2"):
        run_offline(job, teachers_per_actor=1, load=load_teachers_that_crash, cpus_per_actor=0.5)
    assert len(stored_files(job)) == 3


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_more_than_the_cluster_has_is_refused_at_once(tmp_path):
    job = inference_job(tmp_path)
    with pytest.raises(
        ValueError,
        match=r"with 1 CPU \+ 1 GPU each: no node has room for one.*lower cpus_per_actor",
    ):
        run_offline(job, gpus_per_actor=1, load=load_fake_teachers)


def test_a_complete_store_needs_no_ray(tmp_path):
    job = inference_job(tmp_path, seeds=("1",))
    scorer = ShardScorer(job, load_fake_teachers)
    for shard in range(3):
        scorer.run("train", shard, D[:1], D[:1])
    summary, seen = offline(job)
    assert (summary.records, summary.kept, seen) == ((), 3, [(3, 3)])


def test_a_second_writer_is_refused(tmp_path):
    job = inference_job(tmp_path)
    with TargetStore.open(job.store).writing(), pytest.raises(StoreError, match="being written"):
        offline(job)
