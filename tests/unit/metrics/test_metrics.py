import numpy as np
import pytest

from frostline.config import compose_run
from frostline.errors import SpecError, UserError
from frostline.metrics import METRICS, ComputeMetrics, check
from frostline.spec import TASKS, Direction

# Six rows, classes 0 0 0 1 1 1, of which one 0 and two 1s are predicted wrongly.
LOGITS = np.array([[2, 0], [1, 0], [0, 1], [3, 1], [1, 0], [0, 2]], dtype=np.float32)
LABELS = np.array([0, 0, 0, 1, 1, 1])


def test_classification_metrics_by_hand():
    names = [name for name in METRICS if METRICS.get(name).task == "classification"]
    values = ComputeMetrics(names, TASKS.get("classification"), 2)(LOGITS, LABELS)
    assert values["accuracy"] == pytest.approx(3 / 6)
    assert values["balanced_accuracy"] == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert values["precision"] == pytest.approx(1 / 2)
    assert values["recall"] == pytest.approx(1 / 3)
    assert values["f1"] == pytest.approx(2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3))
    f1_of_0 = 2 * (1 / 2) * (2 / 3) / (1 / 2 + 2 / 3)
    assert values["f1_macro"] == pytest.approx((values["f1"] + f1_of_0) / 2)
    assert values["precision_macro"] == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert values["recall_macro"] == pytest.approx((2 / 3 + 1 / 3) / 2)
    # TP 1, TN 2, FP 1, FN 2
    assert values["matthews_correlation"] == pytest.approx((1 * 2 - 1 * 2) / np.sqrt(2 * 3 * 3 * 4))
    # P(class 1) by margin: -2 -1 1 | -2 -1 2: of the 9 pairs 4 are right and 2 are ties
    assert values["roc_auc"] == pytest.approx((4 + 2 / 2) / 9)
    assert set(values) == set(names)


def test_regression_metrics_by_hand():
    values = ComputeMetrics(["mse", "mae", "pearson", "spearman"], TASKS.get("regression"), 1)(
        np.array([[1.0], [2.0], [4.0]]), np.array([1.0, 3.0, 3.5])
    )
    assert values["mse"] == pytest.approx((0 + 1 + 0.25) / 3)
    assert values["mae"] == pytest.approx((0 + 1 + 0.5) / 3)
    assert values["pearson"] == pytest.approx(np.corrcoef([1, 2, 4], [1, 3, 3.5])[0, 1])
    assert values["spearman"] == pytest.approx(1.0)


def test_many_classes():
    logits, labels = np.eye(3)[[0, 1, 2, 1]] * 5, np.array([0, 1, 2, 2])
    values = ComputeMetrics(["accuracy", "f1_macro", "roc_auc"], TASKS.get("classification"), 3)(logits, labels)
    assert values["accuracy"] == 0.75
    assert 0.8 < values["roc_auc"] < 1
    with pytest.raises(SpecError, match="f1 is for two classes, here are 3: take f1_macro"):
        ComputeMetrics(["f1"], TASKS.get("classification"), 3)


def test_what_is_undefined_is_nan_not_a_number():
    one_class = ComputeMetrics(["roc_auc"], TASKS.get("classification"), 2)(LOGITS, np.zeros(6, dtype=int))
    assert np.isnan(one_class["roc_auc"])
    constant = ComputeMetrics(["pearson", "spearman"], TASKS.get("regression"), 1)(np.ones((4, 1)), np.arange(4.0))
    assert np.isnan(constant["pearson"])
    assert np.isnan(constant["spearman"])


def test_they_compose_with_evaluate():
    import evaluate

    combined = evaluate.combine([METRICS.get("accuracy").load(), METRICS.get("f1").load()])
    assert set(combined.compute(predictions=[0, 1], references=[0, 1])) == {"accuracy", "f1"}


def test_a_users_metric_script_by_path(tmp_path):
    script = tmp_path / "always_half.py"
    script.write_text(
        "import datasets\n"
        "import evaluate\n"
        "class AlwaysHalf(evaluate.Metric):\n"
        "    def _info(self):\n"
        "        i = datasets.Value('int64')\n"
        "        f = datasets.Features({'predictions': i, 'references': i})\n"
        "        return evaluate.MetricInfo(description='', citation='', features=f)\n"
        "    def _compute(self, predictions, references):\n"
        "        return {'half': 0.5, 'rows': len(predictions)}\n"
    )
    values = ComputeMetrics([str(script), "accuracy"], TASKS.get("classification"), 2)(LOGITS, LABELS)
    assert values == {"half": 0.5, "rows": 6.0, "accuracy": 0.5}


def test_an_unknown_metric_gets_one_line():
    with pytest.raises(
        UserError, match=r"'acuracy' is not known \(did you mean 'accuracy'\?\).*known: accuracy,"
    ) as error:
        ComputeMetrics(["acuracy"], TASKS.get("classification"), 2)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["training.direction=minimize"], r"direction=minimize contradicts training.objective=accuracy"),
        (["training.objective=loss"], r"direction=maximize contradicts training.objective=loss"),
        (["training.objective=f1"], r"objective=f1: is not computed.*training.metrics gives accuracy,"),
        (["training.metrics=[mse]"], r"mse is not for classification; for it there are accuracy,"),
        (["training=regression"], r"mse is not for classification"),
    ],
)
def test_objective_and_direction_are_checked_without_loading(overrides, message):
    with pytest.raises(SpecError, match=message):
        check(compose_run(overrides).training, TASKS.get("classification"))


def test_every_metric_has_the_right_direction():
    assert {name for name in METRICS if METRICS.get(name).direction is Direction.MINIMIZE} == {
        "mse",
        "mae",
        "hamming_loss",
        "perplexity",
    }
