"""What the teachers of runs cost, in the report."""

from report_folders import write_run

from kd_ray.core.costs import SourceCosts
from kd_ray.evaluation.run_folder import write_json
from kd_ray.report.cost_tables import cost_cells, costs_side_by_side
from kd_ray.report.run_sections import runs_section
from kd_ray.report.runs import read_run
from kd_ray.report.systems import read_json
from kd_ray.students.teacher_costs import cost_summary


def costly(folder, label, source, **counts):
    costs = SourceCosts(requests=10, utterances=80, rows=240, **counts)
    summary = read_json(folder / "summary.json")
    summary |= {
        "strategy": "best",
        "source": source,
        "costs": cost_summary(costs, positions=2000, wait_s=3.0, seconds=60.0),
    }
    write_json(folder / "summary.json", summary)
    return read_run(folder, label, "student")


def test_a_run_shows_its_costs_and_several_stand_side_by_side(tmp_path):
    pool = costly(
        write_run(tmp_path / "a", "a", strategy="best"), "a", "pool", known_rows=40,
        teacher_s=4.0, loads=16.0, bytes_sent=800_000, bytes_hosts=480_000, bytes_student=160_000,
    )  # fmt: skip
    local = costly(write_run(tmp_path / "b", "b", strategy="best"), "b", "local", teacher_s=8.0)
    plain = read_run(write_run(tmp_path / "c", "c", strategy=None), "c", "student")
    head, rows = cost_cells(pool)
    table = {row[0]: row[1:] for row in rows}
    assert head == ["", "in all", "an utterance", "a position"]
    assert table["teacher computation"] == ["4.0 s", "50 ms", "–"]  # noqa: RUF001
    assert table["rows remembered or stored"][0] == "40"
    assert table["sent to the student"] == ["160 kB", "2.00 kB", "80 B"]
    assert table["the student waited"][0] == "3.0 s, 5.0 % of its training"
    assert "merged by nodes" not in table
    assert not any("loaded" in row[0] for row in cost_cells(local)[1])
    assert cost_cells(plain) is None
    assert costs_side_by_side([pool, plain]) is None
    head, rows = costs_side_by_side([pool, plain, local])
    assert [row[:4] for row in rows] == [
        ["a", "best", "pool", "50 ms"], ["b", "best", "local", "100 ms"],
    ]  # fmt: skip
    assert len(head) == len(rows[0])
    page = runs_section([pool, plain, local])
    assert page.count("What the teachers cost") == 3
