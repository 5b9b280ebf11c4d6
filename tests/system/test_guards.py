"""Guards are needed: each is taken out of a copy of the package, and its test has to fail."""

from __future__ import annotations

from pathlib import Path

import guards
import pytest
from guards import GUARDS, Guard


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> guards.Copy:
    """In which all these tests pass as long as nothing is taken out."""
    made = guards.Copy(tmp_path_factory.mktemp("copy"))
    control = made.run(sorted({guard.test for guard in GUARDS}))
    assert control.returncode == 0, control.stdout
    return made


@pytest.mark.system
@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
def test_a_guard_is_needed(copy: guards.Copy, guard: Guard) -> None:
    """Without it, its test fails: one that passed would show nothing."""
    failed, said = copy.without(guard)
    print(said.strip().splitlines()[-1])
    assert failed, said


def test_what_is_taken_out_is_there() -> None:
    """Every guard's text occurs once, and other text takes its place."""
    for guard in GUARDS:
        text = (Path(guards.ROOT) / "mm_mlflow" / guard.file).read_text()
        assert text.count(guard.guard) == 1, guard.name
        assert guard.guard != guard.without
