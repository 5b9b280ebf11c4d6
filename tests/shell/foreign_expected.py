"""What must be inferred from each experiment of ``foreign.py``: a table written out by hand.

It was written from the rules and from what the makers log, before there was an inference to ask.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from foreign import HOSTILE

NOT_SET = "(not set)"
ADAM, SGD = (
    f'{{"name": "{name}", "lr": 0.001, "nesterov": true, "wd": null}}' for name in ("adam", "sgd")
)


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What one experiment must give.

    Attributes:
        runs: how many runs count; ``values``: of these, how many have a finite ``metric`` (default:
            all of them).
        axes: names and levels in order.
        seed, columns: the seed axis and its values; ``columns`` an int where only their number is sure.
        default: the default configuration; None where several are equally good (or there is none).
        rows: how many rows the tables have, sorted (default: a table per axis, a row per level).
        ignored: how the reason of a param begins; either of several beginnings.
        candidates: numeric params of which (nearly) every run has its own value.
        notes: patterns, each found in some note.
        replaced: runs that do not count because a later run fills their cell.
        nested: whether the runs that count are nested ones.
        cell: params that tell a cell where runs are repeated.
        absent: params that do not apply to every run.
        error: patterns that the refusal has.
    """

    runs: int = 0
    values: int | None = None
    axes: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    seed: str = "seed"
    columns: tuple[Any, ...] | int = ()
    default: Mapping[str, Any] | None = None
    layout: str = "star"
    rows: tuple[int, ...] | None = None
    ignored: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    candidates: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    replaced: int = 0
    asked: Mapping[str, Any] = field(default_factory=dict)
    metric: str = "accuracy"
    nested: bool = False
    cell: tuple[str, ...] = ()
    absent: frozenset[str] = frozenset()
    error: tuple[str, ...] = ()


