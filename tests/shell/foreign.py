"""Experiments as other programs leave them: each maker fills one in the current store and returns its
name.

scikit-learn's autologging and Optuna's callback are the real ones. The plain scripts log as people's
scripts do; names and spellings of the Lightning and Hydra ones are what pytorch-lightning 2.6.6
(``MLFlowLogger.log_hyperparams``) and hydra-core 1.3.8 (``--multirun``) were seen to give. Metrics are
numbers drawn from the text of what made them, so that no two runs agree by accident.
"""

from __future__ import annotations

import itertools
import json
import math
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import fluent
from mlflow.utils.autologging_utils import client
from mlflow.utils.autologging_utils.safety import revert_patches

# Runs of one script start a minute apart and last half of one: which is the latest is never a tie.
_MINUTE = 60_000
_BEGIN = 1_760_000_000_000


def number(*made_of: Any, low: float = 0.8, high: float = 0.95) -> float:
    """A number that depends on the text of its arguments alone."""
    return round(random.Random(repr(made_of)).uniform(low, high), 6)


class Script:
    """A training script that logs with the client, all of a run at once."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.client = MlflowClient()
        self.experiment = self.client.create_experiment(name)
        self._clock = itertools.count(_BEGIN, _MINUTE)

    def run(
        self,
        params: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
        *,
        tags: Mapping[str, str] | None = None,
        name: str | None = None,
        parent: str | None = None,
        status: str | None = "FINISHED",
    ) -> str:
        """Log one run, by default with an ``accuracy``; ``status`` None leaves it RUNNING."""
        start = next(self._clock)
        if metrics is None:
            metrics = {"accuracy": number(self.name, start)}
        tags = {**(tags or {}), **({"mlflow.parentRunId": parent} if parent else {})}
        run = self.client.create_run(self.experiment, start_time=start, run_name=name)
        run_id = str(run.info.run_id)
        listed = [Param(key, str(value)) for key, value in params.items()]
        self.client.log_batch(
            run_id,
            [Metric(key, value, start, 0) for key, value in metrics.items()],
            listed[:100],
            [RunTag(key, value) for key, value in tags.items()],
        )
        for i in range(100, len(listed), 100):  # MLflow takes 100 at once
            self.client.log_batch(run_id, params=listed[i : i + 100])
        if status is not None:
            self.client.set_terminated(run_id, status, end_time=start + _MINUTE // 2)
        return run_id


def _seeds(script: Script, cells: Sequence[Mapping[str, Any]], seeds: Sequence[Any]) -> str:
    """Every cell with every ``seed``."""
    for cell, seed in itertools.product(cells, seeds):
        script.run({**cell, "seed": seed})
    return script.name


@contextmanager
def _fluent() -> Iterator[None]:
    """MLflow's module-level API remembers its experiment for the rest of the process."""
    before = fluent._active_experiment_id
    try:
        yield
    finally:
        fluent._active_experiment_id = before


# ---- real programs


@contextmanager
def _autologging() -> Iterator[None]:
    """scikit-learn's autologging without plots and models, and the end of it.

    One thread: with its usual ones, the nested runs of a search race to store their common data set,
    and now and then one of them ends its parent as FAILED.
    """
    with _fluent(), ThreadPoolExecutor(1) as pool:
        mlflow.sklearn.autolog(
            log_models=False,
            log_datasets=False,
            log_post_training_metrics=False,
            max_tuning_runs=None,
            silent=True,
        )
        try:
            with (
                patch.object(client, "_AUTOLOGGING_QUEUEING_CLIENT_THREAD_POOL", pool),
                patch.object(mlflow.sklearn.utils, "_get_classifier_artifacts", return_value=[]),
            ):
                yield
        finally:
            mlflow.sklearn.autolog(disable=True)
            revert_patches("sklearn")


