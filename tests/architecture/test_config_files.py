"""Every file in `configs/`, and `cluster.yaml`: something here reads it, and finds it sound."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster_schemas import kuberay_errors, launcher_errors
from pydantic import TypeAdapter
from yaml_files import CHECKOUT

from kd_ray.cluster.search.space import check_space, read_base
from kd_ray.commands.check import check
from kd_ray.commands.study import study_jobs
from kd_ray.commands.train_teachers import teacher_configs
from kd_ray.config.commands import PrepareConfig, TrainTeachersConfig
from kd_ray.config.evaluation import ReportConfig
from kd_ray.config.load import load, read_yaml
from kd_ray.config.model import Model
from kd_ray.config.recipes import RecipeConfig, StudyConfig
from kd_ray.config.search import SearchConfig

FOLDER = CHECKOUT / "configs"
CLUSTER = FOLDER / "cluster"
FILES = [
    CHECKOUT / "cluster.yaml",
    *sorted(path for path in FOLDER.rglob("*") if path.is_file()),
]
CHECKED_WITHOUT_DATA = (PrepareConfig, RecipeConfig, StudyConfig, ReportConfig)
"""What other commands' checks read is made by commands before them."""


def named(path: Path) -> str:
    return str(path.relative_to(CHECKOUT))


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def is_run_configuration(path: Path) -> None:
    config = load(path)
    if isinstance(config, TrainTeachersConfig):
        assert len(teacher_configs(config)) == len(config.teachers)
    if isinstance(config, RecipeConfig):
        for step in config.steps:
            for task in step.tasks:
                load(Path(task.config), task.overrides)
    if isinstance(config, SearchConfig):
        check_space(config, read_base(config, CHECKOUT))
    if isinstance(config, StudyConfig):
        assert study_jobs(config, CHECKOUT)
    if isinstance(config, CHECKED_WITHOUT_DATA):
        found = check(config, CHECKOUT)
        assert found.problems == []


def is_part(path: Path) -> None:
    """No configuration by itself: those that use it are loaded, the others describe a model."""
    if path.resolve() not in USED:
        TypeAdapter(Model).validate_python(read_yaml(path))


def is_for_ray_up(path: Path) -> None:
    assert launcher_errors(read(path)) == []


def is_for_kubernetes(path: Path) -> None:
    manifests = [each for each in yaml.safe_load_all(path.read_text()) if each]
    assert manifests
    for manifest in manifests:
        assert {"apiVersion", "kind", "metadata", "spec"} == manifest.keys()
        if manifest["apiVersion"].startswith("ray.io/"):
            assert kuberay_errors(manifest) == []
        else:
            assert (manifest["apiVersion"], manifest["kind"]) == ("v1", "PersistentVolumeClaim")


def is_script(path: Path) -> None:
    subprocess.run(["bash", "-n", path], check=True)
    assert path.read_text().startswith("#!/")


def is_dashboard(path: Path) -> None:
    content = json.loads(path.read_text())
    assert content["panels"]


def validator_of(path: Path) -> Callable[[Path], None] | None:
    """What reads a file, by its place and the end of its name; None: nobody would."""
    of_cluster = path == CHECKOUT / "cluster.yaml" or CLUSTER in path.parents
    if not of_cluster:
        part = path.parent.name == "parts"
        return {".yaml": is_part if part else is_run_configuration}.get(path.suffix)
    if path.parent.name in ("kuberay", "grafana"):
        own = {("kuberay", ".yaml"): is_for_kubernetes, ("grafana", ".json"): is_dashboard}
        return own.get((path.parent.name, path.suffix))
    return {".yaml": is_for_ray_up, ".sh": is_script}.get(path.suffix)


def used_by(path: Path, content: Any) -> Iterator[Path]:
    """Files that a configuration extends (from where it is) or runs (from the checkout)."""
    if isinstance(content, list):
        content = dict(enumerate(content))
    if isinstance(content, dict):
        for key, value in content.items():
            if key in ("extends", "config") and isinstance(value, str):
                yield (path.parent if key == "extends" else CHECKOUT).joinpath(value).resolve()
            else:
                yield from used_by(path, value)


USED = {
    used
    for path in FILES
    if validator_of(path) in (is_run_configuration, is_part)
    for used in used_by(path, read(path))
}


@pytest.mark.parametrize("path", FILES, ids=named)
def test_every_file_in_configs_is_read_by_something_and_sound(path, monkeypatch):
    monkeypatch.chdir(CHECKOUT)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    validator = validator_of(path)
    assert validator is not None, "nothing here knows what such a file is for"
    validator(path)


@pytest.mark.parametrize(
    "name", ["configs/notes.txt", "configs/demo/x.json", "configs/cluster/x.json",
             "configs/cluster/kuberay/x.sh", "configs/cluster/grafana/x.yaml"]
)  # fmt: skip
def test_a_file_of_an_unknown_kind_is_noticed(name):
    assert validator_of(CHECKOUT / name) is None


def test_schemas_refuse_what_is_wrong():
    config = read(CHECKOUT / "cluster.yaml")
    assert launcher_errors({**config, "max_worker": 2})
    manifest = read(CLUSTER / "kuberay" / "raycluster.yaml")
    manifest["spec"]["workerGroupSpecs"][0]["maxReplica"] = 1
    assert kuberay_errors(manifest)
