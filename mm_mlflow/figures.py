"""The paper's 14 figures: what each shows, and where a report shows the same."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

PAPER = "Ganesh (WACV 2024)"


@dataclass(frozen=True)
class Figure:
    """One figure of the paper.

    Attributes:
        number: its number.
        dataset: the dataset that it is about, by the name designs use.
        shows: in a few words.
        kind: ``sheet``, ``distribution`` or ``selection``.
        intervention: of the metric that it shows.
        parameters: of that metric: strengths, a group, or the ``source`` of other data.
        needs: what a design must hold, for a report that lacks it.
    """

    number: int
    dataset: str
    shows: str
    kind: Literal["sheet", "distribution", "selection"]
    intervention: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    needs: str = ""

    def is_of(self, record: Mapping[str, Any]) -> bool:
        """Whether a metric with this record of ``metrics.json`` is the one shown."""
        if record.get("intervention") != self.intervention:
            return False
        found = record.get("parameters") or {}
        for name, wanted in self.parameters.items():
            if name == "source":
                same = str(found.get(name, "")).split("/")[0] == wanted
            elif name == "group":
                same = _slugs(record.get("group") or {}) == _slugs(wanted)
            else:
                same = found.get(name) == wanted
            if not same:
                return False
        return self.intervention == "ood_accuracy" or record.get("split") == "test"


def _slugs(group: Mapping[str, str]) -> dict[str, str]:
    return {k: re.sub(r"[^a-z0-9]", "_", str(v).lower()) for k, v in group.items()}


def _sheets(
    dataset: str, numbers: Sequence[int], group: dict[str, str], other: str
) -> list[Figure]:
    one, two, three, four, five = numbers
    who = next(iter(group.values()))
    return [
        Figure(one, dataset, "Accuracy", "sheet", "accuracy", needs="accuracy"),
        Figure(two, dataset, f"Group accuracy, {who}", "sheet", "group_accuracy", {"group": group},
               f"group_accuracy of {group}"),
        Figure(three, dataset, f"OOD accuracy, {other}", "sheet", "ood_accuracy",
               {"source": other}, f"ood_accuracy on {other}"),
        Figure(four, dataset, "Output perturbation accuracy, λ = 5", "sheet", "output_perturbation",
               {"lambda": 5}, "output_perturbation with lambda 5"),
        Figure(five, dataset, "PGD accuracy, δ = 0.005", "sheet", "pgd", {"delta": 0.005},
               "pgd with delta 0.005"),
    ]  # fmt: skip


FIGURES = tuple(
    sorted(
        [
            *_sheets("utkface", (1, 2, 4, 5, 7), {"race": "asian"}, "fairface"),
            *_sheets("cifar10_skewed", (10, 11, 12, 13, 14), {"skew": "gs_minority"}, "cifar10_gs"),
            Figure(3, "utkface", "Distribution over groups and intersections", "distribution",
                   "group_accuracy", needs="group_accuracy of several groups"),
            Figure(6, "utkface", "Distribution over λ of output perturbation", "distribution",
                   "output_perturbation", needs="output_perturbation with several lambda"),
            Figure(8, "utkface", "Distribution over δ of PGD", "distribution", "pgd",
                   needs="pgd with several delta"),
            Figure(9, "utkface", "Unforeseen metrics after selection", "selection",
                   needs="selection in the design, or the command select"),
        ],
        key=lambda figure: figure.number,
    )
)  # fmt: skip


@dataclass(frozen=True)
class FigureRow:
    """Where a report shows one of the paper's figures.

    Attributes:
        number, dataset, shows: of the :class:`Figure`.
        artifacts: paths in the report, empty where there is nothing of the kind.
        note: empty for the paper's own dataset; else which data the artifacts are of, or what is
            missing.
    """

    number: int
    dataset: str
    shows: str
    artifacts: tuple[str, ...]
    note: str


def figure_of(dataset: str, record: Mapping[str, Any]) -> int | None:
    """The number of the figure that the sheet of this metric is, None if there is none."""
    for figure in FIGURES:
        if figure.kind == "sheet" and figure.dataset == dataset and figure.is_of(record):
            return figure.number
    return None


def figure_rows(
    dataset: str | None,
    sheets: Mapping[str, Mapping[str, Any]],
    distributions: Mapping[str, Collection[str]],
    selections: Collection[str],
) -> tuple[FigureRow, ...]:
    """One row per figure of the paper.

    Args:
        dataset: of the design, None where nothing tells it.
        sheets: path of each sheet, and its metric's record.
        distributions: per intervention, paths of the pictures of its distributions.
        selections: paths of the pictures of selections.
    """
    rows = []
    for figure in FIGURES:
        found: Collection[str]
        if figure.kind == "selection":
            found = selections
        elif figure.kind == "distribution":
            found = distributions.get(figure.intervention, ())
        else:
            found = [path for path, record in sheets.items() if figure.is_of(record)][:1]
        if dataset == figure.dataset:
            note = "" if found else f"not run: needs {figure.needs}"
        elif found:
            note = f"not run: needs dataset {figure.dataset}; the same view of {dataset or 'these runs'}"
        else:
            note = f"not run: needs dataset {figure.dataset} (projects/{figure.dataset})"
        rows.append(FigureRow(figure.number, figure.dataset, figure.shows, tuple(found), note))
    return tuple(rows)
