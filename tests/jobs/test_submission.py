"""A job against a local `ray start --head`, submitted as the README says."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny
from yaml_files import CHECKOUT, write_config

from kd_ray.evaluation.run_folder import RunFolder

pytestmark = pytest.mark.slow

RAY = str(Path(sys.executable).with_name("ray"))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A head node with token authentication, ended by its pid; its job address and environment."""
    home = tmp_path_factory.mktemp("home")
    # Ray's sockets want a short path.
    temporary = Path("/tmp") / f"kd-ray-{os.getpid()}"
    port = free_port()
    environment = {
        **os.environ,
        "HOME": str(home),
        # As in an activated environment: the job's `python` is found on the head's PATH.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    environment.pop("RAY_ADDRESS", None)
    subprocess.run(
        [RAY, "get-auth-token", "--generate"], env=environment, check=True, capture_output=True
    )
    log = (home / "head.log").open("w+")
    process = subprocess.Popen(
        [
            RAY, "start", "--head", "--block", "--num-cpus=4", "--include-dashboard=true",
            "--node-ip-address=127.0.0.1", f"--port={free_port()}", f"--dashboard-port={port}",
            # The default port belongs to the agent of any other Ray on this machine.
            f"--dashboard-agent-listen-port={free_port()}", f"--temp-dir={temporary}",
        ],
        env=environment, stdout=log, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        until = time.monotonic() + 120
        while "Ray runtime started" not in (home / "head.log").read_text():
            assert process.poll() is None, (home / "head.log").read_text()
            assert time.monotonic() < until
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}", environment
    finally:
        process.terminate()
        process.wait(60)
        shutil.rmtree(temporary, ignore_errors=True)


def submit(head, working_dir, root, *command):
    address, environment = head
    for _ in range(10):
        done = subprocess.run(
            [
                RAY, "job", "submit", f"--address={address}", "--working-dir", str(working_dir),
                "--runtime-env-json", json.dumps({"env_vars": {"KD_RAY_ROOT": str(root)}}),
                "--", *command,
            ],
            env=environment, text=True, timeout=280, capture_output=True,
        )  # fmt: skip
        output = done.stdout + done.stderr
        if "No available agent" not in output:
            return done.returncode, output
        time.sleep(3)
    raise AssertionError(output)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of what git tracks of the code: data and runs are elsewhere, as for a user."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("kd_ray", "jobs"):
        shutil.copytree(
            CHECKOUT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    return folder


def test_a_submitted_job_finds_its_data_and_leaves_its_run_folder_at_the_root(
    head, checkout, tmp_path
):
    root = tmp_path / "work"
    root.mkdir()
    tiny.make_corpus(root)
    tiny.make_teachers(root)
    pool = {"type": "pool", "hosts": 1}
    config = tiny.distill_config("job/student", "teachers.txt", teachers__source=pool)
    write_config(checkout / "distill.yaml", config)
    code, output = submit(head, checkout, root, "python", "jobs/distill.py", "distill.yaml")
    assert code == 0, output
    assert "job/student: best validation error" in output
    summary = RunFolder(root, "job/student").summary()
    assert summary["source"] == "pool"
    assert (root / "runs" / "job" / "student" / "model" / "model.safetensors").exists()
    assert not (checkout / "runs").exists()


def test_a_job_that_fails_says_why_and_exits_with_an_error(head, checkout, tmp_path):
    write_config(checkout / "bad.yaml", tiny.distill_config("job/bad", "nothing.txt"))
    code, output = submit(head, checkout, tmp_path, "python", "jobs/distill.py", "bad.yaml")
    assert code != 0
    assert "nothing.txt" in output
