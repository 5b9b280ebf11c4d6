"""Planning (every error before any training), keys, and what evaluate owns."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from evaluation_digits import Tally, digits, first, make_split, trained_net
from fairlearn.metrics import MetricFrame
from sklearn.metrics import accuracy_score
from torch import Tensor, nn

from mm_mlflow.design import DatasetSpec, InterventionSpec
from mm_mlflow.errors import InvalidInput
from mm_mlflow.evaluation import (
    Accuracy,
    GroupAccuracy,
    InputPerturbation,
    OODAccuracy,
    OutputPerturbation,
    Task,
    evaluate,
    metric_records,
    plan,
    recompute,
)
from mm_mlflow.evaluation.base import LogitsIntervention, slug
from mm_mlflow.split import Split


def no_dataset(spec: DatasetSpec) -> Mapping[str, Split]:
    """No other dataset is opened."""
    raise AssertionError(spec)


def planned(*specs: str | dict[str, Any], **splits: Split) -> tuple[Task, ...]:
    """Plan on the digits' test split, or on the splits given."""
    return plan(
        [InterventionSpec.model_validate(spec) for spec in specs],
        splits or {"test": digits()[1]},
        no_dataset,
    )


def keys(*specs: str | dict[str, Any], **splits: Split) -> list[str]:
    """The keys that specs give."""
    return [task.key for task in planned(*specs, **splits)]


# ---- keys and lists ----


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("accuracy", ["accuracy"]),
        ({"name": "accuracy", "examples": 500}, ["accuracy/examples-500"]),
        ({"name": "accuracy", "split": "train"}, ["accuracy/split-train"]),
        (
            {"name": "output_perturbation", "lambda": [3, 5.0, 0.25]},
            [f"output_perturbation_accuracy/lambda-{v}" for v in ("3", "5", "0.25")],
        ),
        (
            {"name": "input_perturbation", "lambda": 1, "noise_seed": [0, 3]},
            [
                "input_perturbation_accuracy/lambda-1",
                "input_perturbation_accuracy/lambda-1.noise_seed-3",
            ],
        ),
        ({"name": "pgd", "delta": "5e-3"}, ["pgd_accuracy/delta-0.005"]),
        (
            {"name": "pgd", "delta": [0.005, 0.01], "steps": 40, "examples": 500, "split": "train"},
            [
                "pgd_accuracy/delta-0.005.steps-40.examples-500.split-train",
                "pgd_accuracy/delta-0.01.steps-40.examples-500.split-train",
            ],
        ),
        (
            {"name": "output_perturbation", "lambda": 1e6},
            ["output_perturbation_accuracy/lambda-1e06"],
        ),
        ({"name": "ood_accuracy", "split": "train"}, ["ood_accuracy/train"]),
        (
            {
                "name": "group_accuracy",
                "groups": [{"race": "Asian"}, {"race": "Asian", "age": "59-116"}],
            },
            ["group_accuracy/race-asian", "group_accuracy/race-asian.age-59_116"],
        ),
        (
            {"name": "group_accuracy", "by": ["race", ["race", "age"]], "examples": 600},
            [f"group_accuracy/race-{race}.examples-600" for race in ("asian", "white")]
            + [
                f"group_accuracy/race-{race}.age-{age}.examples-600"
                for race in ("asian", "white")
                for age in ("0_20", "21_58", "59_116")
            ],
        ),
    ],
)
def test_keys(spec: Any, expected: list[str]) -> None:
    """The key names strengths, and all that differs from the default, in DESIGN's spelling."""
    train, test = digits()
    assert keys(spec, test=test, train=train) == expected
    assert all(set("=@(),<&+").isdisjoint(key) for key in expected)