def sklearn_grid_search() -> str:
    """Autologging of a grid search, for two random states: a parent run and six nested runs each."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import SGDClassifier
    from sklearn.model_selection import GridSearchCV

    x, y = (part[:400] for part in load_digits(return_X_y=True))
    grid = {"alpha": [1e-4, 1e-3, 1e-2], "penalty": ["l1", "l2"]}
    with _autologging():
        mlflow.set_experiment("grid search")
        for seed in (0, 1):
            model = SGDClassifier(random_state=seed, max_iter=4, tol=None)
            GridSearchCV(model, grid, cv=2).fit(x, y)
    return "grid search"


def sklearn_estimators() -> str:
    """Autologging of three kinds of model: what they are is a tag, and each has params of its own."""
    from sklearn.datasets import load_digits
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.tree import DecisionTreeClassifier

    x, y = (part[:400] for part in load_digits(return_X_y=True))
    with _autologging():
        mlflow.set_experiment("estimators")
        for seed in (0, 1):
            for model in (
                LogisticRegression(random_state=seed, solver="saga", tol=0.1),
                DecisionTreeClassifier(random_state=seed, max_depth=5, splitter="random"),
                RandomForestClassifier(random_state=seed, max_depth=5, n_estimators=5),
            ):
                model.fit(x, y)
    return "estimators"


@contextmanager
def _optuna() -> Iterator[Any]:
    """Optuna without its log lines, and its callback's class without the warning that Optuna 6 will
    drop it: people have it, and the runs that it made."""
    import optuna
    from optuna_integration.mlflow import MLflowCallback

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    try:
        with _fluent(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "MLflowCallback has been deprecated", FutureWarning)
            yield MLflowCallback
    finally:
        optuna.logging.set_verbosity(before)


def optuna_tpe() -> str:
    """TPE over a float, an integer and a choice; the fourth trial raises, which Optuna catches."""
    import optuna

    def objective(trial: optuna.Trial) -> float:
        rate = trial.suggest_float("lr", 1e-4, 1e-1, log=True)
        layers = trial.suggest_int("n_layers", 1, 3)
        optimizer = trial.suggest_categorical("optimizer", ["sgd", "adam"])
        if trial.number == 3:
            raise ValueError("out of memory")
        return 0.9 - 0.05 * abs(math.log10(rate) + 2) - 0.01 * layers - 0.02 * (optimizer == "sgd")

    with _optuna() as callback:
        study = optuna.create_study(
            study_name="tpe",
            direction="maximize",
            sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=5),
        )
        study.optimize(
            objective, n_trials=15, catch=ValueError, callbacks=[callback(metric_name="accuracy")]
        )
    return "tpe"


def optuna_nested() -> str:
    """Two grid studies of the same six points, each below a run of its own."""
    import optuna

    space = {"hidden": [16, 32, 64], "activation": ["relu", "tanh"]}

    def objective(trial: optuna.Trial) -> float:
        point = {key: trial.suggest_categorical(key, space[key]) for key in space}
        return number(trial.study.study_name, repeat, point)

    with _optuna() as callback:
        mlflow.set_experiment("nested studies")
        for repeat in (1, 2):
            study = optuna.create_study(
                study_name="nested studies",
                direction="maximize",
                sampler=optuna.samplers.GridSampler(space, seed=repeat),
            )
            with mlflow.start_run(run_name=f"study {repeat}"):
                mlflow.log_params({"n_trials": 6, "repeat": repeat})
                logging = callback(metric_name="accuracy", mlflow_kwargs={"nested": True})
                study.optimize(objective, callbacks=[logging])
                mlflow.log_metric("accuracy", study.best_value + 0.01)
    return "nested studies"


def plain_loop() -> str:
    """The loop of MLflow's tutorials: a star around lr 0.01 and batch 64, a loss for every epoch."""
    with _fluent():
        mlflow.set_experiment("plain loop")
        for rate, batch in [(0.01, 64), (0.1, 64), (1e-05, 64), (0.01, 128)]:
            for seed in (2, 10, 42):
                with mlflow.start_run():
                    mlflow.log_params(
                        {"lr": rate, "batch_size": batch, "random_state": seed, "epochs": 2}
                    )
                    for epoch in range(2):
                        mlflow.log_metric("loss", number(rate, batch, seed, epoch, high=4), epoch)
    return "plain loop"


# ---- names and values as other programs spell them


