"""sheet.tex compiles with pdflatex. Debian: texlive-latex-recommended."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from mm_mlflow.render import renderer, samples

pytestmark = pytest.mark.system

DOCUMENT = r"""\documentclass{article}
\usepackage{booktabs}
%s
\begin{document}
%s
\end{document}
"""


@pytest.mark.parametrize("packages", ["", r"\usepackage[table]{xcolor}"], ids=["plain", "shaded"])
def test_compiles(tmp_path: Path, packages: str) -> None:
    """Every sample in one document, with booktabs alone and with shades."""
    bodies = []
    for i, build in enumerate(samples.SHEETS.values()):
        (tmp_path / f"sheet{i}.tex").write_bytes(renderer("tex")(build()))
        bodies.append(rf"\input{{sheet{i}.tex}}\clearpage")
    (tmp_path / "paper.tex").write_text(DOCUMENT % (packages, "\n".join(bodies)))
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "Missing character" not in (tmp_path / "paper.log").read_text(errors="replace")
    assert (tmp_path / "paper.pdf").stat().st_size > 10_000