def test_objects_name_themselves() -> None:
    """Interventions made in Python print as themselves and know their key."""
    for made, text, key in [
        (Accuracy(), "Accuracy()", "accuracy"),
        (OODAccuracy(source="FairFace"), "OODAccuracy(source='FairFace')", "ood_accuracy/fairface"),
        (OutputPerturbation(lam=5), "OutputPerturbation(lam=5)", "output_perturbation_accuracy/lambda-5"),
        (InputPerturbation(lam=1), "InputPerturbation(lam=1)", "input_perturbation_accuracy/lambda-1"),
        (GroupAccuracy(group={"a": "B"}), "GroupAccuracy(group={'a': 'B'})", "group_accuracy/a-b"),
    ]:  # fmt: skip
        assert repr(made) == text
        assert made.key == key
        assert type(made).from_parameters(made.parameters()) == made


def test_another_dataset_is_named_and_normalised_as_the_design() -> None:
    """OOD data get their dataset's name, and the statistics of the design's training data."""
    train, test = digits()
    other = replace(first(test, 100), mean=(9.0,), std=(9.0,))

    def opened(spec: DatasetSpec) -> Mapping[str, Split]:
        assert spec.name == "FairFace"
        return {"test": other, "val": replace(other, name="val", digest="v")}

    specs = [
        InterventionSpec.model_validate(spec)
        for spec in (
            "accuracy",
            {"name": "ood_accuracy", "dataset": {"name": "FairFace"}},
            {"name": "ood_accuracy", "dataset": {"name": "FairFace"}, "split": "val"},
            {"name": "pgd", "delta": 0, "dataset": {"name": "FairFace"}},
        )
    ]
    tasks = plan(specs, {"train": train, "test": test}, opened)
    assert [task.key for task in tasks] == [
        "accuracy",
        "ood_accuracy/fairface",
        "ood_accuracy/fairface_val",
        "pgd_accuracy/delta-0.split-fairface",
    ]
    assert tasks[1].split.std == train.std
    assert tasks[1].parameters["dataset"] == {"name": "FairFace"}
    found = evaluate(trained_net(), tasks)
    assert {name: len(z) for name, z in found.logits.items()} == {
        "test": len(test),
        "FairFace": 100,
        "FairFace/val": 100,
    }
    clean = found.outcomes["accuracy"][:100]
    assert np.array_equal(found.outcomes["ood_accuracy/fairface"], clean)


def test_planning_imports_no_torch() -> None:
    """All of planning, and its errors, work where torch cannot be imported."""
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from mm_mlflow import registry\n"
        "from mm_mlflow.evaluation import GROUP, INTERVENTIONS, PGD, plan, metric_records\n"
        "print(*[registry.resolve('i', n, INTERVENTIONS, GROUP).name for n in INTERVENTIONS])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [
        "accuracy",
        "group_accuracy",
        "ood_accuracy",
        "output_perturbation",
        "input_perturbation",
        "pgd",
        "worst_group_accuracy",
        "group_accuracy_gap",
        "true_positive_rate_gap",
        "false_positive_rate_gap",
        "corruption",
    ]


# ---- bad input ----

