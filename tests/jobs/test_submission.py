"""A job against a local `ray start --head`, submitted as the README says."""

import pytest
import tiny
from yaml_files import write_config

from kd_ray.evaluation.run_folder import RunFolder

pytestmark = pytest.mark.slow


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
    code, output = head.submit(checkout, root, "python", "jobs/distill.py", "distill.yaml")
    assert code == 0, output
    assert "job/student: best validation error" in output
    summary = RunFolder(root, "job/student").summary()
    assert summary["source"] == "pool"
    assert (root / "runs" / "job" / "student" / "model" / "model.safetensors").exists()
    assert not (checkout / "runs").exists()


def test_a_job_that_fails_says_why_and_exits_with_an_error(head, checkout, tmp_path):
    write_config(checkout / "bad.yaml", tiny.distill_config("job/bad", "nothing.txt"))
    code, output = head.submit(checkout, tmp_path, "python", "jobs/distill.py", "bad.yaml")
    assert code != 0
    assert "nothing.txt" in output
