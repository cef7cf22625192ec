"""Processes that speak: jobs come on standard input, answers go to a shared pipe.

espeak-ng keeps global state, so it lives in processes of its own. They are started as programs
and not by `multiprocessing`, whose children would import the caller's main module (torch, Ray).
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import soundfile

from kd_ray.speech.corpora.demo import rooms
from kd_ray.speech.corpora.demo.errors import SynthesisError
from kd_ray.speech.corpora.demo.rendering import Job, dry_speech, render

_JOBS_PER_PROCESS = 20
"""Fewer do not repay the start of a process (0.3 s)."""


def run_jobs(
    jobs: Sequence[Job], talkers: Sequence[Job], folder: Path, done: Callable[[str], None]
) -> None:
    """Render jobs to FLAC files below `folder`, on all cores; files appear complete or not at all.

    Args:
        jobs: what to render; those whose file exists should have been left out.
        talkers: utterances that babble is mixed from (clean, not written).
        folder: the corpus folder.
        done: called with the id of each finished job, in no particular order.

    Raises:
        SynthesisError: a job failed; what was finished stays.
    """
    if not jobs:
        return
    processes = min(_cores(), -(-len(jobs) // _JOBS_PER_PROCESS))
    read_end, write_end = os.pipe()
    workers: list[subprocess.Popen[bytes]] = []
    try:
        for index in range(processes):
            workers.append(_start(jobs[index::processes], talkers, folder, write_end))
        os.close(write_end)
        write_end = -1
        with os.fdopen(read_end, encoding="utf-8") as answers:
            read_end = -1
            for line in answers:
                answer = json.loads(line)
                if "error" in answer:
                    raise SynthesisError(f"utterance {answer['id']}: {answer['error']}")
                done(answer["id"])
        for worker in workers:
            if worker.wait() != 0:
                raise SynthesisError(
                    f"a synthesis process ended with status {worker.returncode}; "
                    "run the same command again to continue"
                )
    finally:
        for end in (read_end, write_end):
            if end >= 0:
                os.close(end)
        for worker in workers:
            worker.kill()
            worker.wait()


def _cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _start(
    jobs: Sequence[Job], talkers: Sequence[Job], folder: Path, answers: int
) -> subprocess.Popen[bytes]:
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    worker = subprocess.Popen(
        [sys.executable, "-c", f"from {__name__} import main; main()"],
        stdin=subprocess.PIPE,
        stdout=answers,
        env=environment,
    )
    task = {
        "folder": str(folder),
        "jobs": [job.to_dict() for job in jobs],
        "talkers": [job.to_dict() for job in talkers],
    }
    assert worker.stdin is not None
    worker.stdin.write(json.dumps(task).encode())
    worker.stdin.close()
    return worker


def _write(path: Path, job: Job, talkers: Sequence[rooms.Samples]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    soundfile.write(
        temporary, render(job, talkers), rooms.SAMPLE_RATE, format="FLAC", subtype="PCM_16"
    )
    os.replace(temporary, path)


def main() -> None:
    """Read a task, render its jobs, answer a line for each."""
    task = json.load(sys.stdin)
    folder = Path(task["folder"])
    babble_jobs = [Job.from_dict(values) for values in task["talkers"]]
    talkers = [dry_speech(job.text, job.voice, seed=job.seed) for job in babble_jobs]
    for values in task["jobs"]:
        job = Job.from_dict(values)
        answer = {"id": job.id}
        try:
            _write(folder / job.path, job, talkers)
        except (SynthesisError, OSError, soundfile.LibsndfileError) as error:
            answer["error"] = str(error)
        # One write below the pipe's buffer size: lines of several workers do not mix.
        os.write(sys.stdout.fileno(), (json.dumps(answer) + "\n").encode())