# A case is a maker of foreign.py, or several with what is asked after a colon.
EXPECTED: dict[str, Expected] = {
    # Twelve nested runs differ in alpha, penalty and random_state (3 x 2 x 2 settings); their two
    # parents differ in `estimator` and best_* alone (2 settings). All else that an SGDClassifier has is
    # constant, `learning_rate` and `eta0` among it. The grid is full: any default is as good.
    "sklearn_grid_search": Expected(
        runs=12,
        axes={"alpha": (0.0001, 0.001, 0.01), "penalty": ("l1", "l2")},
        seed="random_state",
        columns=(0, 1),
        layout="factorial",
        ignored={"learning_rate": "constant", "eta0": "constant", "max_iter": "constant"},
        notes=(r"\b2 .*(top-level|parent)|(top-level|parent).* 2\b",),
        metric="mean_test_score",
        nested=True,
    ),
    # The program's tag says what varied. Every other difference follows from it: which params there are
    # (C of one kind, n_estimators of another), and max_features, which is sqrt, None or not there.
    "sklearn_estimators": Expected(
        runs=6,
        axes={
            "tag:estimator_name": (
                "DecisionTreeClassifier",
                "LogisticRegression",
                "RandomForestClassifier",
            )
        },
        seed="random_state",
        columns=(0, 1),
        ignored={"tag:estimator_class": "same as tag:estimator_name", "class_weight": "constant"},
        metric="training_roc_auc",
    ),
    # lr is a float of its own in every trial, so that no two runs differ in one param only: no star.
    # The trial that raised has a FINISHED run without metrics (the callback ends every run so), which is
    # left out.
    # `number`, `state`, `datetime_*` and `*_distribution` are tags of the callback, not of the user:
    # `state` is COMPLETE or FAIL here, an outcome and no choice. No seed, each configuration once.
    "optuna_tpe": Expected(
        runs=14,
        axes={"n_layers": (1, 2, 3), "optimizer": ("adam", "sgd")},
        seed="replicate",
        columns=(1,),
        layout="none",
        rows=(),
        candidates=frozenset({"lr"}),
        notes=("seed",),
    ),
    # Six points, each in both studies: 6 settings nested against 2 at top level (`repeat`, which has
    # the best accuracy of all, must not count). The trial number stands for nothing: the sampler
    # shuffles. Without a seed the runs of a configuration are numbered.
    "optuna_nested": Expected(
        runs=12,
        axes={"activation": ("relu", "tanh"), "hidden": (16, 32, 64)},
        seed="replicate",
        columns=(1, 2),
        layout="factorial",
        notes=(r"\b2 .*(top-level|parent)|(top-level|parent).* 2\b", "seed"),
        nested=True,
    ),
    # Levels and seeds in numeric order, where text has 0.01 < 0.1 < 1e-05 and 10 < 2 < 42. Around
    # (0.01, 64) there are two tables, around any other configuration one with two levels.
    "plain_loop": Expected(
        runs=12,
        axes={"batch_size": (64, 128), "lr": (1e-05, 0.01, 0.1)},
        seed="random_state",
        columns=(2, 10, 42),
        default={"batch_size": 64, "lr": 0.01},
        ignored={"epochs": "constant"},
        metric="loss",
    ),
    # `seed_everything` is LightningCLI's name for the seed. Lists are levels, in natural order (text
    # has 128 < 32). default_root_dir is of each run, data/root of each machine: both are paths.
    "lightning": Expected(
        runs=8,
        axes={
            "model/dropout": (0.1, 0.5),
            "model/layers": ("[32, 32]", "[64, 64]", "[128, 128]"),
        },
        seed="seed_everything",
        columns=(1, 2),
        default={"model/dropout": 0.1, "model/layers": "[32, 32]"},
        ignored={
            "trainer/default_root_dir": ("path", "unique text"),
            "data/root": "path",
            "model/activation": "constant",
            "trainer/max_epochs": "constant",
            "ckpt_path": "constant",
        },
        metric="val/acc",
    ),
    # The seed is the last part of a dotted name. The job's number is of its own in every run, hence a
    # candidate; the star with its seeds does not need it. [9] < [64, 64] < [128, 128] naturally.
    "hydra": Expected(
        runs=8,
        axes={
            "model.layers": ("[9]", "[64, 64]", "[128, 128]"),
            "optimizer": (ADAM, SGD),
        },
        seed="training.seed",
        columns=(0, 1),
        default={"model.layers": "[64, 64]", "optimizer": ADAM},
        ignored={
            "hydra.run.dir": ("path", "unique text"),
            "hydra.job.override_dirname": "unique text",
            "hydra.runtime.cwd": "constant",
            "model.name": "constant",
        },
        candidates=frozenset({"hydra.job.num"}),
    ),
    "two_seeds": Expected(error=(r"'?\bseed\b", "data_seed", "--seed-param")),
    # Asked for one, the other is an axis like any; the grid is full.
    "two_seeds:seed": Expected(
        asked={"seed_param": "seed"},
        runs=12,
        axes={"data_seed": (0, 1, 2), "lr": (0.01, 0.1)},
        columns=(0, 1),
        layout="factorial",
    ),
    "two_seeds:data_seed": Expected(
        asked={"seed_param": "data_seed"},
        runs=12,
        axes={"lr": (0.01, 0.1), "seed": (0, 1)},
        seed="data_seed",
        columns=(0, 1, 2),
        layout="factorial",
    ),
    "one_seed_of_two": Expected(
        runs=6,
        axes={"lr": (0.01, 0.1)},
        columns=(0, 1, 2),
        ignored={"data_seed": ("seed", "constant")},
    ),
    # They vary in the same way, so there is nothing to ask.
    "seeds_in_step": Expected(
        runs=6,
        axes={"lr": (0.01, 0.1)},
        columns=(0, 1, 2),
        ignored={"torch_seed": ("same as", "seed")},
    ),
    # No column could hold two configurations: the two runs of each are numbered.
    "unique_seeds": Expected(
        runs=6,
        axes={"batch": (32, 64), "lr": (0.01, 0.1)},
        seed="replicate",
        columns=(1, 2),
        default={"batch": 32, "lr": 0.1},
        ignored={"seed": ("seed", "unique")},
        notes=(r"\bseed\b",),
    ),
    # Three runs of the default, one of each other configuration: 6 runs, no duplicates.
    "constant_seed": Expected(
        runs=6,
        axes={"batch": (32, 64), "lr": (0.001, 0.01, 0.1)},
        seed="replicate",
        columns=(1, 2, 3),
        default={"batch": 32, "lr": 0.1},
        ignored={"seed": ("seed", "constant")},
        notes=(r"\bseed\b",),
    ),
    # No axis, but a configuration that repeats: one row.
    "only_the_seed": Expected(
        runs=5,
        columns=(0, 1, 2, 3, 4),
        layout="repeats",
        rows=(1,),
        ignored={"lr": "constant", "batch": "constant"},
    ),
    # `reviewed` is on two runs only, `owner` constant, `git_sha` of each run (one is a float too large
    # for one, another an integer: still a text); mlflow.* is never an axis.
    "tags": Expected(
        runs=8,
        axes={"tag:dataset": ("cifar10", "mnist", "svhn"), "tag:env": ("dev", "prod")},
        columns=(0, 1),
        default={"tag:dataset": "mnist", "tag:env": "prod"},
        ignored={"epochs": "constant", "tag:git_sha": "unique text"},
    ),
    # Nine cells; of the three runs of one the latest counts, and the other two are far out. With one
    # axis every configuration has the same star.
    "repeated_runs": Expected(
        runs=9,
        axes={"lr": (0.001, 0.01, 0.1)},
        columns=(0, 1, 2),
        replaced=2,
        cell=("lr", "seed"),
    ),
    # Two columns more.
    "repeated_runs:as-replicates": Expected(
        asked={"duplicates": "as-replicates"},
        runs=11,
        axes={"lr": (0.001, 0.01, 0.1)},
        columns=5,
    ),
    # Only (0.01, 64) has three levels in both tables and runs for all of them but none elsewhere:
    # lr 0.001 ran with batch 64 alone, batch 128 not with lr 0.1, and (0.1, 32) lacks a seed.
    "factorial_with_holes": Expected(
        runs=11,
        axes={"batch": (32, 64, 128), "lr": (0.001, 0.01, 0.1)},
        columns=(0, 1),
        default={"batch": 64, "lr": 0.01},
        layout="factorial",
    ),
    # Around (1, 1, 1, 1) there are four tables of 5 runs in all; the pair has one table of two levels, with
    # 6 runs: tables come first.
    "most_tables": Expected(
        runs=11,
        axes={"batch": (1, 2), "depth": (1, 2), "lr": (1, 2), "width": (1, 2)},
        columns=(0,),
        default={"batch": 1, "depth": 1, "lr": 1, "width": 1},
        layout="factorial",
    ),
    # 16, 16 and 15 distinct values in 16 runs.
    "random_search": Expected(
        runs=16,
        seed="replicate",
        columns=(1,),
        layout="none",
        rows=(),
        ignored={"epochs": "constant"},
        candidates=frozenset({"dropout", "hidden", "lr"}),
        notes=("random search|star",),
    ),
    # Four rows of four runs.
    "random_search:bins": Expected(
        asked={"bins": {"lr": 4}},
        runs=16,
        axes={"lr": (None,) * 4},
        layout="bins",
        seed="replicate",
        columns=(1, 2, 3, 4),
        candidates=frozenset({"dropout", "hidden"}),
    ),
    # Every configuration has values of its own, three times: a row per configuration.
    "random_search_repeated": Expected(
        runs=15,
        columns=(0, 1, 2),
        layout="repeats",
        rows=(5,),
        ignored={"epochs": "constant"},
        candidates=frozenset({"dropout", "lr"}),
    ),
    # adam has no momentum: that is no level of momentum, and the run of adam is in the optimizer's
    # table, whose other row has the default's momentum. Only (sgd, 0.1, 0.9) has three tables.
    "conditional": Expected(
        runs=8,
        axes={"lr": (0.05, 0.1), "momentum": (0, 0.9), "optimizer": ("adam", "sgd")},
        columns=(0, 1),
        default={"lr": 0.1, "momentum": 0.9, "optimizer": "sgd"},
        absent=frozenset({"momentum"}),
    ),
    # With lr 0.1 augment is there or not: nothing else tells, so that it is a level.
    "not_set": Expected(
        runs=6,
        axes={"augment": ("flip", NOT_SET), "lr": (0.01, 0.1)},
        columns=(0, 1),
        default={"augment": "flip", "lr": 0.1},
    ),
    # warmup is 10 for lr 0.001 and 5 for the other two: it tells nothing of its own. `variant` names
    # each of the four configurations, `label` each run.
    "derived": Expected(
        runs=8,
        axes={"batch": (32, 64), "lr": (0.001, 0.01, 0.1)},
        columns=(0, 1),
        default={"batch": 32, "lr": 0.1},
        ignored={
            "optimizer.lr": "same as lr",
            "warmup": "follows lr",
            "variant": "names a configuration",
            "label": "unique text",
        },
    ),
    # Numbers first, in numeric order, then words; None is Python's word for "no limit", not a hole.
    "mixed_levels": Expected(
        runs=10,
        axes={"max_depth": (5, 10, "None"), "max_features": (0.5, "log2", "sqrt")},
        columns=(0, 1),
        default={"max_depth": 10, "max_features": "sqrt"},
    ),
    # Six settings at top level against two folds nested; the folds' 0.5 and 0.99 must not count.
    "folds": Expected(
        runs=6,
        axes={"lr": (0.001, 0.01, 0.1)},
        columns=(0, 1),
        notes=(r"\b12\b.*nested|nested.*\b12\b",),
    ),
    # 10 of 15 runs finished, one is deleted (MLflow does not show it); NaN and both infinities are no
    # values. Levels of text keep what they say to the letter.
    "hostile": Expected(
        runs=10,
        values=7,
        axes={"größe": (1, 2, 10), "学习率 augment": HOSTILE},
        columns=(0, 1),
        default={"größe": 1, "学习率 augment": HOSTILE[1]},
        ignored={"description": "unique text", "empty": "constant"},
        notes=("2 .*failed|failed.* 2", "1 .*killed|killed.* 1", "1 .*running|running.* 1"),
        metric="genauigkeit/größe",
    ),
    # 1, 1.0 and "1" are one level, True and "true" another one level; seeds 0, 1.0 and "2" are
    # three, and 0.0001, 1e-4 and 1E-04 no variation at all.
    "types": Expected(
        runs=9,
        axes={"bias": (False, True), "depth": (1, 2)},
        columns=(0, 1, 2),
        default={"bias": True, "depth": 1},
        ignored={"decay": "constant"},
    ),
    "many_params": Expected(
        runs=4,
        axes={"lr": (0.01, 0.1)},
        columns=(0, 1),
        ignored={
            **{f"zero/{i}": "constant" for i in (0, 1399)},
            **{f"schedule/{i}": "same as lr" for i in (0, 299)},
            **{f"text/{i}": "unique text" for i in (0, 299)},
        },
    ),
    "one_run": Expected(error=(r"two|\b2\b",)),
    "nothing_varies": Expected(error=("var|differ",)),
}
