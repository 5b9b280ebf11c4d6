"""Options that say how runs of other programs are to be laid out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from mm_mlflow.errors import InvalidInput

if TYPE_CHECKING:
    from mm_mlflow.inference import Asked

_OPTIONS = [
    click.option("--seed-param", metavar="P", help="The param that is the seed (or tag:NAME)."),
    click.option(
        "--default", "defaults", multiple=True, metavar="A=V", help="Level of the default."
    ),
    click.option("--ignore", multiple=True, metavar="P", help="Params that make no difference."),
    click.option("--pool", is_flag=True, help="Average over the other axes."),
    click.option("--columns", metavar="A", help="Levels of this axis as columns, not seeds."),
    click.option("--bins", multiple=True, metavar="A=N", help="Cut a number into N bins of runs."),
    click.option(
        "--duplicates",
        type=click.Choice(["latest", "as-replicates"]),
        default="latest",
        show_default=True,
        help="Of several runs of one cell.",
    ),
    click.option(
        "--level", type=click.Choice(["top", "nested"]), help="Which runs  [default: most varied]"
    ),
]


def inference_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options of :class:`~mm_mlflow.inference.Asked`, but for ``--axis``."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def asked(
    *,
    seed_param: str | None,
    defaults: Sequence[str],
    ignore: Sequence[str],
    pool: bool,
    columns: str | None,
    bins: Sequence[str],
    duplicates: Any,
    level: Any,
    axes: Sequence[str] = (),
) -> Asked:
    """What the options say.

    Raises:
        InvalidInput: not ``A=V``, or bins that are no number.
    """
    from mm_mlflow.inference import Asked

    cut = {}
    for name, text in _pairs("bins", bins, "A=N").items():
        if not text.isdecimal():
            raise InvalidInput(f"bins {name}={text} is not allowed: a whole number of at least 2")
        cut[name] = int(text)
    return Asked(
        seed_param=seed_param,
        axes=tuple(axes),
        ignore=tuple(ignore),
        default=_pairs("default", defaults, "A=V"),
        pool=pool,
        columns=columns,
        bins=cut,
        duplicates=duplicates,
        level=level,
    )


def _pairs(option: str, texts: Sequence[str], form: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals or not value:
            raise InvalidInput(f"--{option} {text!r} is not allowed: --{option} {form} is")
        if name in pairs:
            raise InvalidInput(f"--{option} {name} is given twice: {pairs[name]} and {value}")
        pairs[name] = value
    return pairs
