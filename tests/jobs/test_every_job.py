"""Every script in jobs/ as a submitted job: a demo of the smallest size, in order."""

import json

import pytest
import small_demo
from job_head import PLANTED
from yaml_files import CHECKOUT, write_config

from kd_ray.evaluation.run_folder import RunFolder

pytestmark = [pytest.mark.slow, pytest.mark.long]


@pytest.fixture(scope="module")
def story(head, checkout, tmp_path_factory):
    """Submits jobs, and remembers which, and what they said."""
    return Story(head, checkout, tmp_path_factory.mktemp("every-job"))


class Story:
    def __init__(self, head, checkout, root):
        self.head, self.checkout, self.root = head, checkout, root
        self.scripts, self.output = set(), ""

    def write(self, name, config):
        write_config(self.checkout / f"{name}.yaml", config)

    def submit(self, script, *arguments, status=0):
        """What the job wrote; its exit status was `status`."""
        code, output = self.head.submit(
            self.checkout, self.root, "python", f"jobs/{script}.py", *arguments
        )
        # `ray job submit` itself knows 0 and 1; the script's own status is in what it says.
        assert code == bool(status), output
        if status:
            assert f"exit code {status}" in output, output
        self.scripts.add(script)
        self.output += output
        return output

    def has(self, *paths):
        return all((self.root / path).exists() for path in paths)


@pytest.fixture(scope="module")
def made(story):
    """Corpus, teachers, store and students, each by a job of its own."""
    for name, config in small_demo.recognition().items():
        story.write(name, config)
    story.submit("check", "corpus.yaml")
    story.submit("prepare", "corpus.yaml")
    assert story.has("data/demo/train.parquet", "data/demo/tokens_letters.json")
    story.submit("train_teachers", "teachers.yaml")
    assert story.has("runs/d/teachers/teachers.txt")
    story.submit("infer_teachers", "store.yaml")
    story.submit("train", "none.yaml")
    story.submit("distill", "weighted.yaml")
    for name in ("d/none", "d/weighted"):
        assert RunFolder(story.root, name).summary()["status"] == "finished"
    return story


def test_what_was_made_is_scored_and_reported(made):
    made.submit("evaluate", "evaluate.yaml")
    made.submit("report", "report.yaml")
    table = json.loads((made.root / "runs" / "d" / "table.json").read_text())
    assert {"a", "b", "none", "weighted"} <= {row["label"] for row in table}
    comparison = {
        "command": "compare", "name": "d/comparison", "evaluation": "runs/d/evaluation",
        "system": "weighted", "baseline": "none", "resamples": 50,
    }  # fmt: skip
    made.write("compare", comparison)
    made.submit("compare", "compare.yaml")
    assert made.has("runs/d/comparison/comparison.json")
    decode = {"command": "decode", "system": "runs/d/weighted", "decoding": "ctc"}
    decode |= {"manifest": small_demo.DATA["valid"], "output": "hypotheses.jsonl"}
    made.write("decode", decode)
    made.submit("decode", "decode.yaml")
    assert len((made.root / "hypotheses.jsonl").read_text().splitlines()) == 8


def test_looking_at_what_was_made(made):
    output = made.submit("check", "weighted.yaml")
    assert "no problem found" in output
    assert "train-00000" in made.submit("inspect", "weighted.yaml", "train-00000")
    output = made.submit("status", "d")
    assert "d/weighted" in output
    assert "finished" in output
    output = made.submit("selftest", "pooled.yaml")
    for source in ("local", "store", "pool"):
        assert source in output


def test_an_update_that_was_not_finite_is_replayed(made):
    training = {
        "epochs": 1, "max_skipped_updates": 1, "schedule": {"type": "constant"},
        "optimizer": {"type": "adam", "lr": 1e36},
    }  # fmt: skip
    none = small_demo.recognition()["none"]
    made.write("diverged", {**none, "name": "d/diverged", "training": training})
    output = made.submit("train", "diverged.yaml", status=1)
    [line] = {word for word in output.split() if word.endswith("replay.yaml")}
    made.submit("replay", line)