LONG = {f"attribute_number_{i}": "x" * 30 for i in range(6)}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("pdg", r"unknown intervention 'pdg'; did you mean 'pgd'\?"),
        ({"name": "pgd", "detla": 0.1}, r"unknown parameter of pgd 'detla'; did you mean 'delta'\?"),
        ({"name": "pgd"}, "pgd needs delta"),
        ({"name": "pgd", "delta": []}, "delta of pgd is an empty list"),
        ({"name": "pgd", "delta": -0.1}, r"delta -0.1 is not allowed: a finite number from 0 to 1"),
        ({"name": "pgd", "delta": 1.5}, "delta 1.5 is not allowed"),
        ({"name": "pgd", "delta": [0.1, float("nan")]}, "delta of pgd: nan is not allowed"),
        ({"name": "pgd", "delta": True}, "delta True is not allowed"),
        ({"name": "pgd", "delta": "much"}, "delta 'much' is not allowed"),
        ({"name": "pgd", "delta": {"a": 1}}, "a single value is needed"),
        ({"name": "pgd", "delta": None}, "delta None is not allowed"),
        ({"name": "pgd", "delta": 0.1, "steps": 0}, "steps 0 is not allowed: a whole number of at"),
        ({"name": "pgd", "delta": 0.1, "steps": 2.5}, "steps 2.5 is not allowed"),
        ({"name": "pgd", "delta": 0.1, "step_size": 0}, "step_size 0 is not allowed"),
        ({"name": "pgd", "delta": 0.1, "until": "first"}, "until 'first' is not allowed: any or last"),
        ({"name": "pgd", "delta": [0.1, 0.10000000001]}, "have one metric key, 'pgd_accuracy/delta-0.1'"),
        ({"name": "output_perturbation", "lambda": -1}, "lambda -1 is not allowed"),
        ({"name": "output_perturbation", "lam": 1}, "unknown parameter of output_perturbation 'lam'"),
        ({"name": "output_perturbation", "lambda": float("inf")}, "inf is not allowed"),
        ({"name": "input_perturbation", "lambda": -1}, "lambda -1 is not allowed"),
        ({"name": "input_perturbation", "lambda": 1, "noise_seed": -1}, "noise_seed -1 is not allowed"),
        ({"name": "accuracy", "split": "tset"}, r"unknown split for accuracy 'tset'; did you mean 'test'"),
        ({"name": "accuracy", "examples": 10_000}, "examples 10000 is not allowed: 1 to 897"),
        ({"name": "accuracy", "steps": 3}, "unknown parameter of accuracy 'steps'"),
        ({"name": "ood_accuracy"}, "name another split or a dataset"),
        ({"name": "group_accuracy"}, "needs groups or by: known attributes .* are race, age"),
        ({"name": "group_accuracy", "by": "rcae"}, r"unknown group attribute .* did you mean 'race'\?"),
        ({"name": "group_accuracy", "groups": [{"rcae": "Asian"}]}, "did you mean 'race'"),
        ({"name": "group_accuracy", "groups": [{"race": "asian"}]}, "did you mean 'Asian'"),
        ({"name": "group_accuracy", "groups": ["Asian"]}, "a mapping from attributes to values"),
        ({"name": "group_accuracy", "groups": [{}]}, "a mapping from attributes to values"),
        ({"name": "group_accuracy", "group": {"race": "Asian"}}, "unknown parameter .* 'group'"),
        ({"name": "group_accuracy", "groups": 5}, "groups 5 is not allowed: a list of mappings"),
        ({"name": "group_accuracy", "by": 5}, "by 5 is not allowed: a list of attributes"),
        ({"name": "group_accuracy", "by": [5]}, "unknown group attribute"),
        ({"name": "group_accuracy", "by": [[]]}, r"by \[\[\]\] is not allowed"),
        (
            {
                "name": "group_accuracy",
                "groups": [{"race": "Asian", "age": "0-20"}, {"age": "0-20", "race": "Asian"}],
            },
            "are one group",
        ),
        ({"name": "group_accuracy", "groups": [LONG]}, "has 3.. characters: at most 240"),
    ],
)  # fmt: skip
def test_bad_input(spec: Any, message: str) -> None:
    """Each is refused while planning, in one line that names the value and what is allowed."""
    with pytest.raises(InvalidInput, match=message) as error:
        planned(spec)
    assert "\n" not in str(error.value)


def grouped(**groups: list[str]) -> Split:
    """Four examples with the groups given."""
    split = make_split(np.zeros((4, 1, 8, 8), dtype=np.float32) + 0.5, np.arange(4))
    return replace(split, groups={name: np.array(values) for name, values in groups.items()})


