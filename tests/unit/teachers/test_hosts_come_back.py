"""What a host that is started again makes of checkpoints that broke, and of less memory."""

import asyncio
import threading

import pytest

from kd_ray.bench.small_teachers import save_small_teachers, small_requests
from kd_ray.models.checkpoint import CheckpointError
from kd_ray.teachers.host import TeacherHost
from kd_ray.teachers.residency import LoadFailed
from kd_ray.teachers.residents import paged_from_folders


@pytest.fixture
def folders(tmp_path):
    return save_small_teachers(tmp_path, 3)


def resident(folders, **options):
    return paged_from_folders(
        folders, range(len(folders)), device="cpu", **{"max_bytes": None, **options}
    )


def damage(folder, name="model.safetensors"):
    content = (folder / name).read_bytes()
    (folder / "new").write_bytes(content[: len(content) // 2])
    (folder / "new").rename(folder / name)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokens.json"])
def test_a_teacher_whose_checkpoint_broke_is_left_out_by_name(folders, name):
    known = resident(folders).infos
    damage(folders[1], name)
    with pytest.raises(CheckpointError):
        resident(folders)
    again = resident(folders, known=known)
    assert again.infos == known
    assert list(again.status.failed) == [1]
    host = TeacherHost(again)
    assert list(host.status.quarantined) == [1]

    async def ask():
        answer = await host.answer(small_requests(1)[0])
        await host.close()
        return answer

    answer = asyncio.run(ask())
    assert answer.answered == (0, 2)
    assert answer.quarantined == {1: again.status.failed[1]}


def test_a_host_with_no_teacher_left_does_not_start(folders):
    known = resident(folders).infos
    for folder in folders:
        damage(folder)
    with pytest.raises(LoadFailed, match="t0"):
        resident(folders, known=known)


def test_a_checkpoint_that_is_whole_again_is_loaded_again(folders):
    known = resident(folders).infos
    whole = (folders[1] / "model.safetensors").read_bytes()
    damage(folders[1])
    assert resident(folders, known=known).status.failed
    (folders[1] / "model.safetensors").write_bytes(whole)
    assert not resident(folders, known=known).status.failed


def test_less_memory_makes_teachers_take_turns(folders):
    whole = resident(folders)
    assert not whole.in_turns
    needed = whole.status.resident_bytes
    less = resident(folders, share=0.7)
    assert less.in_turns
    assert less.status.max_bytes == int(0.7 * needed)
    assert resident(folders, max_bytes=2 * needed, share=0.7).in_turns is False


def test_a_teacher_that_leaves_while_it_is_loaded_is_not_there(folders):
    residents = resident(folders[:1])
    host = TeacherHost(residents)
    gate = threading.Event()
    add = residents.add

    def add_slowly(index, folder):
        assert gate.wait(10)
        add(index, folder)

    residents.add = add_slowly

    async def change():
        coming = asyncio.create_task(host.add({7: folders[1]}))
        await asyncio.sleep(0.05)
        going = asyncio.create_task(host.remove([7]))
        await asyncio.sleep(0.05)
        gate.set()
        await asyncio.gather(coming, going)
        after = [info.index for info in host.infos]
        # The number is free for another.
        await host.add({7: folders[2]})
        with pytest.raises(ValueError, match=r"teacher 7 is .* here, not"):
            await host.add({7: folders[1]})
        names = [info.name for info in host.infos]
        await host.close()
        return after, names

    after, names = asyncio.run(change())
    assert after == [0]
    assert names == [folders[0].name, folders[2].name]
