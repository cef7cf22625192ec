import pytest

from kd_ray.report.study import Cell, study_table


def cells(row, values, measure="BLEU"):
    return [
        Cell(row, seed, "test", {measure: value}, 1.5e6)
        for seed, value in enumerate(values, start=1)
    ]


def test_means_deviations_and_paired_differences():
    table = study_table(
        [*cells("kd", [12.0, 14.0, 19.0]), *cells("nll", [10.0, 11.0, 12.0])],
        order=["nll", "kd"],
        baseline="nll",
    )
    head, _, nll, kd = table.splitlines()
    assert head == "| system | seeds | BLEU | parameters | BLEU, difference to nll |"
    assert nll == "| nll | 3 | 11.0 ± 1.0 | 1.50 M |  |"
    # Differences 2, 3, 7: mean 4, sample deviation sqrt(7).
    assert kd == "| kd | 3 | 15.0 ± 3.6 | 1.50 M | +4.0 ± 2.6 |"


def test_rows_of_other_measures_and_single_seeds():
    table = study_table(
        [*cells("nll", [10.0, 11.0]), *cells("asr", [40.0], "error rate %")],
        order=["nll", "asr", "unmade"],
    )
    assert "| nll | 2 | 10.5 ± 0.7 |  | 1.50 M |" in table
    assert "| asr | 1 |  | 40.0 | 1.50 M |" in table
    assert "unmade" not in table


def test_differences_are_taken_between_equal_seeds_only():
    base = [Cell("nll", 2, "test", {"BLEU": 10.0}, 1e6)]
    table = study_table([*base, *cells("kd", [99.0, 13.0])], order=["nll", "kd"], baseline="nll")
    assert table.splitlines()[-1].endswith("| +3.0 |")


@pytest.mark.parametrize("baseline", [None, "nll"])
def test_no_finished_row_is_an_empty_table(baseline):
    assert len(study_table([], order=["nll"], baseline=baseline).splitlines()) == 2