def lightning() -> str:
    """LightningCLI: slashes, lists as Python prints them, a folder per version, two machines."""
    script = Script("lightning")
    cells = [
        ("[32, 32]", 0.1),
        ("[64, 64]", 0.1),
        ("[128, 128]", 0.1),
        ("[32, 32]", 0.5),
    ]
    for version, ((layers, dropout), seed) in enumerate(itertools.product(cells, (1, 2))):
        script.run(
            {
                "seed_everything": seed,
                "model/layers": layers,
                "model/dropout": dropout,
                "model/activation": "<class 'torch.nn.modules.activation.ReLU'>",
                "trainer/max_epochs": 3,
                "trainer/default_root_dir": f"/home/ada/lightning_logs/version_{version}",
                "data/root": ["/scratch/mnist", "/home/ada/mnist"][version // 4],
                "ckpt_path": None,
            },
            {"val/acc": number("lightning", version), "epoch": 2},
            name=f"version_{version}",
        )
    return script.name


def hydra() -> str:
    """``--multirun``: dots, JSON for lists and nodes, and Hydra's own settings along with the user's."""
    script = Script("hydra")
    adam, sgd = (
        {"name": name, "lr": 0.001, "nesterov": True, "wd": None} for name in ("adam", "sgd")
    )
    cells = [([64, 64], adam), ([128, 128], adam), ([9], adam), ([64, 64], sgd)]
    for job, ((layers, optimizer), seed) in enumerate(itertools.product(cells, (0, 1))):
        script.run(
            {
                "model.name": "mlp",
                "model.layers": json.dumps(layers),
                "optimizer": json.dumps(optimizer),
                "training.seed": seed,
                "hydra.run.dir": f"multirun/2026-03-01/10-00-00/{job}",
                "hydra.job.num": job,
                "hydra.job.override_dirname": (
                    f"model.layers={layers},optimizer={optimizer['name']},training.seed={seed}"
                ),
                "hydra.runtime.cwd": "/home/ada/project",
            }
        )
    return script.name


# ---- seeds


def two_seeds() -> str:
    """``seed`` and ``data_seed`` varied against each other."""
    script = Script("two seeds")
    for rate, seed, data in itertools.product((0.1, 0.01), (0, 1), (0, 1, 2)):
        script.run({"lr": rate, "seed": seed, "data_seed": data})
    return script.name


def one_seed_of_two() -> str:
    """The same names, one of them never changed."""
    script = Script("one seed of two")
    for rate, seed in itertools.product((0.1, 0.01), (0, 1, 2)):
        script.run({"lr": rate, "seed": seed, "data_seed": 7})
    return script.name


def seeds_in_step() -> str:
    """Two libraries seeded with one number."""
    script = Script("seeds in step")
    for rate, seed in itertools.product((0.1, 0.01), (0, 1, 2)):
        script.run({"lr": rate, "seed": seed, "torch_seed": 100 + seed})
    return script.name


def unique_seeds() -> str:
    """Every run with a seed of its own, from the clock."""
    script = Script("unique seeds")
    cells = [(0.1, 32), (0.01, 32), (0.1, 64)]
    for i, (rate, batch) in enumerate([*cells, *cells]):
        script.run({"lr": rate, "batch": batch, "seed": 3_141_592_653 + 7919 * i})
    return script.name


def constant_seed() -> str:
    """What public databases have: seed 42 throughout; the default ran three times, the others once."""
    script = Script("constant seed")
    default = {"lr": 0.1, "batch": 32}
    others = ({"lr": 0.01}, {"lr": 0.001}, {"batch": 64})
    for change in ({}, {}, *others, {}):
        script.run({**default, **change, "seed": 42})
    return script.name


def only_the_seed() -> str:
    """One configuration, five seeds."""
    return _seeds(Script("only the seed"), [{"lr": 0.1, "batch": 32}], range(5))


# ---- where the axes are, and which cells are there


# The first reads as a number too large for a float, two others as numbers.
_COMMITS = ("83e7742", "4410298", "1e00000", "c0ffee1", "0a1b2c3", "9d8e7f6", "aaaaaaa", "bbbbbbb")


def tags() -> str:
    """Axes as tags, as public databases have them; one tag was added to some runs by hand."""
    script = Script("tags")
    cells = [("prod", "mnist"), ("prod", "svhn"), ("prod", "cifar10"), ("dev", "mnist")]
    for i, ((env, dataset), seed) in enumerate(itertools.product(cells, (0, 1))):
        labels = {"env": env, "dataset": dataset, "owner": "ada", "git_sha": _COMMITS[i]}
        if i in {1, 4}:
            labels["reviewed"] = ["yes", "no"][i // 4]
        labels["mlflow.note.content"] = f"note {i}"
        script.run({"seed": seed, "epochs": 5}, tags=labels)
    return script.name


def repeated_runs() -> str:
    """One cell ran three times, and its first two runs are the best and the worst of all."""
    script = Script("repeated runs")
    first = {"lr": 0.1, "seed": 1}
    script.run(first, {"accuracy": 0.99})
    script.run(first, {"accuracy": 0.51})
    return _seeds(script, [{"lr": 0.1}, {"lr": 0.01}, {"lr": 0.001}], (0, 1, 2))


def factorial_with_holes() -> str:
    """3 x 3 x 2 seeds without three configurations and one run."""
    script = Script("factorial with holes")
    for rate, batch, seed in itertools.product((0.1, 0.01, 0.001), (32, 64, 128), (0, 1)):
        gone = (rate, batch) in {(0.001, 32), (0.001, 128), (0.1, 128)}
        if not gone and (rate, batch, seed) != (0.1, 32, 1):
            script.run({"lr": rate, "batch": batch, "seed": seed})
    return script.name


def most_tables() -> str:
    """Two levels of four axes: a star with one seed, and far from it a pair with three."""
    script = Script("most tables")
    names = ("lr", "batch", "width", "depth")
    star = [(1, 1, 1, 1), (2, 1, 1, 1), (1, 2, 1, 1), (1, 1, 2, 1), (1, 1, 1, 2)]
    pair = [(1, 2, 2, 2), (2, 2, 2, 2)]
    for levels, seed in [*((cell, 0) for cell in star), *itertools.product(pair, (0, 1, 2))]:
        script.run({**dict(zip(names, levels, strict=True)), "seed": seed})
    return script.name


def random_search() -> str:
    """16 runs without a seed; one number of units came up twice."""
    script = Script("random search")
    draw = random.Random(0)
    units = draw.sample(range(16, 512), 15)
    for hidden in [*units, units[0]]:
        rate, dropout = 10 ** draw.uniform(-4, -1), draw.uniform(0, 0.5)
        script.run({"lr": rate, "dropout": dropout, "hidden": hidden, "epochs": 5})
    return script.name


def random_search_repeated() -> str:
    """Five drawn configurations, three seeds each."""
    draw = random.Random(1)
    cells = [
        {"lr": 10 ** draw.uniform(-4, -1), "dropout": draw.uniform(0, 0.5), "epochs": 5}
        for _ in range(5)
    ]
    return _seeds(Script("random search repeated"), cells, (0, 1, 2))


def conditional() -> str:
    """Momentum is logged for sgd alone."""
    cells = [
        {"optimizer": "sgd", "lr": 0.1, "momentum": 0.9},
        {"optimizer": "sgd", "lr": 0.05, "momentum": 0.9},
        {"optimizer": "sgd", "lr": 0.1, "momentum": 0.0},
        {"optimizer": "adam", "lr": 0.1},
    ]
    return _seeds(Script("conditional"), cells, (0, 1))


def not_set() -> str:
    """``augment`` is logged only when it is used, whatever the other params are."""
    cells = [{"lr": 0.1, "augment": "flip"}, {"lr": 0.1}, {"lr": 0.01, "augment": "flip"}]
    return _seeds(Script("not set"), cells, (0, 1))


def derived() -> str:
    """Params that say the same twice: a copy, a function of one axis, a name, a label of the run."""
    script = Script("derived")
    for rate, batch, seed in [
        (rate, batch, seed)
        for rate, batch in [(0.1, 32), (0.01, 32), (0.001, 32), (0.1, 64)]
        for seed in (0, 1)
    ]:
        script.run(
            {
                "lr": rate,
                "batch": batch,
                "seed": seed,
                "optimizer.lr": rate,
                "warmup": 10 if rate == 0.001 else 5,
                "variant": f"sgd-lr{rate}-b{batch}",
                "label": f"sgd-lr{rate}-b{batch}-s{seed}",
            }
        )
    return script.name


def mixed_levels() -> str:
    """Numbers and words as levels of one axis, as scikit-learn's arguments have them."""
    default = {"max_depth": 10, "max_features": "sqrt"}
    changes = [{}, {"max_depth": None}, {"max_depth": 5}, {"max_features": 0.5}]
    cells = [{**default, **change} for change in [*changes, {"max_features": "log2"}]]
    return _seeds(Script("mixed levels"), cells, (0, 1))


def folds() -> str:
    """Each run has its cross-validation folds nested below it, with results of their own."""
    script = Script("folds")
    for rate, seed in itertools.product((0.1, 0.01, 0.001), (0, 1)):
        parent = script.run({"lr": rate, "seed": seed})
        for fold in (0, 1):
            script.run({"fold": fold}, {"accuracy": 0.5 + 0.49 * fold}, parent=parent)
    return script.name


# ---- values


HOSTILE = ("'; DROP TABLE runs; --", '<script>alert("x")</script>', "zeile\nzwei 🎲")


def hostile() -> str:
    """Names and values that a page must escape; runs that failed, were killed or go on; a deleted run;
    metrics that are no numbers."""
    script = Script('<img src=x onerror="alert(1)"> & "größe" 🎲')
    cells = [(1, HOSTILE[1]), (2, HOSTILE[1]), (10, HOSTILE[1]), (1, HOSTILE[0]), (1, HOSTILE[2])]
    special = {1: math.nan, 4: math.inf, 6: -math.inf}
    for i, ((size, augment), seed) in enumerate(itertools.product(cells, (0, 1))):
        script.run(
            {
                "größe": size,
                "学习率 augment": augment,
                "seed": seed,
                "description": f"{i}: " + "<b>&amp;</b>" * 400,
                "empty": "",
            },
            {"genauigkeit/größe": special.get(i, number("hostile", i)), "epoch": 3},
            tags={"script": "</script><b>", "größe 学习率": "<!--"},
            name=f"<script>alert({i})</script>",
        )
    other = {"größe": 99, "学习率 augment": "none", "seed": 0}
    wild = {"genauigkeit/größe": 7.0}
    for status in ("FAILED", "FAILED", "KILLED", None):
        script.run(other, wild, status=status)
    script.client.delete_run(script.run(other, wild))
    return script.name


def types() -> str:
    """One level in the spellings of Python, JSON and the command line; the seed likewise."""
    script = Script("types")
    spelt: Sequence[Callable[[Any], Any]] = (int, float, lambda v: f"{v}")
    flags = {True: (True, "true", "True"), False: (False, "false", "False")}
    for depth, bias in ((1, True), (2, True), (1, False)):
        for seed, spell in enumerate(spelt):
            decay = ("0.0001", "1e-4", "1E-04")[seed]
            flag = flags[bias][seed]
            script.run({"depth": spell(depth), "bias": flag, "decay": decay, "seed": spell(seed)})
    return script.name


def many_params() -> str:
    """2,002 params on each of four runs: constants, copies of the learning rate, texts of each run."""
    script = Script("many params")
    for rate, seed in itertools.product((0.1, 0.01), (0, 1)):
        names = {f"zero/{i}": "0" for i in range(1400)}
        names |= {f"schedule/{i}": str(rate * (i + 1)) for i in range(300)}
        names |= {f"text/{i}": f"run {rate} {seed} of {i}" for i in range(300)}
        script.run({"lr": rate, "seed": seed, **names})
    return script.name


def one_run() -> str:
    """A single run that finished, beside one that failed."""
    script = Script("one run")
    script.run({"lr": 0.1, "seed": 0})
    script.run({"lr": 0.01, "seed": 0}, status="FAILED")
    return script.name


def nothing_varies() -> str:
    """Three runs that say the same, without a seed."""
    script = Script("nothing varies")
    for _ in range(3):
        script.run({"lr": 0.1, "epochs": 5})
    return script.name
