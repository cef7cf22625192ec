"""What every part of the tests may use."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

# Before torch is imported: two cores are shared with Ray's processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

try:
    import hypothesis
except ImportError:
    # Where the tests that need a GPU run, and no others.
    hypothesis = None

if TYPE_CHECKING:
    from far_storage import Far

# Before any test module makes settings of its own, which begin with these: how long an example
# takes says how busy the machine is.
if hypothesis is not None:
    hypothesis.settings.register_profile(
        "kd_ray", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
    )
    hypothesis.settings.load_profile("kd_ray")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="where tests marked gpu run: cuda, cpu")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several processes, a file's tests stay together, and all that need Ray share one."""
    for item in items:
        is_ray = item.get_closest_marker("ray") is not None
        item.add_marker(pytest.mark.xdist_group("ray" if is_ray else item.path.stem))


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    return str(request.config.getoption("--device"))


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with the tiny corpus and three random teachers; shared, so runs need own names."""
    import tiny

    root = tmp_path_factory.mktemp("tiny")
    tiny.make_corpus(root)
    tiny.make_teachers(root)
    return root


@pytest.fixture
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Far":
    """A root at an address (`file://`), with a cache of its own."""
    from far_storage import Far

    return Far(tmp_path / "far", monkeypatch)
