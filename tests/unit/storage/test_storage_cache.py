"""The bound of the local cache: what leaves, what stays, and several processes of one node."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kd_ray import storage
from kd_ray.config.places import local_path
from kd_ray.storage import StorageError, cache

ROOT = Path(__file__).resolve().parents[3]


def here(paths):
    return [path.exists() for path in map(local_path, paths)]


def test_the_least_recently_used_files_leave(far):
    far.small_cache(kib=10)
    paths = [far.write(f"audio/{number}.wav", bytes(3000)) for number in range(5)]
    for path in paths[:3]:
        storage.fetch(path)
    storage.fetch(paths[0])
    storage.fetch(paths[3])
    assert here(paths) == [True, False, True, True, False]
    assert cache.the_cache().bytes() <= 10 * 1024
    assert storage.fetch(paths[1]).stat().st_size == 3000


def test_what_was_asked_for_while_others_leave_stays(far, monkeypatch):
    """A cleaner first lists what was not used for long, and then takes its time."""
    far.small_cache(kib=100)
    paths = [far.write(f"audio/{number}.wav", bytes(3000)) for number in range(4)]
    for path in paths:
        storage.fetch(path)
    the_cache = cache.the_cache()
    the_cache.bound_bytes = 6000
    is_pinned, asked = the_cache._is_pinned, []

    def meanwhile(path, found):
        if not asked:
            asked.append(storage.fetch(paths[1]))
        return is_pinned(path, found)

    monkeypatch.setattr(the_cache, "_is_pinned", meanwhile)
    the_cache.shrink()
    assert here(paths) == [False, True, False, True]
    assert all(the_cache.used(local_path(path)) == path.exists() for path in map(local_path, paths))


def test_a_file_that_leaves_while_it_is_asked_for_is_brought_again(far, monkeypatch):
    far.small_cache(kib=100)
    path = far.write("audio/0.wav", bytes(3000))
    storage.open_file(path).close()
    the_cache = cache.the_cache()
    known, gone = the_cache.known, []

    def then_gone(asked):
        found = known(asked)
        if not gone:
            gone.append(asked)
            assert the_cache._evict(asked, time.time())
        return found

    monkeypatch.setattr(the_cache, "known", then_gone)
    assert storage.fetch(path).stat().st_size == 3000


def test_a_file_that_is_open_can_be_read_to_its_end(far):
    far.small_cache(kib=10)
    paths = [far.write(f"audio/{number}.wav", bytes([number]) * 4000) for number in range(6)]
    with storage.open_file(paths[0]) as file:
        assert file.read(10) == bytes(10)
        for path in paths[1:]:
            storage.fetch(path)
        assert here(paths[:1]) == [False]
        assert len(file.read()) == 3990


def test_what_was_not_sent_and_what_is_pinned_stays(far):
    far.small_cache(kib=10)
    unsent = far.write("runs/a/metrics.jsonl", bytes(3000))
    storage.fetch(unsent).write_bytes(bytes(3001))
    far.write("teachers/t/model", bytes(3000))
    folder = storage.fetch_folder(far.root / "teachers/t")
    paths = [far.write(f"audio/{number}.wav", bytes(3000)) for number in range(6)]
    for path in paths:
        storage.fetch(path)
    assert here([unsent, folder / "model"]) == [True, True]
    assert sum(here(paths)) <= 1


def test_a_pin_of_another_process_holds_until_it_ends(far):
    far.small_cache(kib=10)
    far.write("teachers/t/model", bytes(6000))
    program = (
        "import sys; from pathlib import Path; from kd_ray import storage\n"
        "storage.fetch_folder(Path(sys.argv[1])); print('there', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", program, str(far.root / "teachers/t")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, env=dict(os.environ),
    )  # fmt: skip
    try:
        assert other.stdout.readline() == b"there\n"
        paths = [far.write(f"audio/{number}.wav", bytes(3000)) for number in range(4)]
        for path in paths:
            storage.fetch(path)
        assert here([far.root / "teachers/t/model"]) == [True]
    finally:
        other.communicate()
    for path in paths:
        storage.fetch(path)
    assert here([far.root / "teachers/t/model"]) == [False]


def test_processes_of_a_node_fetch_each_file_once(far):
    names = [f"audio/{number}.wav" for number in range(40)]
    paths = [str(far.write(name, name * 100)) for name in names]
    program = (
        "import sys; from pathlib import Path; from kd_ray import storage; "
        "from kd_ray.storage import remote\n"
        "count, download = [], remote.download\n"
        "def counted(*given): count.append(1); download(*given)\n"
        "remote.download = counted\n"
        "for path in sys.argv[1:]:\n"
        "    text = storage.fetch(Path(path)).read_text()\n"
        "    assert text == 'audio/' + Path(path).name + text[len('audio/' + Path(path).name):]\n"
        "    assert len(text) == 100 * len('audio/' + Path(path).name)\n"
        "print(len(count))"
    )
    others = [
        subprocess.Popen(
            [sys.executable, "-c", program, *paths[start:], *paths[:start]],
            stdout=subprocess.PIPE, cwd=ROOT, env=dict(os.environ),
        )
        for start in (0, 0, 20)
    ]  # fmt: skip
    counts = [int(other.communicate()[0]) for other in others]
    assert [other.returncode for other in others] == [0, 0, 0]
    assert sum(counts) == len(names)


def test_a_bound_that_is_no_number_is_refused(far):
    far.patch.setenv("KD_RAY_CACHE_GIB", "much")
    with pytest.raises(StorageError, match="KD_RAY_CACHE_GIB is 'much'"):
        far.other_node()


def test_a_cache_that_cannot_be_made_is_refused(far, tmp_path):
    (tmp_path / "file").write_text("x")
    far.patch.setenv("KD_RAY_CACHE", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="set KD_RAY_CACHE to a folder"):
        storage.fetch(far.root / "x")
