"""What a sweep says: the best at each depth, the recommendation in words, the files of the report."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace

import pytest

from frostline.point import Outcome, Point, State
from frostline.report import Material, answer_of, make_console, print_answer, write_report
from frostline.report.answer import pareto
from frostline.spec import CostName


def point(number, depth, quality, lr=1e-4, state=State.COMPLETE, train_s=10.0, seeds=None, rows=2500.0, **more):
    by_seed = seeds or ({} if quality is None else {0: quality})
    cost = {"train_s": train_s, "num_trainable": 1e6 * (7 - depth), "eval_rows": rows}
    outcome = Outcome(
        state=state, by_seed=by_seed, cost=cost, reason=more.pop("reason", None), more=more.pop("more", False)
    )
    params = {"freeze.depth": depth, "optimizer.lr": lr, **more}
    return Point(number=number, params=params, state=state, outcome=outcome)


def say(points, **kwargs):
    return answer_of(points, kwargs.pop("metric", "accuracy"), maximize=kwargs.pop("maximize", True), num_blocks=6)


def test_without_predictions_the_deepest_depth_within_one_standard_error_of_the_best_is_recommended():
    points = [point(0, 0, 0.856, train_s=21.0), point(1, 4, 0.853, lr=1.1e-4), point(2, 5, 0.80), point(3, 6, 0.72)]
    answer = say(points)
    assert answer.best.number == 0
    assert answer.recommended.depth == 4
    error = 1.96 * math.sqrt(0.853 * 0.147 / 2500)  # half the 95 % interval; Wilson's is as wide to three digits
    assert answer.text == (
        f"freeze 4 of 6 blocks, lr 1.1e-04: accuracy 0.853 +- {error:.3f}; "
        "training all 6 blocks gains 0.3 points for 2.1x the time"
    )
    assert "one standard error of the best" in answer.how


def test_depths_of_two_models_are_not_compared():
    points = [
        point(0, 8, 0.90, train_s=100.0, model="big"), point(1, 0, 0.88, train_s=300.0, model="big"),
        point(2, 6, 0.91, train_s=8.0, model="small"), point(3, 0, 0.912, train_s=20.0, model="small"),
    ]  # fmt: skip
    answer = answer_of(points, "accuracy", maximize=True, num_blocks=None)
    assert [(row.group, row.depth) for row in answer.rows] == [("big", 0), ("big", 8), ("small", 0), ("small", 6)]
    assert (answer.recommended.group, answer.recommended.depth) == ("small", 6)
    assert "2.5x the time" in answer.text


def test_a_learning_curve_compares_depths_of_one_size(tmp_path):
    sizes = {"dataset.train_rows": 100}, {"dataset.train_rows": 1000}, {"dataset.train_rows": 500}
    points = [
        point(3 * index + depth // 3, depth, 0.6 + size["dataset.train_rows"] / 1e4 + depth / 1e3, **size)
        for index, size in enumerate(sizes)
        for depth in (0, 3, 6)
    ]
    answer = say(points)
    assert [(row.group, row.depth) for row in answer.rows] == [
        (f"{rows} rows", depth) for rows in (100, 500, 1000) for depth in (0, 3, 6)
    ]
    assert (answer.recommended.group, answer.recommended.depth) == ("1000 rows", 6)
    material = Material(
        name="curve", points=points, answer=answer, importances={}, cost=CostName.TRAIN_S, base={}, command="",
        status="9 points",
    )  # fmt: skip
    assert "learning_curve.png" in {path.name for path in write_report(material, tmp_path)}
    one_size = say(points[:3])
    files = {path.name for path in write_report(replace(material, points=points[:3], answer=one_size), tmp_path / "1")}
    assert "learning_curve.png" not in files


def evidence_of(count, missing=()):
    """Rows of one seed, of which as many are right as each point says: the first ones."""
    import numpy as np

    from frostline.report import Evidence, RowScores

    def find(point, name):
        hits = np.arange(count) < round(point.quality * count)
        scores = RowScores(labels=np.zeros(count), predicted=np.where(hits, 0, 1), losses=np.zeros(count))
        return Evidence(by_seed=point.outcome.by_seed, rows={} if point.depth in missing else {0: scores})

    return find


def test_a_depth_whose_predictions_are_elsewhere_is_judged_by_the_standard_error_and_named():
    points = [point(0, 0, 0.90), point(1, 2, 0.89), point(2, 4, 0.895), point(3, 6, 0.70)]
    everything = answer_of(points, "accuracy", maximize=True, num_blocks=6, evidence=evidence_of(200))
    assert everything.recommended.depth == 4
    assert everything.rows[3].against_best.is_worse
    some = answer_of(points, "accuracy", maximize=True, num_blocks=6, evidence=evidence_of(200, missing=(4, 6)))
    assert some.recommended.depth == 4  # within 0.006 of the best
    assert "not tested, and taken if within one standard error of the best" in some.how
    assert some.how.endswith("depth 4, 6")


def test_two_seeds_that_both_lose_are_no_reason_to_recommend():
    points = [point(0, 0, None, seeds={0: 0.90, 1: 0.92}), point(1, 6, None, seeds={0: 0.60, 1: 0.62})]
    answer = say(points)
    assert answer.recommended.depth == 0
    points = [point(0, 0, None, seeds={0: 0.90, 1: 0.92}), point(1, 6, None, seeds={0: 0.905, 1: 0.91})]
    assert say(points).recommended.depth == 6


def test_without_a_known_error_the_best_is_taken():
    answer = say([point(0, 0, 0.9, rows=None), point(1, 4, 0.89, rows=None)], metric="f1_macro")
    assert answer.recommended.depth == 0
    assert "not known" in answer.how


def test_seeds_give_the_interval_and_the_test():
    seeds = {0: 0.90, 1: 0.92, 2: 0.91}
    points = [
        point(0, 0, None, seeds=seeds),
        point(1, 3, None, seeds={0: 0.89, 1: 0.915, 2: 0.91}),
        point(2, 6, None, seeds={0: 0.80, 1: 0.83, 2: 0.81}),
    ]
    answer = say(points)
    assert answer.rows[0].error == pytest.approx(4.302653 * 0.01 / math.sqrt(3), rel=1e-6)  # t of 2 degrees of freedom
    assert answer.rows[0].error_kind == "3 seeds"
    assert answer.rows[0].against_best is None
    near, far = answer.rows[1].against_best, answer.rows[2].against_best
    assert near.loss == pytest.approx(0.005)
    assert not near.is_worse
    assert far.is_worse
    assert far.loss == pytest.approx(0.29 / 3)
    assert answer.recommended.depth == 3
    assert "not significantly worse" in answer.how
    assert "0.5 points worse" in answer.how


def test_less_can_be_better():
    points = [point(0, 0, 0.40), point(1, 3, 0.35), point(2, 6, 0.90)]
    answer = say(points, metric="loss", maximize=False)
    assert answer.best.number == 1
    assert answer.recommended.depth == 3
    assert "loses 0.05" in answer.text
    assert "not known" in answer.how


def test_what_stopped_early_counts_only_where_nothing_finished():
    points = [point(0, 0, 0.8), point(1, 0, 0.95, state=State.PRUNED), point(2, 3, 0.99, state=State.PRUNED, more=True)]
    answer = say(points)
    assert [(row.depth, row.quality, row.finished) for row in answer.rows] == [(0, 0.8, True), (3, 0.99, False)]
    assert answer.recommended.depth == 0


def test_failed_and_nan_points_are_never_the_best():
    points = [point(0, 0, 0.5), point(1, 1, math.nan), point(2, 2, None, state=State.FAILED, reason="x")]
    assert say(points).best.number == 0


def test_no_depth_and_no_points():
    lone = Point(
        number=0,
        params={"optimizer.lr": 3e-4},
        state=State.COMPLETE,
        outcome=Outcome(state=State.COMPLETE, by_seed={0: 0.7}),
    )
    assert say([lone]).text == "optimizer.lr=3e-04: accuracy 0.7"
    assert say([]).text == "no point was trained to its end"


def test_the_pareto_front():
    points = [
        point(0, 0, 0.9, train_s=30),
        point(1, 3, 0.88, train_s=12),
        point(2, 4, 0.80, train_s=14),
        point(3, 6, 0.7, train_s=5),
    ]
    assert [p.number for p in pareto(points, CostName.TRAIN_S, maximize=True)] == [3, 1, 0]


def test_the_report_is_one_page_with_everything_in_it_and_nothing_in_it_runs(tmp_path):
    points = [point(n, n % 4, 0.7 + n / 100, lr=1e-5 * 3**n) for n in range(8)]
    points.append(point(8, 1, 0.5, state=State.FAILED, reason="=cmd() <script>alert(1)</script>"))
    points.append(point(9, 2, 0.6, state=State.PRUNED, more=True))
    answer = say(points)
    material = Material(
        name="<b>x</b>", points=points, answer=answer, importances={"optimizer.lr": 0.7, "freeze.depth": 0.3},
        cost=CostName.TRAIN_S, base={"seed": 0, "model.name": "<script>"}, command="frostline run <x>",
        status="10 points",
    )  # fmt: skip
    paths = write_report(material, tmp_path)
    assert {path.name for path in paths} == {
        "report.html", "points.csv", "by_depth.png", "lr_x_depth.png", "quality_vs_cost.png", "history.png",
        "importances.png",
    }  # fmt: skip
    page = paths[0].read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert page.count("data:image/png;base64,") == 5
    rows = list(csv.DictReader(io.StringIO(paths[1].read_text(encoding="utf-8"))))
    assert len(rows) == 10
    assert rows[8]["reason"].startswith("'=cmd()")
    assert float(rows[3]["accuracy"]) == points[3].quality
    for path in paths[2:]:
        assert path.read_bytes().startswith(b"\x89PNG")
    first = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in write_report(material, tmp_path)] == first


def test_the_terminal_says_the_same(capsys):
    print_answer(say([point(0, 0, 0.86), point(1, 4, 0.85)]), make_console())
    out = capsys.readouterr().out
    assert "<- recommended" in out
    assert "recommended: freeze" in out
    assert "half the 95 % interval, of 2500 held-out rows" in out


def test_a_point_survives_its_file():
    one = point(3, 2, 0.7, reason="why", more=True)
    assert Point.from_json(one.to_json()) == one
    assert one.label() == "d2 lr1e-04"


def test_what_the_cache_saved_is_added_up_once_for_each_point():
    from frostline.report.answer import saved_words

    plain, shallow = point(0, 0, 0.85), point(1, 4, 0.85)
    assert saved_words([plain, shallow]) == ""
    cost = {**shallow.outcome.cost, "fill_s": 12.34, "saved_s": 240.6}
    cached = replace(shallow, outcome=replace(shallow.outcome, cost=cost))
    copy = replace(cached, number=2, copy_of=1)  # takes its twin's outcome over
    assert saved_words([plain, cached, copy]) == (
        "1 of 2 points began at their frozen depth: 12.3 s to compute hidden states once, 241 s of passes through "
        "frozen blocks not run again"
    )
