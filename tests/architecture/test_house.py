"""The rules of the house: layers, docstrings, documented keys, the tour in the README."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kd_ray.commands.registry import COMMANDS
from kd_ray.config.commands import CommandConfig
from kd_ray.config.load import _sections_in

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted((ROOT / "kd_ray").rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_everything_below_cluster_imports_without_ray():
    names = [module_name(path) for path in MODULES]
    below = [
        name
        for name in names
        if not re.match(r"kd_ray\.(cluster|bench|commands|cli)(\.|$)", name)
        and "corpora.lhotse" not in name
    ]
    assert len(below) > 50
    code = f"""
import importlib, sys
for name in {below!r}:
    importlib.import_module(name)
sys.exit("ray was imported" if "ray" in sys.modules else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_configuration_imports_neither_torch_nor_ray():
    code = """
import sys, kd_ray.config.load, kd_ray.cli
sys.exit("torch" in sys.modules or "ray" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_says_what_it_is_for(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{path} has no docstring"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_thin_job(name):
    job = ROOT / "jobs" / f"{name.replace('-', '_')}.py"
    lines = job.read_text().splitlines()
    assert len(lines) < 50
    assert f'"{name}"' in job.read_text()


def test_the_jobs_page_shows_every_job_with_files_that_exist():
    page = (ROOT / "jobs" / "README.md").read_text()
    shown = set(re.findall(r"submit (jobs/\w+\.py)", page))
    assert shown == {f"jobs/{path.name}" for path in (ROOT / "jobs").glob("*.py")}
    for name in set(re.findall(r"configs/[\w/.-]+\.yaml", page)):
        assert (ROOT / name).exists(), name


def test_no_job_shadows_the_standard_library():
    """jobs/inspect.py is named like a module of Python: it must not stay in front of it."""
    done = subprocess.run(
        [sys.executable, "jobs/inspect.py", "--help"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr


def test_the_tour_in_the_readme_matches_the_folders():
    readme = (ROOT / "README.md").read_text()
    for folder in sorted((ROOT / "kd_ray").iterdir()):
        if folder.is_dir() and (folder / "__init__.py").exists():
            assert f"{folder.name}/" in readme, f"README does not name kd_ray/{folder.name}/"
    for document in sorted((ROOT / "docs").glob("*.md")):
        assert f"docs/{document.name}" in readme, f"README does not name docs/{document.name}"


def test_the_configuration_page_names_every_key():
    page = (ROOT / "docs" / "configuration.md").read_text()
    missing = []
    todo, seen = [], set()
    for section in _sections_in(CommandConfig):
        todo.append(section)
    while todo:
        section = todo.pop()
        if section in seen:
            continue
        seen.add(section)
        for name, field in section.model_fields.items():
            todo += _sections_in(field.annotation)
            if not re.search(rf"\b{name}\b", page):
                missing.append(f"{section.__name__}.{name}")
    assert not missing


def test_a_file_s_tests_stay_in_one_process(request):
    """Ray starts once and runs are shared within a file, also with several processes."""
    options = request.config.option
    if not getattr(options, "loadgroup", False):
        pytest.skip("one process keeps everything together; `make test` has two")
    assert request.node.nodeid.endswith("@test_house")
