"""A local `ray start --head` with token authentication, and jobs that are submitted to it."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

RAY = str(Path(sys.executable).with_name("ray"))
PLANTED = "planted-51e07c9ab2f4d683"
"""A secret for the environment that Ray is started in."""
_OF_RAY = ("JobSupervisor", "ActorLocationTracker", "_StatsActor", "_AutoscalingCoordinatorActor")
"""Ray's own actors: one beside each submitted job, and those that Ray Data keeps for a cluster."""
_AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""Processes of each node."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Head:
    """A head node of its own, ended by its pid."""

    def __init__(
        self, home: Path, *, cpus: int, environment: Mapping[str, str] | None = None
    ) -> None:
        # Ray's sockets want a short path.
        self.temporary = Path("/tmp") / f"kd-ray-{os.getpid()}"
        port = free_port()
        self.address = f"http://127.0.0.1:{port}"
        self.environment = {
            **os.environ,
            "HOME": str(home),
            # As in an activated environment: the job's `python` is found on the head's PATH.
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_USAGE_STATS_ENABLED": "0",
            # By default 60: a busy machine needs longer.
            "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "300",
            **(environment or {}),
        }
        self.environment.pop("RAY_ADDRESS", None)
        self._ray("get-auth-token", "--generate")
        self._log = home / "head.log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [
                    RAY, "start", "--head", "--block", f"--num-cpus={cpus}",
                    "--include-dashboard=true", "--node-ip-address=127.0.0.1",
                    f"--port={free_port()}", f"--dashboard-port={port}",
                    # The default port belongs to the agent of any other Ray on this machine.
                    f"--dashboard-agent-listen-port={free_port()}",
                    f"--temp-dir={self.temporary}",
                ],
                env=self.environment, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def __enter__(self) -> Self:
        until(self._is_up, 300, self._log.read_text)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(60)
        shutil.rmtree(self.temporary, ignore_errors=True)

    def submit(
        self, working_dir: Path, root: Path, *command: str, options: Sequence[str] = ()
    ) -> tuple[int, str]:
        """Exit status and output of `ray job submit`; with `--no-wait` of the submission alone."""
        variables = json.dumps({"env_vars": {"KD_RAY_ROOT": str(root)}})
        for _ in range(10):
            done = self._job(
                "submit", "--working-dir", str(working_dir), "--runtime-env-json", variables,
                *options, "--", *command,
            )  # fmt: skip
            output = done.stdout + done.stderr
            if "No available agent" not in output:
                return done.returncode, output
            time.sleep(3)
        raise AssertionError(output)

    def stop(self, job: str) -> None:
        """`ray job stop`, until it says that the job is stopped."""
        done = self._job("stop", job)
        said = done.stdout + done.stderr
        assert done.returncode == 0, said
        assert "was stopped" in said, said

    def logs(self, job: str) -> str:
        """What `ray job logs` prints."""
        return self._job("logs", job).stdout

    def left_over(self) -> list[str]:
        """Actors and placement groups that are there, those of Ray's own jobs apart."""
        actors = [each for each in self._list("actors") if each["class_name"] not in _OF_RAY]
        left = [f"actor {each['class_name']}" for each in actors if each["state"] != "DEAD"]
        groups = self._list("placement-groups")
        return left + [f"group {each['name']}" for each in groups if each["state"] != "REMOVED"]

    def processes(self) -> list[str]:
        """Command lines of what runs a job or an actor on this node."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                environment = (entry / "environ").read_bytes()
            except (OSError, UnicodeDecodeError):
                continue
            # Actors show as `ray::Class`; idle workers as `ray::IDLE` do no harm.
            mine = str(self.temporary).encode() in environment or self._is_mine(entry)
            if mine and ("jobs/" in line or line.startswith("ray::")) and "ray::IDLE" not in line:
                found.append(line.strip())
        return [line for line in found if not any(name in line for name in (*_OF_RAY, *_AGENTS))]

    def _is_mine(self, entry: Path) -> bool:
        """Whether a process is below the head's."""
        pid = entry.name
        while pid not in ("0", "1"):
            if pid == str(self._process.pid):
                return True
            try:
                stat = (Path("/proc") / pid / "stat").read_text()
            except OSError:
                return False
            pid = stat.rsplit(")", 1)[1].split()[1]
        return False

    def _is_up(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()
        return "Ray runtime started" in self._log.read_text()

    def _list(self, what: str) -> list[dict[str, Any]]:
        done = self._ray("list", what, "--address", self.address, "--format", "json", "--limit=999")
        if "No resource" in done.stdout:
            return []
        found: list[dict[str, Any]] = json.loads(done.stdout[done.stdout.index("[") :])
        return found

    def _job(self, verb: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return self._run("job", verb, f"--address={self.address}", *arguments)

    def _ray(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        done = self._run(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    def _run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [RAY, *arguments], env=self.environment, text=True, timeout=400, capture_output=True
        )


def until(
    condition: Callable[[], object], timeout_s: float, why_not: Callable[[], object] = str
) -> None:
    """Wait until `condition()`; `why_not` tells more where that was in vain."""
    limit_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= limit_s:
            raise AssertionError(f"waited too long: {why_not()}")
        time.sleep(0.2)
