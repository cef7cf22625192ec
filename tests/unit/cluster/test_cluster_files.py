"""Cluster files against the schemas of what reads them: Ray's launcher, KubeRay, Docker, Slurm."""

import json
import os
import re
import shlex
import stat
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from cluster_schemas import kuberay_errors
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from ray.autoscaler._private.util import prepare_config, validate_config
from yaml_files import CHECKOUT

from kd_ray.cluster.room import Node, Wish, shortages

FOLDER = CHECKOUT / "configs" / "cluster"
LAUNCHED = [CHECKOUT / "cluster.yaml", FOLDER / "gcp.yaml", FOLDER / "on_premise.yaml"]
KUBERNETES = sorted((FOLDER / "kuberay").glob("*.yaml"))
DOCKERFILES = sorted((CHECKOUT / "docker").glob("Dockerfile.*"))
SLURM = FOLDER / "slurm.sh"
# What it shows is looked at in test_figures.py.
DASHBOARD = FOLDER / "grafana" / "kd_ray.json"
EVERY_FILE = [*LAUNCHED, *KUBERNETES, *DOCKERFILES, SLURM, DASHBOARD]
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
REQUIREMENTS = {each.name: each for each in map(Requirement, PROJECT["dependencies"])}


def named(path):
    return str(path.relative_to(CHECKOUT))


def documents(path):
    return [each for each in yaml.safe_load_all(path.read_text()) if each]


@pytest.mark.parametrize("path", LAUNCHED, ids=named)
def test_ray_up_accepts_the_file(path):
    # As `ray up` does before it asks the provider for anything.
    config = prepare_config(yaml.safe_load(path.read_text()))
    validate_config(config)
    assert config["head_start_ray_commands"][-1].count("ray start --head") == 1
    assert (
        "--autoscaling-config=~/ray_bootstrap_config.yaml" in config["head_start_ray_commands"][-1]
    )
    assert "--address=$RAY_HEAD_IP:6379" in config["worker_start_ray_commands"][-1]


@pytest.mark.parametrize("path", LAUNCHED, ids=named)
def test_what_nodes_get_exists_and_holds_the_whole_package(path):
    mounts = yaml.safe_load(path.read_text())["file_mounts"]
    # The token is the user's, and made by a command that the file names.
    assert mounts.pop("~/.ray/auth_token") == "~/.ray/auth_token"
    assert "ray get-auth-token --generate" in path.read_text()
    assert all((CHECKOUT / local).exists() for local in mounts.values())
    needed = {"kd_ray", "pyproject.toml", PROJECT["readme"], *PROJECT["license-files"]}
    assert needed == set(mounts.values())
    assert {remote.removeprefix("~/kd_ray/") for remote in mounts} == needed


@pytest.mark.parametrize("path", LAUNCHED[:2], ids=named)
def test_clouds_have_a_kind_of_node_for_teachers_and_one_for_students(path):
    config = yaml.safe_load(path.read_text())
    types = config["available_node_types"]
    head = types.pop(config["head_node_type"])
    assert (head["min_workers"], head["max_workers"]) == (0, 0)
    assert "spot" not in json.dumps(head["node_config"]).lower()
    assert types.keys() == {"teachers", "students"}
    for name, kind in types.items():
        assert kind["labels"] == {"kd-ray-role": name}
        assert kind["resources"][name] >= 1
        assert kind["resources"]["GPU"] >= 1
        assert kind["min_workers"] == 0
        assert "spot" in json.dumps(kind["node_config"]).lower()
    assert config["max_workers"] >= sum(kind["max_workers"] for kind in types.values())


def nodes_of(path):
    """The nodes that a launched cluster has when it has grown as far as it may."""
    nodes = []
    for name, kind in yaml.safe_load(path.read_text())["available_node_types"].items():
        count = 1 if name == "head" else kind["max_workers"]
        nodes += [Node(f"{name}-{i}", kind["resources"], kind["labels"]) for i in range(count)]
    return nodes


@pytest.mark.parametrize("path", LAUNCHED[:2], ids=named)
def test_the_placing_that_the_page_shows_finds_room(path):
    page = (CHECKOUT / "docs" / "cluster.md").read_text()
    (shown,) = re.findall(r"```yaml\n(teachers:\n.*?)```", page, re.DOTALL)
    config = yaml.safe_load(shown)
    source, workers = config["teachers"]["source"], config["workers"]
    wishes = [
        Wish(
            "hosts",
            source["hosts"],
            {"CPU": source["cpus_per_host"], "GPU": source["gpus_per_host"]}
            | source["resources_per_host"],
            source["label_selector"],
        ),
        Wish(
            "workers",
            workers["count"],
            {"CPU": workers["cpus"], "GPU": workers["gpus"]} | workers["resources_per_worker"],
            workers["label_selector"],
        ),
    ]
    assert shortages(wishes, nodes_of(path)) == []


