"""Files between an address and the local cache: which side is right, what is sent and removed."""

import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kd_ray import storage
from kd_ray.config.places import address_of, local_path
from kd_ray.storage import StorageError, cache, files, remote


@pytest.fixture
def downloads(monkeypatch):
    """Addresses that were read, in order."""
    done = []
    download = remote.download

    def counted(address, target):
        done.append(address.path.rsplit("/", 1)[1])
        download(address, target)

    monkeypatch.setattr(remote, "download", counted)
    return done


def test_local_paths_are_left_alone(tmp_path):
    path = tmp_path / "x"
    assert storage.fetch(path) == path
    assert storage.fetch_folder(tmp_path) == tmp_path
    storage.publish(path)
    storage.publish_folder(tmp_path)
    assert not storage.exists(path)
    path.write_text("x")
    assert storage.exists(path)
    storage.remove(path)
    assert not path.exists()
    (tmp_path / "folder/below").mkdir(parents=True)
    (tmp_path / "folder/below/x").write_text("x")
    storage.remove(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
    storage.remove(tmp_path / "folder")


def test_a_file_is_brought_once_and_again_when_it_changed(far, downloads):
    path = far.write("data/x.txt", "one")
    assert storage.fetch(path).read_text() == "one"
    assert storage.fetch(path).read_text() == "one"
    assert downloads == ["x.txt"]
    far.write("data/x.txt", "two")
    far.later("data/x.txt")
    assert storage.fetch(path).read_text() == "two"
    assert downloads == ["x.txt", "x.txt"]


@pytest.mark.parametrize("times", [1, 3])
def test_a_file_that_is_replaced_while_it_is_read_is_read_again(far, monkeypatch, times):
    path = far.write("data/x.txt", "one one")
    download, replaced = remote.download, []

    def torn(address, target):
        download(address, target)
        if len(replaced) < times:
            replaced.append(address)
            target.write_text("one two")
            far.write("data/x.txt", "two two")
            status = (far.folder / "data/x.txt").stat()
            changed = status.st_mtime_ns + len(replaced) * 10**9
            os.utime(far.folder / "data/x.txt", ns=(changed, changed))

    monkeypatch.setattr(remote, "download", torn)
    if times == 1:
        assert storage.fetch(path).read_text() == "two two"
    else:
        with pytest.raises(StorageError, match="became another file each of 3 times"):
            storage.fetch(path)
        assert not local_path(path).exists()
    assert not list(local_path(path).parent.glob(".*.part"))


def test_half_a_file_is_not_taken_for_it(far, monkeypatch):
    path = far.write("data/x.txt", "one one")
    download, count = remote.download, []

    def cut(address, target):
        download(address, target)
        count.append(address)
        if len(count) == 1:
            target.write_text("one")

    monkeypatch.setattr(remote, "download", cut)
    assert storage.fetch(path).read_text() == "one one"


def test_a_key_with_an_address_is_fetched_whatever_the_root(far):
    far.write("data/x.txt", "one")
    asked = Path("/anywhere") / f"file://{far.folder}/data/x.txt"
    assert storage.fetch(asked).read_text() == "one"
    assert storage.shown(asked) == f"file://{far.folder}/data/x.txt"


def test_a_missing_file_is_missing_here_too(far):
    assert not storage.fetch(far.root / "data/x.txt").exists()
    with pytest.raises(FileNotFoundError):
        storage.open_file(far.root / "data/x.txt")


def test_what_was_written_here_and_not_sent_yet_stays(far):
    path = far.write("runs/a/metrics.jsonl", "1\n")
    local = storage.fetch(path)
    local.write_text("1\n2\n")
    assert storage.fetch(path).read_text() == "1\n2\n"
    storage.publish(path)
    assert (far.folder / "runs/a/metrics.jsonl").read_text() == "1\n2\n"


def test_the_address_wins_where_it_changed_since(far):
    path = far.write("runs/a/metrics.jsonl", "1\n")
    storage.fetch(path).write_text("1\nlost\n")
    far.write("runs/a/metrics.jsonl", "1\n2\n")
    far.later("runs/a/metrics.jsonl")
    assert storage.fetch(path).read_text() == "1\n2\n"


def test_a_folder_is_brought_and_what_left_its_address_leaves_here(far, downloads):
    for name in ("a/config.json", "a/sub/x", "a/sub/y"):
        far.write(name, name)
    folder = storage.fetch_folder(far.root / "a")
    assert {path.name for path in folder.rglob("*") if path.is_file()} == {"config.json", "x", "y"}
    (far.folder / "a/sub/y").unlink()
    unsent = folder / "new"
    unsent.write_text("not sent yet")
    storage.fetch_folder(far.root / "a")
    assert not (folder / "sub/y").exists()
    assert unsent.exists()
    assert sorted(downloads) == ["config.json", "x", "y"]


def test_a_part_of_a_folder_can_be_asked_for(far):
    for name in ("a/config.json", "a/sub/x"):
        far.write(name, name)
    folder = storage.fetch_folder(far.root / "a", only=lambda name: "/" not in name)
    assert [path.name for path in folder.iterdir()] == ["config.json"]


def test_a_folder_is_sent_with_its_pointer_last_and_without_hidden_files(far, monkeypatch):
    sent = []
    upload = remote.upload

    def noted(source, address):
        sent.append(source.name)
        return upload(source, address)

    monkeypatch.setattr(remote, "upload", noted)
    folder = local_path(far.root / "runs/a")
    (folder / ".part").mkdir(parents=True)
    for name in ("model", "state.json", "zoo", ".part/model", ".lock"):
        (folder / name).write_text(name)
    storage.publish_folder(folder, last=("state.json",))
    assert sent[-1] == "state.json"
    assert sorted(sent) == ["model", "state.json", "zoo"]
    storage.publish_folder(folder, last=("state.json",))
    assert len(sent) == 3, "what is there already is not sent again"


def test_removing_removes_here_and_there(far):
    far.write("a/x", "x")
    folder = storage.fetch_folder(far.root / "a")
    storage.remove(far.root / "a")
    assert not folder.exists()
    assert not (far.folder / "a").exists()
    assert not storage.fetch(far.root / "a/x").exists()


def test_patterns_find_folders_at_an_address(far):
    for name in ("teachers/t1/model", "teachers/t0/model", "teachers/.hidden/model", "other/x"):
        far.write(name, "x")
    found = [str(address_of(path)) for path in storage.matches(far.root, "teachers/*")]
    assert found == [f"file://{far.folder}/teachers/t{number}" for number in (0, 1)]
    assert found == [
        str(address_of(path)) for path in storage.matches(Path("/r"), found[0][:-1] + "*")
    ]
    assert storage.matches(far.root, "teachers/t1") == [far.root / "teachers/t1"]
    assert storage.matches(far.root, "teachers/*/model") == [
        far.root / f"teachers/t{number}/model" for number in (0, 1)
    ]
    assert storage.matches(far.root, "teachers/t7") == []
    assert storage.matches(far.root / "teachers", "../other/*") == [far.root / "other/x"]


def test_patterns_of_local_paths_work_as_ever(tmp_path):
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
    assert storage.matches(tmp_path, "*") == [tmp_path / "a", tmp_path / "b"]
    assert storage.matches(Path("/elsewhere"), f"{tmp_path}/*") == [tmp_path / "a", tmp_path / "b"]
    assert storage.matches(tmp_path, "c") == []


def test_the_folder_of_a_pattern_is_no_pattern(far, tmp_path):
    (tmp_path / "run[1]/a").mkdir(parents=True)
    assert storage.matches(tmp_path / "run[1]", "*") == [tmp_path / "run[1]/a"]
    far.write("run[1]/a/model", "x")
    assert storage.matches(far.root / "run[1]", "*/model") == [far.root / "run[1]/a/model"]


def test_what_left_its_address_is_not_there_though_a_copy_is_here(far):
    far.write("teachers/t0/model", "x")
    folder = storage.fetch_folder(far.root / "teachers/t0")
    (folder / ".lock").write_text("")
    shutil.rmtree(far.folder / "teachers/t0")
    assert (folder / "model").exists()
    assert storage.matches(far.root, "teachers/t0") == []
    assert storage.matches(far.root, "teachers/t0/model") == []
    assert not storage.exists(folder)
    (folder / "unsent").write_text("x")
    assert storage.matches(far.root, "teachers/t0") == [folder]


def test_a_shard_is_brought_whole(far, downloads):
    path = far.write("shards/a.tar", bytes(range(100)))
    assert storage.open_range(path, 10, 5) == bytes(range(10, 15))
    assert storage.open_range(path, 90, 50) == bytes(range(90, 100))
    assert downloads == ["a.tar"]


def test_shards_that_do_not_stay_in_the_cache_are_read_in_ranges(far, downloads):
    far.small_cache(kib=10)
    paths = [far.write(f"shards/{number}.tar", bytes([number]) * 2000) for number in range(8)]
    for _ in range(5):
        for number, path in enumerate(paths):
            assert storage.open_range(path, 1000, 3) == bytes([number]) * 3
    assert len(downloads) <= len(paths), "each shard is fetched once at most"
    assert cache.the_cache().bytes() <= 10 * 1024


def another_job(monkeypatch):
    """What a new process on this node begins with: the same cache, and nothing in memory."""
    for name in ("_looked_at", "_by_range"):
        monkeypatch.setattr(files, name, set())
    monkeypatch.setattr(cache, "_caches", {})


def test_jobs_that_fit_the_cache_one_by_one_read_whole_shards(far, downloads, monkeypatch):
    far.small_cache(kib=10)
    corpora = [
        [far.write(f"{corpus}/{number}.tar", bytes(2000)) for number in range(4)]
        for corpus in ("a", "b")
    ]
    for corpus in (0, 1, 0, 1):
        another_job(monkeypatch)
        for path in [*corpora[corpus], *corpora[corpus]]:
            storage.open_range(path, 0, 3)
        assert all(local_path(path).exists() for path in corpora[corpus]), "the other one leaves"
        assert len(downloads) == len(set(downloads))
        downloads.clear()


def test_what_another_process_keeps_makes_no_room(far, downloads, monkeypatch):
    far.small_cache(kib=10)
    far.write("teachers/t/model", bytes(6000))
    storage.fetch_folder(far.root / "teachers/t")
    keeping = cache.the_cache()
    another_job(monkeypatch)
    paths = [far.write(f"shards/{number}.tar", bytes(2000)) for number in range(4)]
    for path in paths * 5:
        storage.open_range(path, 0, 3)
    assert sorted(downloads) == ["0.tar", "1.tar", "2.tar", "3.tar", "model"]
    assert keeping.bytes() <= 10 * 1024


def test_a_larger_cache_keeps_what_once_had_to_leave(far, downloads, monkeypatch):
    far.small_cache(kib=10)
    paths = [far.write(f"shards/{number}.tar", bytes(2000)) for number in range(8)]
    for path in [*paths, *paths]:
        storage.open_range(path, 0, 3)
    another_job(monkeypatch)
    monkeypatch.setenv("KD_RAY_CACHE_GIB", str(20 / 2**20))
    downloads.clear()
    for path in [*paths, *paths]:
        storage.open_range(path, 0, 3)
    assert 0 < len(downloads) == len(set(downloads)) < len(paths)
    assert all(local_path(path).exists() for path in paths)


def test_a_shard_that_is_large_for_the_cache_is_read_in_ranges(far, downloads):
    far.small_cache(kib=4)
    path = far.write("shards/a.tar", bytes(3000))
    assert storage.open_range(path, 2990, 20) == bytes(10)
    assert downloads == []


class Breaking:
    """A file at an address whose connection breaks when it is told to."""

    def __init__(self, file, errors):
        self._file = file
        self._errors = errors

    def size(self):
        return self._file.size()

    def read_at(self, length, offset):
        if self._errors:
            raise self._errors.pop(0)
        return self._file.read_at(length, offset)


@pytest.fixture
def broken(monkeypatch):
    """Errors that are put into it are raised by the next reads in ranges."""
    errors, file_system = [], remote.file_system

    class System:
        def __init__(self, system):
            self._system = system

        def open_input_file(self, path):
            return Breaking(self._system.open_input_file(path), errors)

        def __getattr__(self, name):
            return getattr(self._system, name)

    def opened(address):
        system, path = file_system(address)
        return System(system), path

    monkeypatch.setattr(remote, "file_system", opened)
    monkeypatch.setattr(remote.time, "sleep", lambda seconds: None)
    return errors


NETWORK = "AWS Error NETWORK_CONNECTION during GetObject operation: curlCode: 56"


def test_parquet_read_in_ranges_survives_a_short_outage(far, broken):
    far.small_cache(kib=4)
    table = pa.table({"x": list(range(5000))})
    pq.write_table(table, far.folder / "x.parquet")
    broken.append(OSError(NETWORK))
    with storage.open_end(far.root / "x.parquet") as source:
        assert pq.read_metadata(source).num_rows == 5000
    broken += [OSError(NETWORK), OSError(NETWORK)]
    with storage.open_seekable(far.root / "x.parquet") as source, pq.ParquetFile(source) as file:
        broken.append(OSError(NETWORK))
        assert file.read_row_group(0).equals(table)
    assert not broken
    assert not local_path(far.root / "x.parquet").exists()


def test_an_address_that_cannot_be_written_says_the_way_out(far):
    path = far.root / "file" / "below"
    far.write("file", "not a folder")
    local = local_path(path)
    local.parent.mkdir(parents=True)
    local.write_text("x")
    with pytest.raises(StorageError, match="cannot write file://"):
        storage.publish(path)


def test_nobody_answering_says_the_way_out(monkeypatch):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(remote, "PATIENCE_S", 0.0)
    path = Path("/r") / "s3://bucket/x?endpoint_override=127.0.0.1:9&scheme=http"
    with pytest.raises(StorageError, match="does not answer; check the network"):
        storage.fetch(path)


def test_a_short_outage_is_waited_for(far, monkeypatch):
    path = far.write("data/x.txt", "one")
    pauses, file_system = [], remote.file_system

    def out_of_order(address):
        if len(pauses) < 3:
            error = OSError("AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: 7")
            with remote._explained(address, "look at"):
                raise error
        return file_system(address)

    monkeypatch.setattr(remote, "file_system", out_of_order)
    monkeypatch.setattr(remote.time, "sleep", pauses.append)
    assert storage.fetch(path).read_text() == "one"
    assert pauses == [1.0, 2.0, 4.0]


@pytest.mark.parametrize(
    ("text", "way"),
    [
        ("AWS Error ACCESS_DENIED during HeadObject operation: No response body.", "no permission"),
        ("AWS Error NO_SUCH_BUCKET during PutObject operation", "there is no such bucket"),
        ("AWS Error INVALID_ACCESS_KEY_ID during ListObjectsV2", "credentials .* are refused"),
        ("Something else happened", "see the text behind"),
    ],
)
def test_errors_of_file_systems_say_the_way_out_at_once(far, monkeypatch, text, way):
    def refuse(address):
        with remote._explained(address, "look at"):
            raise OSError(text)

    monkeypatch.setattr(remote, "file_system", refuse)
    with pytest.raises(StorageError, match=f"cannot look at file://.*{way}.*{text}"):
        storage.fetch(far.root / "x")
