"""What a user may ask of the inference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Asked:
    """How runs of others are to be laid out; the default is to infer everything.

    Attributes:
        seed_param: the param (or ``tag:NAME``) that is the seed.
        axes: only the tables of these; a param that is ignored, or a candidate, becomes an axis.
        ignore: params and tags that make no configuration.
        default: levels of the default configuration.
        pool: average over the other axes in place of holding them at their default.
        columns: an axis whose levels are the columns in place of the seed.
        bins: axes cut into that many bins of equally many runs.
        duplicates: of several runs of one cell, the latest counts, or each is a column of its own.
        level: ``top`` or ``nested`` runs; None takes those with the most configurations.
    """

    seed_param: str | None = None
    axes: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    default: Mapping[str, str] = field(default_factory=dict)
    pool: bool = False
    columns: str | None = None
    bins: Mapping[str, int] = field(default_factory=dict)
    duplicates: Literal["latest", "as-replicates"] = "latest"
    level: Literal["top", "nested"] | None = None

    @property
    def explicit(self) -> bool:
        """Whether anything is asked for that only inference can give: runs are then laid out by their
        params even where a sweep's design is there."""
        return self != Asked(axes=self.axes)

    def arguments(self) -> dict[str, Any]:
        """What is asked for, by option: what tells one report from another."""
        options = {
            "seed_param": self.seed_param,
            "axis": list(self.axes),
            "ignore": list(self.ignore),
            "default": dict(self.default),
            "pool": self.pool,
            "columns": self.columns,
            "bins": dict(self.bins),
            "duplicates": None if self.duplicates == "latest" else self.duplicates,
            "level": self.level,
        }
        return {key: value for key, value in options.items() if value}

    @property
    def named(self) -> tuple[str, ...]:
        """Params and tags that are axes because the user says so."""
        own = [self.columns] if self.columns else []
        return tuple(dict.fromkeys([*self.axes, *own, *self.default]))