@pytest.mark.parametrize("path", KUBERNETES, ids=named)
def test_kuberay_accepts_the_manifest(path):
    for manifest in documents(path):
        if manifest["kind"] == "PersistentVolumeClaim":
            assert manifest["spec"]["accessModes"] == ["ReadWriteMany"]
            continue
        assert kuberay_errors(manifest) == []
        assert manifest["apiVersion"] == "ray.io/v1"


@pytest.mark.parametrize("kind", ["RayCluster", "RayJob"])
def test_the_schema_refuses_a_wrong_key(kind):
    path = FOLDER / "kuberay" / f"{kind.lower()}.yaml"
    (manifest,) = documents(path)
    spec = manifest["spec"].get("rayClusterSpec", manifest["spec"])
    spec["workerGroupSpecs"][0]["maxReplica"] = 1
    assert any("maxReplica" in error for error in kuberay_errors(manifest))


@pytest.mark.parametrize("path", KUBERNETES, ids=named)
def test_pods_run_as_a_user_on_the_shared_volume(path):
    for manifest in documents(path):
        if manifest["kind"] == "PersistentVolumeClaim":
            continue
        spec = manifest["spec"].get("rayClusterSpec", manifest["spec"])
        assert spec["authOptions"] == {"mode": "token"}
        groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
        assert [group["labels"]["kd-ray-role"] for group in groups] == [
            "head", "teachers", "students",
        ]  # fmt: skip
        for group in groups:
            pod = group["template"]["spec"]
            assert pod["securityContext"]["runAsUser"] == 1000
            assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == "kd-ray"
            (container,) = pod["containers"]
            assert container["volumeMounts"] == [{"name": "shared", "mountPath": "/shared"}]
            assert {"name": "KD_RAY_ROOT", "value": "/shared"} in container["env"]
            assert container["image"].endswith("kd-ray:0.1.0-cuda")
            amounts = container["resources"]
            assert amounts["limits"].get("nvidia.com/gpu") == amounts["requests"].get(
                "nvidia.com/gpu"
            )
        for group in groups[1:]:
            given = json.loads(json.loads(group["rayStartParams"]["resources"]))
            assert given.keys() == {group["groupName"]}


def pins(text):
    """Packages with an exact version: name and version."""
    return set(re.findall(r"([a-z]+)(?:\[[^\]]*\])?==([0-9.]+)", text))


@pytest.mark.parametrize("path", [*LAUNCHED, *DOCKERFILES], ids=named)
def test_pinned_versions_are_those_of_the_project(path):
    found = dict(pins(path.read_text()))
    assert found.keys() == {"ray", "torch", "torchaudio"}
    for name, version in found.items():
        assert REQUIREMENTS[name].specifier.contains(version), f"{name} {version}"
    extras = re.search(r"'ray\[([^]]*)\]==", path.read_text())
    assert extras
    assert set(extras.group(1).split(",")) == REQUIREMENTS["ray"].extras


def test_one_version_of_ray_and_python_everywhere():
    assert len(DOCKERFILES) == 2
    rays, pythons = set(), set()
    for path in EVERY_FILE:
        text = path.read_text()
        rays |= {version for name, version in pins(text) if name == "ray"}
        rays |= set(re.findall(r"rayVersion: ([\d.]+)", text))
        pythons |= set(re.findall(r"(?:--python |FROM python:)(\d+\.\d+\.\d+)", text))
    assert rays == {metadata.version("ray")}
    assert len(pythons) == 1
    assert all(map(SpecifierSet(PROJECT["requires-python"]).contains, pythons))
    images = {
        image
        for path in KUBERNETES
        for image in re.findall(r"image: (?:&image )?(registry\S+)", path.read_text())
    }
    tags = set(re.findall(r"-t (\S+)", "".join(path.read_text() for path in DOCKERFILES)))
    assert {image.split("/")[-1] for image in images} <= tags
    assert all(tag.startswith(f"kd-ray:{PROJECT['version']}-") for tag in tags)


@pytest.mark.parametrize("path", EVERY_FILE, ids=named)
def test_no_file_holds_a_secret(path):
    text = path.read_text()
    for pattern in (
        r"AKIA[0-9A-Z]{16}", r"-----BEGIN", r"(?i)(secret|password|passwd|api_key)\s*[:=]\s*\S",
        r"hf_[A-Za-z0-9]{20}", r"(?i)auth_token\s*=\s*[\"']?[0-9a-f]{16}",
    ):  # fmt: skip
        assert not re.search(pattern, text), pattern


def instructions(path):
    """A Dockerfile's instructions, with continued lines joined."""
    text = re.sub(r"(?m)^\s*#.*\n", "", path.read_text()).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("path", DOCKERFILES, ids=named)
