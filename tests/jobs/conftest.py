"""A head node with token authentication, and the code that jobs take along."""

import shutil

import pytest
from job_head import PLANTED, Head
from yaml_files import CHECKOUT


@pytest.fixture(scope="session")
def head(tmp_path_factory):
    """A head node, ended by its pid; in its environment are keys that nothing may repeat."""
    keys = {"HF_TOKEN": PLANTED, "AWS_SECRET_ACCESS_KEY": PLANTED}
    with Head(tmp_path_factory.mktemp("home"), cpus=4, environment=keys) as head:
        yield head


@pytest.fixture(scope="session")
def checkout(tmp_path_factory):
    """A copy of what git tracks of the code: data and runs are elsewhere, as for a user."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("kd_ray", "jobs"):
        shutil.copytree(
            CHECKOUT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    return folder