def test_two_values_with_one_slug() -> None:
    """59-116 and 59_116 would be one key: refused wherever that attribute is used, and only there."""
    split = grouped(age=["59-116", "59_116", "0", "0"], race=["a", "b", "a", "b"])
    assert slug("59-116") == slug("59_116")
    for spec in ({"by": "age"}, {"groups": [{"age": "59-116"}]}, {"by": [["race", "age"]]}):
        with pytest.raises(InvalidInput, match=r"'59-116' and '59_116' of group 'age' are both"):
            planned({"name": "group_accuracy", **spec}, test=split)
    assert keys({"name": "group_accuracy", "by": "race"}, test=split) == [
        "group_accuracy/race-a",
        "group_accuracy/race-b",
    ]


def test_an_empty_intersection() -> None:
    """Values that exist but never together are refused when listed, and left out by ``by``."""
    split = grouped(race=["a", "b", "a", "b"], age=["0", "1", "0", "1"])
    with pytest.raises(InvalidInput, match="is in group race = a, age = 1"):
        planned({"name": "group_accuracy", "groups": {"race": "a", "age": "1"}}, test=split)
    assert keys({"name": "group_accuracy", "by": [["race", "age"]]}, test=split) == [
        "group_accuracy/race-a.age-0",
        "group_accuracy/race-b.age-1",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((4, 3, 8, 8), dtype=np.float32)}, r"images of shape \(3, 8, 8\)"),
        ({"class_names": tuple("1023456789")}, "classes in another order"),
        ({"labels": np.array([0, 1, 2, 10]), "class_names": tuple("abcdefghijk")}, "labels up to 10"),
        ({"digest": "one"}, "share|are called 'other' and differ"),
    ],
)  # fmt: skip
def test_data_that_do_not_fit(change: dict[str, Any], message: str) -> None:
    """Another dataset must have the design's image shape and classes; a name means one content."""
    split = grouped(race=["a", "b", "a", "b"])
    other = replace(split, **change)
    specs = [
        InterventionSpec(name="ood_accuracy", dataset=DatasetSpec(name="other")),
        InterventionSpec(name="ood_accuracy", dataset=DatasetSpec(name="other"), examples=2),
    ]
    opened = iter([other, split])
    with pytest.raises(InvalidInput, match=message):
        plan(specs, {"test": split}, lambda _: {"test": next(opened)})


# ---- records ----


def test_records_say_everything_in_json() -> None:
    """Each record names the intervention, all parameters, data and n, and survives JSON."""
    tasks = planned(
        {"name": "pgd", "delta": 0.01, "examples": 500},
        {"name": "group_accuracy", "groups": [{"race": "Asian"}]},
    )
    pgd, group = json.loads(json.dumps(metric_records(tasks))).values()
    assert pgd["parameters"] == {
        "delta": 0.01,
        "steps": 20,
        "step_size": None,
        "until": "any",
        "split": "test",
        "examples": 500,
        "dataset": None,
    }
    assert pgd["intervention"] == "pgd"
    assert (pgd["version"], pgd["n"], pgd["unit"], pgd["higher_is_better"]) == (
        2,
        500,
        "fraction",
        True,
    )
    assert pgd["split_digest"] == digits()[1].digest
    assert pgd["stored"]
    assert group["group"] == {"race": "Asian"}
    assert group["n"] == int((digits()[1].groups["race"] == "Asian").sum())
    assert not group["stored"]
    assert group["description"].endswith(".")


def test_values_are_recomputed_to_the_bit() -> None:
    """From stored float32 logits and metrics.json alone, the logged value comes out equal."""
    tasks = planned(
        "accuracy",
        {"name": "group_accuracy", "by": ["race", ["race", "age"]]},
        {"name": "output_perturbation", "lambda": [0, 0.3, 3, 50], "examples": 333},
    )
    found = evaluate(trained_net(), tasks)
    records = json.loads(json.dumps(metric_records(tasks)))
    for task in tasks:
        logits = found.logits["test"][task.indices]
        again = recompute(records[task.key], logits, task.split.labels[task.indices])
        assert float(np.mean(again)) == found.values[task.key]
        assert np.array_equal(again, found.outcomes[task.key])