def test_images_are_built_of_what_is_there_and_run_as_a_user(path):
    steps = instructions(path)
    words = [word for word, _ in steps]
    assert words[0] == "FROM"
    assert set(words) <= {"FROM", "ENV", "RUN", "WORKDIR", "COPY", "USER", "CMD"}
    allowed = {
        line[1:]
        for line in (CHECKOUT / ".dockerignore").read_text().splitlines()
        if line[:1] == "!"
    }
    copied = set()
    for word, rest in steps:
        if word == "COPY":
            *sources, _ = shlex.split(rest)
            copied |= set(sources)
    assert copied == allowed
    assert all((CHECKOUT / source).exists() for source in copied)
    needed = {"kd_ray", "pyproject.toml", PROJECT["readme"], *PROJECT["license-files"]}
    assert needed <= copied
    # The last user counts, and nothing is installed after it.
    last = len(words) - 1 - words[::-1].index("USER")
    assert steps[last][1] not in ("root", "0")
    assert f"--uid 1000 --create-home --shell /bin/bash {steps[last][1]}" in path.read_text()
    assert "RUN" not in words[last:]
    assert "latest" not in steps[0][1]
    for word, rest in steps:
        if word == "RUN":
            assert "sudo" not in rest
            assert "apt-get install" not in rest or "rm -rf /var/lib/apt/lists" in rest
            assert "pip install" not in rest or "--no-cache-dir" in rest


def slurm(tmp_path, *command, **environment):
    """Run the script with programs in place of Slurm's and Ray's that write down their calls."""
    programs = tmp_path / "bin"
    programs.mkdir()
    log = tmp_path / "calls"
    for name, body in {
        "scontrol": "printf 'n1\\nn2\\nn3\\n'",
        "hostname": "echo 10.0.0.1 fe80::1",
        "ray": f'echo "ray $* auth=$RAY_AUTH_MODE" >> {log}',
        "srun": f'echo "srun $* auth=$RAY_AUTH_MODE" >> {log}; exec sleep 5 > /dev/null 2>&1',
    }.items():
        program = programs / name
        program.write_text(f"#!/bin/bash\n{body}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    activate = tmp_path / ".venv" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.write_text("")
    done = subprocess.run(
        ["bash", SLURM, *command],
        capture_output=True,
        text=True,
        timeout=60,
        start_new_session=True,
        env={
            "PATH": f"{programs}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}/usr/bin:/bin",
            "SLURM_JOB_NODELIST": "n[1-3]", "SLURM_JOB_ID": "123456", "SLURM_CPUS_ON_NODE": "16",
            "SLURM_SUBMIT_DIR": str(tmp_path), **environment,
        },
    )  # fmt: skip
    return done, log.read_text().splitlines() if log.exists() else []


def test_slurm_starts_a_head_then_workers_then_the_command(tmp_path):
    # Slurm's steps start in the background: the command ends when all three are there.
    wait = f'until (($(grep -c "ray start" {tmp_path}/calls) == 3)); do sleep 0.05; done'
    say = 'echo "at $RAY_ADDRESS root $KD_RAY_ROOT"'
    done, calls = slurm(tmp_path, "bash", "-c", f"{wait}; {say}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"at 10.0.0.1:23456 root {tmp_path}"
    started = {
        re.search(r"--nodelist=(\S+)", call).group(1): call for call in calls if "ray start" in call
    }
    assert started.keys() == {"n1", "n2", "n3"}
    head = started["n1"]
    assert "--head --node-ip-address=10.0.0.1 --port=23456" in head
    assert '--labels=kd-ray-role=teachers --resources={"teachers": 8}' in head
    assert "--num-cpus=16" in head
    for node in ("n2", "n3"):
        assert "--address=10.0.0.1:23456" in started[node]
        assert "--labels=kd-ray-role=students" in started[node]
    assert all(call.endswith("auth=token") for call in calls)
    assert "get-auth-token --generate" in calls[0]


@pytest.mark.parametrize(
    ("command", "environment", "text"),
    [
        ((), {}, "usage"),
        (("true",), {"TEACHER_NODES": "3"}, "none is left for students"),
    ],
)
def test_slurm_says_what_is_wrong_before_it_starts_anything(tmp_path, command, environment, text):
    done, calls = slurm(tmp_path, *command, **environment)
    assert done.returncode == 2
    assert text in done.stderr
    assert calls == []


def test_slurm_s_script_is_sound():
    text = SLURM.read_text()
    subprocess.run(["bash", "-n", SLURM], check=True)
    assert os.access(SLURM, os.X_OK)
    assert "set -euo pipefail" in text
    # Directives end where the first command begins.
    body = text.split("set -euo pipefail", 1)[1]
    assert "#SBATCH" not in body
    # What shellcheck would say first: expansions are quoted, or inside (( )) or an assignment.
    for line in body.splitlines():
        code = re.sub(r"\(\(.*?\)\)|\$\(\(.*?\)\)|\"(?:\\.|[^\"\\])*\"|'[^']*'|#.*$", "", line)
        code = re.sub(r"^\s*(local |export )?\w+=\S*( \w+=\S*)*$", "", code)
        assert not re.search(r"\$[A-Za-z{@*]", code), line
    assert "`" not in body
