"""The table of a study: means and deviations over seeds, in Markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev


@dataclass(frozen=True)
class Cell:
    """What one row scored with one seed."""

    row: str
    seed: int
    split: str
    scores: Mapping[str, float]
    parameters: float


def study_table(cells: Sequence[Cell], *, order: Sequence[str], baseline: str | None = None) -> str:
    """One line for each row that has a cell: mean and sample deviation of every score.

    Differences to the baseline are means over the seeds that both rows have, seed by seed. Rows of
    different measures leave each other's columns empty.

    Args:
        cells: finished rows and seeds.
        order: rows from top to bottom.
        baseline: the row that differences are shown to.
    """
    measures = list(dict.fromkeys(name for cell in cells for name in cell.scores))
    head = ["system", "seeds", *measures, "parameters"]
    if baseline is not None:
        head += [f"{name}, difference to {baseline}" for name in measures]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    by_row = {name: [cell for cell in cells if cell.row == name] for name in order}
    for name, own in by_row.items():
        if own:
            line = [name, str(len(own)), *(_mean(own, measure) for measure in measures)]
            line.append(f"{own[0].parameters / 1e6:.2f} M")
            if baseline is not None:
                base = [] if name == baseline else by_row[baseline]
                line += [_difference(own, base, measure) for measure in measures]
            lines.append("| " + " | ".join(line) + " |")
    return "\n".join(lines) + "\n"


def _mean(cells: Sequence[Cell], measure: str) -> str:
    return _spread([cell.scores[measure] for cell in cells if measure in cell.scores], "")


def _difference(own: Sequence[Cell], base: Sequence[Cell], measure: str) -> str:
    others = {cell.seed: cell.scores[measure] for cell in base if measure in cell.scores}
    gains = [
        cell.scores[measure] - others[cell.seed]
        for cell in own
        if measure in cell.scores and cell.seed in others
    ]
    return _spread(gains, "+")


def _spread(values: Sequence[float], sign: str) -> str:
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0]:{sign}.1f}"
    return f"{fmean(values):{sign}.1f} ± {stdev(values):.1f}"