def test_what_cannot_be_recomputed_says_so() -> None:
    """A metric that needs the model, or an older version's, is refused."""
    (record,) = metric_records(planned({"name": "pgd", "delta": 0.1})).values()
    with pytest.raises(InvalidInput, match="pgd cannot be recomputed from logits"):
        recompute(record, np.zeros((1, 2)), np.array([0]))
    (record,) = metric_records(planned("accuracy")).values()
    with pytest.raises(InvalidInput, match="recorded as version 0, this is 2"):
        recompute({**record, "version": 0}, np.zeros((1, 2)), np.array([0]))


# ---- evaluate ----


def test_group_accuracy_equals_fairlearns() -> None:
    """Every group and every intersection, and its n, equal MetricFrame's."""
    split = digits()[1]
    found = evaluate(
        trained_net(), tasks := planned({"name": "group_accuracy", "by": ["race", "age", ["race", "age"]]})
    )  # fmt: skip
    predicted = found.logits["test"].argmax(axis=1)
    seen = 0
    for attributes in (["race"], ["age"], ["race", "age"]):
        frame = MetricFrame(
            metrics={"accuracy": accuracy_score, "n": lambda y, _: len(y)},
            y_true=split.labels,
            y_pred=predicted,
            sensitive_features={name: split.groups[name] for name in attributes},
        )
        for task in tasks:
            if list(task.group or {}) == attributes:
                values = tuple((task.group or {}).values())
                row = frame.by_group.loc[values if len(values) > 1 else values[0]]
                assert found.values[task.key] == pytest.approx(row["accuracy"], abs=1e-15)
                assert task.n == row["n"]
                seen += 1
    assert seen == len(tasks) == 2 + 3 + 6
    assert len(set(found.values.values())) > 5  # groups do differ


class Counting(nn.Module):
    """Counts images, and refuses batches above a limit as a full memory would."""

    def __init__(self, limit: int = 10**9, error: str = "can't allocate memory: 12 bytes") -> None:
        super().__init__()
        self.model = trained_net()
        self.limit, self.error = limit, error
        self.sizes = Tally()

    def forward(self, images: Tensor) -> Tensor:
        """Logits of a batch."""
        if len(images) > 2:  # two images only tell its structure, before folding
            self.sizes.append(len(images))
        if len(images) > self.limit:
            raise RuntimeError(self.error)
        logits: Tensor = self.model(images)
        return logits


def test_clean_logits_are_computed_once() -> None:
    """Whatever needs clean logits alone costs no further pass over the split."""
    tasks = planned(
        "accuracy",
        {"name": "output_perturbation", "lambda": [1, 2, 3]},
        {"name": "group_accuracy", "by": "race"},
    )
    model = Counting()
    evaluate(model, tasks, batch_size=300)
    assert model.sizes == [300, 300, 150, 300, 300, 297]  # the determinism check, then the split


def test_out_of_memory_halves_the_batch_and_says_so() -> None:
    """Memory that holds 70 images leads to 63; values are those of a run at 63 from the start."""
    tasks = planned("accuracy", {"name": "pgd", "delta": 0.08, "examples": 200})
    found = evaluate(Counting(limit=70), tasks, batch_size=250)
    assert found.batch_size == 63
    assert found.checks["batch_size"] == {"asked": 250, "used": 63}
    assert found.checks["failed"] == ["out of memory: batch size 63 instead of 250"]
    assert found.values == evaluate(trained_net(), tasks, batch_size=63).values


