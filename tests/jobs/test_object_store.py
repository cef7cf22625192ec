"""Everything at S3 addresses, against a server that speaks the S3 protocol on this machine.

A corpus is prepared into shards in a bucket, a student is trained there, killed, and goes on with
an empty cache; a target store is built there and distilled from. All is equal to the same on the
local disk.
"""

import logging
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file
from yaml_files import finish, kd_ray, write_config

from kd_ray import storage
from kd_ray.cluster.trainer import run_training
from kd_ray.commands.check import check
from kd_ray.commands.prepare import prepare
from kd_ray.config.commands import PrepareConfig
from kd_ray.config.load import check_as, root_folder
from kd_ray.config.places import address_of
from kd_ray.evaluation.run_folder import RunFolder, read_json_lines
from kd_ray.evaluation.system import read_teacher_list
from kd_ray.speech.manifest import manifest_digest, read_manifest, write_manifest
from kd_ray.speech.tokens import Tokens
from kd_ray.storage import remote
from kd_ray.teachers.cards import card_of
from kd_ray.teachers.inference import InferenceJob, ShardScorer
from kd_ray.teachers.store import TargetStore

pytestmark = [pytest.mark.slow, pytest.mark.long]

BUCKET = "speech"
SECRET = "planted-secret-key-0123456789"


@pytest.fixture(scope="module")
def endpoint():
    """A fresh S3 server on a free port of the loopback."""
    from moto.server import ThreadedMotoServer

    # It tells of every request.
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="module")
def module_patch():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def bucket(endpoint, module_patch, tmp_path_factory):
    """The environment of somebody who works in a bucket; `s3://speech/project` is their root."""
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "eu-west-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "KD_RAY_ROOT": f"s3://{BUCKET}/project",
    }.items():
        module_patch.setenv(name, value)
    module_patch.setenv("KD_RAY_CACHE", str(tmp_path_factory.mktemp("cache") / "0"))
    import boto3

    boto3.client("s3", endpoint_url=endpoint).create_bucket(
        Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
    )
    return BUCKET


@pytest.fixture
def empty_cache(module_patch, tmp_path):
    """Call it to be on another node."""

    def change():
        number = len(list(tmp_path.glob("cache-*")))
        folder = tmp_path / f"cache-{number}"
        folder.mkdir()
        module_patch.setenv("KD_RAY_CACHE", str(folder))

    change()
    return change


@pytest.fixture(scope="module")
def here(tmp_path_factory, bucket):
    """A local root and the bucket with the same prepared data, in shards, and the same teachers."""
    raw, root = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("here")
    tiny.make_corpus(raw)
    for split in tiny.SPLITS:
        rows = read_manifest(raw / f"data/{split}.parquet")
        # The corpus lies on a local disk, wherever the root is.
        rows = [replace(row, audio=str(raw / row.audio)) for row in rows]
        write_manifest(raw / f"data/{split}.parquet", rows)
    corpus = {split: str(raw / f"data/{split}.parquet") for split in tiny.SPLITS}
    config = check_as(
        PrepareConfig,
        {
            "command": "prepare",
            "folder": "data",
            "corpus": {"type": "manifest", **corpus},
            "shard_mib": 0.1,
        },
        "test",
    )
    prepare(config, root)
    write_config(root / "prepare.yaml", config)
    finish(kd_ray("prepare", root / "prepare.yaml", root=address()))
    for each in (root, root_folder()):
        tiny.make_teachers(each)
    return root


def address():
    return f"s3://{BUCKET}/project"


def names(below):
    """Files below a folder of the root, as the server has them."""
    return set(remote.listing(address_of(root_folder() / below)))


def weights(root, name):
    folder = storage.fetch_folder(root / "runs" / name / "checkpoints")
    return load_file(sorted(folder.glob("update-*"))[-1] / "model" / "model.safetensors")


