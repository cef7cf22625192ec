"""What `kd-ray search` does around its trials; these are made up, Ray is not started."""

import json
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import tiny
from search_help import put, search_config, write_base

from kd_ray.commands import search as command
from kd_ray.commands.search import SearchFailed, search
from kd_ray.report.run_status import read_status
from kd_ray.speech.manifest import ManifestError
from kd_ray.storage import StorageError, alone
from kd_ray.storage.lock import lock_file

EVALUATED = {"evaluate": {"splits": {"valid": "data/valid.parquet"}}}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("commanded")
    tiny.make_corpus(root)
    return root


@pytest.fixture
def root(corpus, tmp_path, monkeypatch):
    """A root with data, and trials that are given out without Ray."""
    (tmp_path / "data").symlink_to(corpus / "data")
    write_base(tmp_path)
    joined = SimpleNamespace(private=True)
    monkeypatch.setattr(command, "ensure_ray", lambda **options: nullcontext(joined))
    monkeypatch.setattr(command, "require_room", lambda needs, *, grows: None)
    monkeypatch.setattr(command, "run_trials", trained())
    return tmp_path


def trained(states=(), most=None):
    """In place of Tune: a state for each trial, `finished` for those that are not named."""

    def run_trials(config, base, book, proposals):
        assert not (book.path / "summary.json").exists()
        count = 0
        while (most is None or count < most) and (proposed := proposals.next()) is not None:
            state = states[count] if count < len(states) else "finished"
            proposals.ended(put(book, base, proposed, [60.0, 50.0 - count], state=state))
            count += 1

    return run_trials


def state_of(root):
    return read_status(root / "runs" / "search", "search").state


def test_a_search_is_finished_when_nothing_is_left(root, monkeypatch):
    search(search_config(), root)
    assert state_of(root) == "finished"
    # Another seed: it is not finished while it trains, and not when it was cut.
    monkeypatch.setattr(command, "run_trials", trained(["failed"], most=2))
    search(search_config(seeds=[1, 2]), root)
    assert state_of(root) == "unfinished"
    monkeypatch.setattr(command, "run_trials", trained(["failed"]))
    content = search(search_config(seeds=[1, 2]), root)
    # What failed had its chance.
    assert state_of(root) == "finished"
    assert [each["status"] for each in content["settings"]].count("2 finished") == 3


def test_a_search_of_which_nothing_came_is_not_finished(root, monkeypatch):
    monkeypatch.setattr(command, "run_trials", trained(["failed"] * 4))
    with pytest.raises(SearchFailed, match="no luck"):
        search(search_config(), root)
    assert state_of(root) == "unfinished"
    assert (root / "runs/search/report.html").exists()


def test_the_score_is_named_by_the_base_s_tokens(root):
    content = search(search_config(), root)
    assert content["measure"] == "phone error rate, %, attention"


def test_a_manifest_that_cannot_be_read_is_told_before_anything_is_trained(root, monkeypatch):
    monkeypatch.setattr(command, "run_trials", lambda *arguments: pytest.fail("trained"))
    config = search_config(evaluate={"splits": {"test": "data/tset.parquet"}})
    with pytest.raises(ManifestError, match="tset"):
        search(config, root)
    assert not (root / "runs").exists()


def test_a_failed_evaluation_does_not_cost_the_report(root, monkeypatch):
    def fail(config, root):
        raise ValueError("no such decoding")

    monkeypatch.setattr(command, "evaluate", fail)
    with pytest.raises(ValueError, match="no such decoding"):
        search(search_config(**EVALUATED), root)
    content = json.loads((root / "runs/search/search.json").read_text())
    assert content["verdict"]["winner"] == 4
    assert "Trials were not evaluated: no such decoding" in content["verdict"]["notes"]
    assert (root / "runs/search/best.yaml").exists()
    assert state_of(root) == "unfinished"


def test_only_one_process_is_at_a_search(root, monkeypatch):
    folder = root / "runs" / "search"
    with lock_file(folder / ".kd_ray-lock"), pytest.raises(StorageError, match="being written by"):
        search(search_config(), root)
    assert not (folder / "config.json").exists()

    def run_trials(*arguments):
        with pytest.raises(StorageError), lock_file(folder / ".kd_ray-lock"):
            pass
        trained()(*arguments)

    monkeypatch.setattr(command, "run_trials", run_trials)
    search(search_config(), root)
    with alone(folder):
        pass
