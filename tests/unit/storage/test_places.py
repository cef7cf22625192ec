"""Addresses: how they are read, joined, mirrored, and refused."""

from pathlib import Path

import pytest

from kd_ray.config.load import ConfigError, check, root_folder
from kd_ray.config.places import (
    Address,
    PlaceError,
    address_of,
    is_address,
    local_path,
    mirror_of,
    refuse_secrets,
)

BUCKET = Address("s3", "bucket", "data/train.parquet")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KD_RAY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize(
    ("joined", "address"),
    [
        (Path("/root") / "s3://bucket/data/train.parquet", BUCKET),
        (Path("/root") / "S3://bucket/data" / "train.parquet", BUCKET),
        (Path("/root") / "s3://bucket/data/../data/./train.parquet", BUCKET),
        (Path("/root") / "s3://bucket", Address("s3", "bucket", "")),
        (
            Path("/root") / "s3://bucket/data?region=eu-west-1" / "x",
            Address("s3", "bucket", "data/x", "region=eu-west-1"),
        ),
        (Path("/root") / "file:///mnt/corpus/a.wav", Address("file", "", "mnt/corpus/a.wav")),
        (Path("/root") / "gs://bucket/a b.wav", Address("gs", "bucket", "a b.wav")),
    ],
    ids=str,
)
def test_a_joined_key_stands_for_its_address(joined, address):
    assert address_of(joined) == address


@pytest.mark.parametrize("path", ["/data/train.parquet", "data", "/root/s3/bucket/x", "/a:b/c"])
def test_local_paths_stand_for_no_address(path):
    assert address_of(Path(path)) is None
    assert local_path(Path(path)) == Path(path)


@pytest.mark.parametrize(
    "address",
    [
        BUCKET,
        Address("s3", "bucket", ""),
        Address("s3", "bucket", "x", "endpoint_override=127.0.0.1:5000&scheme=http"),
        Address("file", "", "mnt/corpus"),
    ],
    ids=str,
)
def test_a_mirror_stands_for_its_address_on_every_node(address, cache, monkeypatch):
    mirror = mirror_of(address)
    assert mirror.is_relative_to(cache)
    assert address_of(mirror) == address
    assert address_of(mirror / "below" / "x") == address / "below/x"
    monkeypatch.setenv("KD_RAY_CACHE", "/elsewhere/cache")
    assert local_path(mirror) == mirror_of(address)
    assert local_path(mirror).is_relative_to("/elsewhere/cache")


def test_a_key_with_an_address_wins_over_a_root_with_one():
    root = mirror_of(Address("s3", "bucket", "project"))
    assert address_of(root / "data/x.parquet") == Address("s3", "bucket", "project/data/x.parquet")
    assert address_of(root / "gs://other/x.parquet") == Address("gs", "other", "x.parquet")
    assert address_of(root / "/local/x.parquet") is None


def test_the_root_may_be_an_address(monkeypatch):
    monkeypatch.setenv("KD_RAY_ROOT", "s3://bucket/project?region=eu-west-1")
    assert address_of(root_folder()) == Address("s3", "bucket", "project", "region=eu-west-1")


@pytest.mark.parametrize(
    "text",
    [
        "s3://key:hidden@bucket/x",
        "s3://bucket/x?secret_key=hidden",
        "s3://bucket/x?region=eu&access_key=hidden",
        "abfs://container/x?sas_token=hidden",
    ],
)
def test_an_address_with_a_secret_is_refused_without_repeating_it(text):
    assert is_address(text)
    with pytest.raises(PlaceError, match="AWS_ACCESS_KEY_ID") as caught:
        refuse_secrets(text)
    assert "hidden" not in str(caught.value)
    with pytest.raises(PlaceError):
        address_of(Path("/root") / text)
    content = {
        "command": "train",
        "name": "a",
        "data": {"train": text, "valid": "v", "tokens": "t"},
    }
    with pytest.raises(ConfigError, match="AWS_ACCESS_KEY_ID") as refused:
        check(content, "train.yaml")
    assert "hidden" not in str(refused.value)


def test_an_address_without_a_bucket_says_how_it_is_written():
    with pytest.raises(PlaceError, match="s3://BUCKET/FOLDER"):
        address_of(Path("/root/s3:"))
