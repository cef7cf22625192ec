"""Runs of tiny trainings, and what they left behind."""

import multiprocessing
import tempfile

import pytest
import torch
from safetensors.torch import load_file

from kd_ray.evaluation.run_folder import RunFolder, read_json_lines
from kd_ray.students import loop
from kd_ray.students.collective import Alone
from kd_ray.students.session import run_session


def run(config, root, collective=None, source=None):
    collective = collective or Alone()
    folder = RunFolder(root, config.name)
    # Of a group, one process holds the folder for all.
    if collective.rank == 0:
        folder.open(config)
    try:
        return run_session(
            config, root=root, collective=collective, device=torch.device("cpu"), source=source
        )
    finally:
        if collective.rank == 0:
            folder.close()


def run_until(update, config, root, source):
    """A run that is interrupted before update number `update` (from 0)."""
    take_update = loop.take_update

    def killed(student, progress, current):
        if current.index == update:
            raise KeyboardInterrupt
        return take_update(student, progress, current)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "take_update", killed)
        with pytest.raises(KeyboardInterrupt):
            run(config, root, source=source)


def last_weights(root, name):
    folders = sorted((root / "runs" / name / "checkpoints").glob("update-*"))
    return load_file(folders[-1] / "model" / "model.safetensors")


def train_lines(root, name):
    lines = read_json_lines(root / "runs" / name / "metrics.jsonl")
    timings = ("data_s", "rollout_s", "teacher_wait_s", "student_s", "seconds")
    return [{key: value for key, value in line.items() if key not in timings} for line in lines]


def assert_close(first, second, tolerance):
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=0, atol=tolerance, msg=name)


def in_two_processes(work, *arguments):
    """`work(rank, rendezvous, *arguments)` in two processes, each of which calls `join_group`."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        # A file that nobody else has; a port that was free may be taken when it is bound.
        rendezvous = f"file://{folder}/rendezvous"
        processes = [
            context.Process(target=work, args=(rank, rendezvous, *arguments), daemon=True)
            for rank in range(2)
        ]
        for process in processes:
            process.start()
        try:
            for process in processes:
                process.join(240)
                assert process.exitcode == 0, f"one of two ended with {process.exitcode}"
        finally:
            # One that waits for the other would wait for long.
            for process in processes:
                process.kill()
                process.join()


def join_group(rank, rendezvous):
    """Be one of two workers."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