def test_other_errors_are_not_taken_for_memory() -> None:
    """Any other error, and no memory for a single image, comes through."""
    tasks = planned("accuracy")
    broken = Counting(limit=40, error="shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        evaluate(broken, tasks)
    assert broken.sizes == [64]
    with pytest.raises(RuntimeError, match="can't allocate"):
        evaluate(Counting(limit=0), tasks)


class Partly(nn.Module):
    """Logits that are NaN on images with a bright first half."""

    def __init__(self) -> None:
        super().__init__()
        self.model = trained_net()

    def forward(self, images: Tensor) -> Tensor:
        """Logits of a batch."""
        logits: Tensor = self.model(images)
        bright = images[..., :4].mean(dim=(1, 2, 3)) > 0.33
        return torch.where(bright[:, None], torch.nan, logits)


def test_a_diverged_model_is_a_result() -> None:
    """Examples whose logits are not finite are wrong under every intervention; health says so."""
    specs = ("accuracy", {"name": "output_perturbation", "lambda": 1},
             {"name": "pgd", "delta": [0, 1e-4]}, {"name": "input_perturbation", "lambda": 1e-6})  # fmt: skip
    found = evaluate(Partly(), planned(*specs))
    broken = np.isnan(found.logits["test"]).any(axis=1)
    assert 10 < broken.sum() < 800
    assert found.health == "diverged"
    assert found.checks["non_finite"] == {"test": int(broken.sum())}
    assert f"logits are not finite on {broken.sum()} of 897 test examples" in found.checks["failed"]
    for outcome in found.outcomes.values():
        assert (outcome[broken] == 0).all()
        assert outcome[~broken].mean() > 0.8
    dead = trained_net()
    with torch.no_grad():
        dead.network[-1].weight.fill_(torch.nan)
    assert set(evaluate(dead, planned(*specs)).values.values()) == {0.0}
    assert evaluate(trained_net(), planned("accuracy")).health == "ok"


class OnlyPerturbed(nn.Module):
    """Not finite on the clean images, as good as ever on any other."""

    def __init__(self, clean: Tensor) -> None:
        super().__init__()
        self.clean, self.net = clean, trained_net()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net(images)
        known = (images[:, None] == self.clean).flatten(2).all(dim=2).any(dim=1)
        return torch.where(known[:, None], torch.nan, logits)


def test_what_is_not_finite_without_intervention_is_wrong_under_every_one() -> None:
    """Even where the perturbed image alone would be classified correctly."""
    small = first(digits()[1], 50)
    specs = ({"name": "input_perturbation", "lambda": 1e-3},
             {"name": "pgd", "delta": 0.001, "until": "last"})  # fmt: skip
    model = OnlyPerturbed(small.batch(slice(None)))
    found = evaluate(model, planned(*specs, test=small))
    assert set(found.values.values()) == {0.0}


def test_a_pass_is_named_by_its_keys() -> None:
    """The id has 12 hex digits, does not depend on order, and differs with the keys."""
    small = first(digits()[1], 50)
    a, b = "accuracy", {"name": "output_perturbation", "lambda": 1}
    ids = [
        evaluate(trained_net(), planned(*specs, test=small)).id for specs in [(a, b), (b, a), (a,)]
    ]
    assert ids[0] == ids[1] != ids[2]
    assert len(ids[0]) == 12


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Flatten(start_dim=2), r"the model returns \(64, 1, 64\)"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 5)), "labels from 0 to 9 are not allowed"),
    ],
)
def test_models_that_break_the_contract(model: nn.Module, message: str) -> None:
    """A model that returns no (n, K) logits, or too few classes, is named in one line."""
    with pytest.raises(InvalidInput, match=message):
        evaluate(model, planned("accuracy"))