def test_a_pool_outlives_its_job_and_serves_another(made):
    pool = {
        "command": "pool", "name": "every", "teachers": {"list": "runs/d/teachers/teachers.txt"},
        "hosts": {"hosts": 1, "cpus_per_host": 0.5},
        "report": {
            "name": "d/trust", "split": "valid", "manifest": small_demo.DATA["valid"],
            "tokens": small_demo.DATA["tokens"],
        },
    }  # fmt: skip
    made.write("pool", pool)
    made.submit("pool", "up", "pool.yaml")
    assert made.head.left_over()
    source = "teachers.source={type: pool, name: every}"
    made.submit("distill", "weighted.yaml", "name=d/named", source)
    assert RunFolder(made.root, "d/named").summary()["source"] == "pool"
    assert '"every"' in made.submit("pool", "status", "pool.yaml", "--json")
    made.submit("pool", "report", "pool.yaml")
    made.submit("pool", "down", "pool.yaml")


def test_recipes_studies_searches(made):
    made.write(
        "recipe",
        {
            "command": "recipe", "name": "d/recipe",
            "steps": [
                {"title": "what is there", "tasks": [{"config": "corpus.yaml"}]},
                {"title": "a student", "tasks": [
                    {"config": "none.yaml", "overrides": {"name": "d/by_recipe"}}
                ]},
            ],
        },
    )  # fmt: skip
    made.submit("recipe", "recipe.yaml")
    assert made.has("runs/d/by_recipe/summary.json")
    row = {
        "tasks": [
            {"config": "none.yaml",
             "overrides": {"name": "d/study/{row}/{seed}", "training.seed": "{seed}"}}
        ],
        "evaluation": {
            "config": "evaluate.yaml",
            "overrides": {
                "name": "d/study/{row}/{seed}/evaluation", "systems.teachers": None,
                "systems.students": {"{row}": "runs/d/study/{row}/{seed}"}, "speed_utterances": 0,
            },
        },
        "system": "{row}",
    }  # fmt: skip
    study = {"command": "study", "name": "d/study", "results": "results", "seeds": [1]}
    made.write("study", {**study, "rows": {"plain": row}})
    made.submit("study", "study.yaml")
    assert made.has("results/plain-seed-1.json", "results/table.md")
    search = {"command": "search", "name": "d/search", "base": "weighted.yaml"}
    search |= {"space": {"distillation.alpha": {"type": "choice", "values": [0.3, 0.9]}}}
    made.write("search", search)
    made.submit("search", "search.yaml")
    assert made.has("runs/d/search/best.yaml", "runs/d/search/report.html")


def test_manifests_that_models_write(made):
    for name, config in small_demo.translation().items():
        made.write(name, config)
    made.submit("train", "recogniser.yaml")
    made.submit("transcribe", "transcribe.yaml")
    made.submit("train", "expert.yaml")
    made.submit("translate", "translate.yaml")
    assert made.has("data/demo/train_asr.parquet", "data/demo/train_expert.parquet")


def test_a_measurement(made):
    weighted = small_demo.recognition()["weighted"]
    bench = {key: weighted[key] for key in ("data", "model")}
    teachers = {"list": weighted["teachers"]["list"]}
    bench |= {"command": "bench", "name": "d/bench", "teachers": teachers}
    bench |= {"teacher_counts": [1, 2], "warmup": 1, "repeats": 2}
    made.write("bench", bench)
    made.submit("bench", "step", "bench.yaml")
    assert made.has("runs/d/bench/step.json")


def test_these_were_all_jobs_and_nothing_is_left_of_them(made):
    """The last in this file: what the others submitted, and what it left."""
    assert made.scripts == {path.stem for path in (CHECKOUT / "jobs").glob("*.py")}
    assert made.head.left_over() == []
    assert not (made.checkout / "runs").exists()


def test_no_secret_of_the_environment_is_in_what_jobs_left(made):
    folders = (made.root, made.checkout, made.head.temporary)
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert any(path.name.startswith("job-driver-") for path in files)
    assert [path for path in files if PLANTED.encode() in path.read_bytes()] == []
    assert PLANTED not in made.output