def equal(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


def test_what_is_prepared_in_a_bucket_is_what_is_prepared_here(here, empty_cache):
    for split in tiny.SPLITS:
        there = root_folder() / f"data/{split}.parquet"
        assert manifest_digest(there) == manifest_digest(here / f"data/{split}.parquet")
        assert all(".tar:" in row.audio for row in read_manifest(there))
    local = {path.name: path.stat().st_size for path in (here / "data/shards").iterdir()}
    assert names("data/shards") == set(local)
    assert len(local) > 2


def test_a_run_in_a_bucket_killed_and_taken_up_on_another_node_ends_alike(here, empty_cache):
    options = {"training__epochs": 8, "training__checkpoint_every_updates": 2}
    config = tiny.train_config("killed", **options)
    run_training(config, here)
    path = write_config(here / "killed.yaml", config)
    process = kd_ray("train", path, root=address())
    until = time.monotonic() + 240
    while "update-00000004/state.json" not in names("runs/killed/checkpoints"):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert RunFolder(root_folder(), "killed").summary() is None
    empty_cache()
    output = finish(kd_ray("train", path, root=address()))
    assert "resumed at update" in output
    assert SECRET not in output
    empty_cache()
    assert equal(weights(here, "killed"), weights(root_folder(), "killed"))
    folder = storage.fetch_folder(root_folder() / "runs/killed")
    for name in ("metrics.jsonl", "events.jsonl"):
        assert (folder / name).exists()
    updates = [
        line["update"]
        for line in read_json_lines(folder / "metrics.jsonl")
        if line["kind"] == "train"
    ]
    assert updates == list(range(1, 25))
    # The model of a finished run loads from the bucket, and is the local one.
    first, second = (
        load_file(storage.fetch(root / "runs/killed/model/model.safetensors"))
        for root in (here, root_folder())
    )
    assert equal(first, second)


def test_a_student_distils_from_a_store_in_a_bucket_as_from_one_here(here, empty_cache):
    config = tiny.distill_config(
        "stored", "teachers.txt", teachers__source={"type": "store", "path": "store"}
    )
    for root in (here, root_folder()):
        fill_store(root)
    empty_cache()
    shards = {name for name in names("store") if name.endswith(".parquet")}
    assert shards == {
        path.relative_to(here / "store").as_posix() for path in (here / "store").rglob("*.parquet")
    }
    for root in (here, root_folder()):
        run_training(config, root)
    empty_cache()
    assert equal(weights(here, "stored"), weights(root_folder(), "stored"))


def fill_store(root):
    """What `kd-ray infer-teachers` does, in this process."""
    folders = read_teacher_list("teachers.txt", root)
    infos = [card_of(folder, index).info for index, folder in enumerate(folders)]
    store = TargetStore.prepare(root / "store", infos)
    store.plan("train", read_manifest(root / "data/train.parquet"), 7, column="phones")
    job = InferenceJob(
        store=store.folder,
        root=root,
        manifests={"train": root / "data/train.parquet"},
        tokens=root / "data/tokens.json",
        column="phones",
        folders={info.digest: folder for info, folder in zip(infos, folders, strict=True)},
        batch_size=4,
    )
    digests = [info.digest for info in infos]
    with store.writing():
        scorer = ShardScorer(job)
        for shard in store.shards("train"):
            scorer.run("train", shard.index, digests, digests)
    assert not store.missing("train", digests[0])
    Tokens.load(job.tokens)


def test_check_says_what_is_wrong_with_an_address(here, empty_cache, monkeypatch):
    good = tiny.train_config("checked")
    assert check(good, root_folder()).ok
    assert not [name for name in names("") if "kd_ray-check" in name]
    missing = tiny.train_config("checked", data__train="s3://no-such-bucket/train.parquet")
    (problem,) = check(missing, here).problems
    assert "no-such-bucket" in problem
    assert "there is no such bucket" in problem
    gone = tiny.train_config("checked", data__train=f"{address()}/data/none.parquet")
    assert any(
        f"no manifest at {address()}/data/none" in text for text in check(gone, here).problems
    )
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(remote, "_systems", {})
    (problem,) = check(good, root_folder()).problems
    assert "does not answer" in problem


def test_no_secret_is_in_the_bucket(here, empty_cache):
    for name in names(""):
        content = storage.fetch(root_folder() / name)
        if Path(name).name.startswith("."):
            continue
        assert SECRET.encode() not in content.read_bytes(), name
