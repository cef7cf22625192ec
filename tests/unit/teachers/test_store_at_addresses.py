"""A store's shards at an address that does not answer are no damaged shards."""

import pytest
from store_doubles import filled_store

from kd_ray.storage import StorageError, remote
from kd_ray.teachers.store import StoreError, TargetStore
from kd_ray.teachers.store.rows import read_footer


@pytest.fixture
def store(far):
    filled_store(far.folder / "store", teachers=1, count=20, shard=20)
    # Too small for a shard: it is read in ranges.
    far.small_cache(kib=1)
    return TargetStore.open(far.root / "store")


@pytest.fixture
def no_answer(monkeypatch):
    class Refusing(remote.FarFile):
        def readinto(self, buffer):
            raise StorageError("it does not answer")

    return lambda: monkeypatch.setattr(remote, "FarFile", Refusing)


def test_nobody_is_told_to_delete_a_shard_that_cannot_be_reached(store, no_answer):
    digest = store.index.digests[0]
    assert store.read("train", ["u3"], [digest])
    store = TargetStore.open(store.folder)
    assert not store.missing("train", digest)
    no_answer()
    with pytest.raises(StorageError, match="it does not answer") as refused:
        store.read("train", ["u3"], [digest])
    assert "Delete" not in str(refused.value)
    with pytest.raises(StorageError, match="it does not answer"):
        read_footer(store.shard_path("train", digest, 0))


def test_a_damaged_shard_is_named_by_its_address(store, far):
    digest = store.index.digests[0]
    path = store.shard_path("train", digest, 0).relative_to(store.folder)
    assert not store.missing("train", digest)
    content = (far.folder / "store" / path).read_bytes()
    (far.folder / "store" / path).write_bytes(b"x" * len(content))
    with pytest.raises(StoreError, match=rf"file://.*{path.name} cannot be read.*Delete"):
        store.read("train", ["u3"], [digest])
