"""The acceptance criteria of docs/statistics.md at full size: target against measured, fixed seeds.

`pytest -m bench tests/benchmarks/test_full_calibration.py -s` checks and prints them criterion by criterion;
`PYTHONPATH=tests/core python tests/benchmarks/test_full_calibration.py` prints the one table of the docs. The
criteria on selection (13, 14) and on pairs of experiments (16) have files of their own.
"""

from __future__ import annotations

import platform
import time
from datetime import date

import numpy as np
import pytest
import scipy
from calibration import CRITERIA, table


@pytest.mark.bench
@pytest.mark.parametrize("name", CRITERIA)
def test_target_is_met(name: str) -> None:
    """Every quantity lies within its target."""
    simulate, sheets = CRITERIA[name]
    begin = time.perf_counter()
    rows = list(simulate(sheets))
    print(f"\n{table(rows)}\n\n{name}: {time.perf_counter() - begin:.0f} s")
    assert not [str(row) for row in rows if not row.met]


if __name__ == "__main__":
    print(f"{date.today()}, Python {platform.python_version()}, numpy {np.__version__}, ", end="")
    print(f"scipy {scipy.__version__}.\n")
    print(table([row for simulate, sheets in CRITERIA.values() for row in simulate(sheets)]))