@dataclass(frozen=True, kw_only=True)
class Wrong(LogitsIntervention):
    """Outcomes that are none."""

    name: ClassVar[str] = "wrong"
    metric: ClassVar[str] = "wrong"

    returns: Literal["short", "nan", "two"]

    def from_logits(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        n = len(labels)
        return {"short": np.zeros(n - 1), "nan": np.full(n, np.nan), "two": np.full(n, 2.0)}[
            self.returns
        ]

    @property
    def title(self) -> str:
        return "Wrong"

    def describe(self) -> str:
        return "Wrong."


@pytest.mark.parametrize("returns", ["short", "nan", "two"])
def test_interventions_that_break_the_contract(returns: Any) -> None:
    """Outcomes of the wrong shape, NaN, or outside [0, 1] are refused, with the culprit named."""
    (task,) = planned("accuracy")
    with pytest.raises(InvalidInput, match=r"Wrong\(returns=.*\(897,\) outcomes in \[0, 1\]"):
        evaluate(trained_net(), [replace(task, intervention=Wrong(returns=returns))])


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_values_outside_the_unit_interval_are_refused(value: float) -> None:
    """What an intervention makes of its outcomes is a number in [0, 1], or the culprit is named."""

    class Odd(Accuracy):
        def value(self, outcomes: np.ndarray, split: Split, indices: np.ndarray) -> float:
            return value

    (task,) = planned("accuracy")
    with pytest.raises(InvalidInput, match=r"Odd\(\) has value .*: one in \[0, 1\] is needed"):
        evaluate(trained_net(), [replace(task, intervention=Odd())])


def test_a_batch_of_none() -> None:
    """The batch size is at least 1."""
    with pytest.raises(InvalidInput, match="batch_size 0 is not allowed"):
        evaluate(trained_net(), planned("accuracy"), batch_size=0)


# ---- input perturbation ----


def test_noise_is_the_examples_own() -> None:
    """An example meets the same noise in any split order and batch; another seed, split or id differs."""
    from mm_mlflow.evaluation.input_perturbation import noise

    one = noise(0, "test", "a", (3, 8, 8))
    assert np.array_equal(one, noise(0, "test", "a", (3, 8, 8)))
    others = [
        noise(1, "test", "a", (3, 8, 8)),
        noise(0, "x", "a", (3, 8, 8)),
        noise(0, "test", "b", (3, 8, 8)),
    ]
    assert all(not np.isclose(one, other).any() for other in others)  # fmt: skip

    split = first(digits()[1], 200)
    order = np.random.default_rng(0).permutation(200)
    shuffled = replace(
        split,
        images=split.images[order],
        labels=split.labels[order],
        example_ids=split.example_ids[order],
    )
    spec = {"name": "input_perturbation", "lambda": 0.7}
    one_way = evaluate(trained_net(), planned(spec, test=split))
    other_way = evaluate(trained_net(), planned(spec, test=shuffled), batch_size=37)
    key = "input_perturbation_accuracy/lambda-0.7"
    assert 0.3 < one_way.values[key] < 0.95
    assert np.array_equal(one_way.outcomes[key][order], other_way.outcomes[key])
    seed = evaluate(trained_net(), planned({**spec, "noise_seed": 1}, test=split))
    assert not np.array_equal(seed.outcomes[f"{key}.noise_seed-1"], one_way.outcomes[key])


def test_noise_is_exponential() -> None:
    """Its distribution is the exponential of mean 1 (Kolmogorov-Smirnov), nonnegative and finite."""
    from scipy.stats import kstest

    from mm_mlflow.evaluation.input_perturbation import noise

    draws = noise(0, "test", "a", (200, 200)).ravel()
    assert draws.min() >= 0
    assert np.isfinite(draws).all()
    assert kstest(draws, "expon").pvalue > 0.01


def test_noise_lands_on_the_normalised_image() -> None:
    """The model sees x + λ σ_c ε: recovered ε of each channel has mean 1 whatever σ_c is."""
    seen: list[Tensor] = []

    class Spy(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(images)
            return images.flatten(1)[:, :10]

    images = np.full((40, 3, 8, 8), 0.5, dtype=np.float32)
    split = replace(make_split(images, np.arange(40) % 10), std=(0.1, 0.2, 0.4))
    evaluate(Spy(), planned({"name": "input_perturbation", "lambda": 2}, test=split))
    (noisy,) = [batch for batch in seen if not (batch == 0.5).all()]
    means = (noisy - 0.5).mean(dim=(0, 2, 3)) / torch.tensor([0.2, 0.4, 0.8])
    assert means.tolist() == pytest.approx([1, 1, 1], abs=0.06)
    assert noisy.max() > 1  # not clipped
