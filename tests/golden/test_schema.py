"""The part of the JSON Schema that is about statistics is made from the records themselves.

After a wanted change: ``pytest tests/golden --update-golden``, then read the difference.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import mm_mlflow.render
from mm_mlflow.statistics.describe import SheetStatistics, TableStatistics

PATH = Path(mm_mlflow.render.__file__).with_name("sheet.schema.json")


def described(kind: type[BaseModel]) -> dict[str, Any]:
    """``$defs`` of a record and of all records in it, without the titles that only repeat names."""
    found = kind.model_json_schema(ref_template="#/$defs/{model}")
    parts = found.pop("$defs")
    return {name: plain(part) for name, part in {**parts, kind.__name__: found}.items()}


def plain(part: Any) -> Any:
    if isinstance(part, dict):
        names = part.get("properties", {})
        kept = {k: v for k, v in part.items() if not (k == "title" and isinstance(v, str))}
        return {k: {n: plain(names[n]) for n in names} if k == "properties" else plain(v)
                for k, v in kept.items()}  # fmt: skip
    return [plain(item) for item in part] if isinstance(part, list) else part


def laid_out(part: Any, depth: int = 0) -> str:
    """JSON with a line per key, and everything below a record's properties on its line."""
    whole = json.dumps(part, ensure_ascii=False)
    if not isinstance(part, dict) or depth > 3 or (depth > 0 and len(whole) < 100):
        return whole
    room = "  " * depth
    lines = [f"{room}  {json.dumps(k)}: {laid_out(v, depth + 1)}" for k, v in part.items()]
    return "{\n" + ",\n".join(lines) + f"\n{room}}}"


def test_schema_describes_statistics(request: pytest.FixtureRequest) -> None:
    """Every record of statistics is in the schema that ships, as the code has it."""
    schema = json.loads(PATH.read_text(encoding="utf-8"))
    expected = {**described(SheetStatistics), **described(TableStatistics)}
    if request.config.getoption("--update-golden"):
        old = {k: v for k, v in schema["$defs"].items() if k[0].islower()}
        schema["$defs"] = {**old, **expected}
        PATH.write_text(laid_out(schema) + "\n", encoding="utf-8")
    assert {k: v for k, v in schema["$defs"].items() if k[0].isupper()} == expected


def test_every_key_of_statistics_is_documented() -> None:
    """A reader of the schema learns what each key is, but where its name and its record say it all."""
    clear = {
        "low", "high", "level", "n", "sd", "p", "statistic", "p10", "p90", "n_examples", "seeds", "axis",
        "name", "mean", "subject", "kind", "observed", "expected", "freedom", "reason", "sheets", "spread",
        "configurations", "run_to_run", "floor", "planning", "verdicts", "span_interval", "components",
    }  # fmt: skip
    for kind in (SheetStatistics, TableStatistics):
        for name, part in described(kind).items():
            lacking = {k for k, v in part["properties"].items() if "description" not in v} - clear
            assert not lacking, (name, lacking)
