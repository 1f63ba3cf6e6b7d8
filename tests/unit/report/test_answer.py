"""What a sweep says: the best at each depth, the recommendation in words, the files of the report."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace

import numpy as np
import pytest

from frostline.advisor import Advisor, Question
from frostline.decision import Standing
from frostline.records.predictions import Evidence, RowScores, known
from frostline.records.trial import BASELINE_NUMBER, TrialOutcome, TrialRecord, TrialState
from frostline.report import (
    ReportData,
    answer_of,
    headline,
    label,
    level_table,
    make_console,
    print_answer,
    standing_lines,
    write_report,
)
from frostline.report.pareto import pareto
from frostline.report.text import cache_line
from frostline.spec import CostName, parse_dimension


def trial(number, depth, quality, lr=1e-4, state=TrialState.COMPLETE, train_s=10.0, seeds=None, rows=2500.0, **more):
    by_seed = seeds or ({} if quality is None else {0: quality})
    cost = {"train_s": train_s, "num_trainable": 1e6 * (7 - (depth or 0)), "eval_rows": rows}
    outcome = TrialOutcome(
        state=state, by_seed=by_seed, cost=cost, reason=more.pop("reason", None), paused=more.pop("paused", False)
    )
    params = {"freeze.depth": depth, "optimizer.lr": lr, **more}
    return TrialRecord(number=number, params=params, state=state, outcome=outcome)


BOTH = ("freeze.depth", "optimizer.lr")


def advisors(metric="accuracy", maximize=True, margin=0.01, groups=(None,), find=known, keys=BOTH):
    depth = parse_dimension("freeze.depth", {"low": 0, "high": 6})[0]
    rate = parse_dimension("optimizer.lr", {"low": 1e-5, "high": 3e-3, "log": True})[0]
    question = Question(
        dimensions=tuple(each for each in (depth, rate) if each.key in keys), metric=metric, maximize=maximize,
        margin=margin, confidence=0.9, num_blocks=6, optimizer="adamw", freeze="depth",
    )  # fmt: skip
    return {group: Advisor(question=question, find=find) for group in groups}


def say(trials, metric="accuracy", maximize=True, num_blocks=6, **kwargs):
    return answer_of(trials, metric, advisors(metric, maximize, **kwargs), maximize=maximize, num_blocks=num_blocks)


def clear_cut():
    """Depths 0 to 3 are alike, deeper ones lose ten trials for each block; five seeds, many rows."""
    seeds = dict(enumerate((0.001, -0.001, 0.002, -0.002, 0.0)))
    own = [0.85, 0.851, 0.85, 0.849, 0.75, 0.65, 0.55]
    trials = [
        trial(depth, depth, None, lr=1e-4 * 10 ** (depth / 6), seeds={0: value + seeds[0]}, rows=20000.0)
        for depth, value in enumerate(own)
    ]
    return [
        replace(
            each,
            replicates={
                seed: TrialOutcome(state=TrialState.COMPLETE, by_seed={seed: own[each.depth] + gap})
                for seed, gap in seeds.items() if seed
            },
        )
        for each in trials
    ]  # fmt: skip


def test_full_fine_tuning_that_failed_is_reported_beside_the_answer():
    failed = trial(BASELINE_NUMBER, None, None, state=TrialState.FAILED, reason="it is too large")
    lines = standing_lines(say([*clear_cut(), failed], margin=0.02))
    assert lines[:-1] == standing_lines(say(clear_cut(), margin=0.02))
    assert lines[-1] == "full fine-tuning has no row: it failed (it is too large)"


def test_the_deepest_depth_within_the_margin_is_recommended_when_the_runs_settle_it():
    answer = say(clear_cut(), margin=0.02)
    assert answer.standing is Standing.SETTLED
    assert answer.recommended.depth == 3
    assert [row.state.value for row in answer.rows] == ["good"] * 4 + ["out"] * 3
    assert headline(answer).startswith("freeze 3 of 6 blocks, lr 3.16e-04: accuracy 0.8")
    assert label(answer) == "recommended"
    assert standing_lines(answer)[0].startswith("settled at 2 points: depth 3 is within 2 points of the best")


def test_one_seed_of_few_rows_settles_nothing_and_says_what_would():
    trials = [trial(n, n, 0.80 - 0.002 * n, lr=1e-4 * 10 ** (n / 6), rows=256.0) for n in range(7)]
    answer = say(trials)
    assert answer.standing is Standing.NOT_SETTLED
    assert label(answer) == "best guess"
    lines = standing_lines(answer)
    assert lines[0].startswith("not settled at 1 point: depth ")
    assert "open: " in lines[0]
    assert "further seeds can't settle it" in lines[1] or "it would take about" in lines[1]
    row = next(row for row in answer.rows if row.trial is answer.recommended)
    assert row.low < 0.80 < row.high


def test_a_depth_that_was_not_tried_is_in_the_table_as_such():
    trials = [each for each in clear_cut() if each.depth != 2]
    answer = say(trials, margin=0.02)
    assert [row.level for row in answer.rows] == [0, 1, 2, 3, 4, 5, 6]
    untried = answer.rows[2]
    assert (untried.trial, untried.seeds, untried.state.value) == (None, 0, "open")
    assert "not tried to the end: 2" in " ".join(standing_lines(answer))
    table = level_table(answer)
    assert table.lines[2][table.head.index("")] == "not tried"


def test_depths_of_two_models_are_not_compared():
    trials = [
        trial(0, 6, 0.90, train_s=100.0, model="big"), trial(1, 0, 0.88, train_s=300.0, model="big"),
        trial(2, 6, 0.91, train_s=8.0, model="small"), trial(3, 0, 0.912, train_s=20.0, model="small"),
    ]  # fmt: skip
    answer = say(trials, num_blocks=None, groups=("big", "small"))
    tried = [(row.group, row.level) for row in answer.rows if row.trial is not None]
    assert tried == [("big", 0), ("big", 6), ("small", 0), ("small", 6)]
    assert answer.main.group == "small"
    assert answer.recommended.model == "small"


@pytest.mark.slow
def test_a_learning_curve_compares_depths_of_one_size(tmp_path):
    sizes = {"dataset.train_rows": 100}, {"dataset.train_rows": 1000}, {"dataset.train_rows": 500}
    trials = [
        trial(3 * index + depth // 3, depth, 0.6 + size["dataset.train_rows"] / 1e4 + depth / 1e3, **size)
        for index, size in enumerate(sizes)
        for depth in (0, 3, 6)
    ]
    groups = tuple(f"{rows} rows" for rows in (100, 500, 1000))
    answer = say(trials, groups=groups)
    assert [(row.group, row.level) for row in answer.rows if row.trial is not None] == [
        (group, depth) for group in groups for depth in (0, 3, 6)
    ]
    assert answer.main.group == "1000 rows"
    material = ReportData(
        name="curve", trials=trials, answer=answer, cost=CostName.TRAIN_S, base={}, command="",
        status="9 trials",
    )  # fmt: skip
    assert "learning_curve.png" in {path.name for path in write_report(material, tmp_path)}
    one_size = say(trials[:3], groups=groups[:1])
    files = {path.name for path in write_report(replace(material, trials=trials[:3], answer=one_size), tmp_path / "1")}
    assert "learning_curve.png" not in files


def rows_of(hits, labels=None):
    labels = np.arange(len(hits)) % 2 if labels is None else labels
    return RowScores(labels=labels, predicted=np.where(hits, labels, 1 - labels), losses=np.zeros(len(hits)))


def test_a_run_that_says_one_class_for_all_rows_is_named_and_left_out():
    rng = np.random.default_rng(0)
    scores = {n: rows_of(rng.random(400) < 0.8) for n in range(3)}
    scores[1] = replace(scores[1], predicted=np.zeros(400, dtype=int))
    trials = [trial(n, 2 * n, float((s.predicted == s.labels).mean()), rows=400.0) for n, s in scores.items()]

    def find(each, name):
        return Evidence(by_seed=each.by_seed, rows={0: scores[each.number]})

    answer = say(trials, find=find)
    assert "1 of 3 runs learnt nothing (one answer for all rows) and are left out: 1 of depth 2" in standing_lines(
        answer
    )
    row = answer.rows[2]
    assert (row.trial, row.collapsed) == (None, 1)
    assert answer.main.fitted.constant_score == 0.5
    assert answer.learnt


def test_at_chance_it_says_that_nothing_was_learnt():
    rng = np.random.default_rng(1)
    scores = {n: rows_of(rng.random(60) < 0.5) for n in range(3)}
    trials = [trial(n, 2 * n, float((s.predicted == s.labels).mean()), rows=60.0) for n, s in scores.items()]
    answer = say(trials, find=lambda each, name: Evidence(by_seed=each.by_seed, rows={0: scores[each.number]}))
    assert answer.learnt is False
    assert headline(answer).startswith("nothing was learnt: ")


def test_one_depth_that_beats_the_constant_is_enough():
    """The best guess may be a depth that was not tried: its wide interval says nothing of what was learnt."""
    rng = np.random.default_rng(2)
    shared = rng.random(3000)
    scores = {n: rows_of(shared + 0.01 * rng.random(3000) < 0.535 - 0.01 * n) for n in range(3)}
    trials = [trial(n, 4 + n, float((s.predicted == s.labels).mean()), rows=3000.0) for n, s in scores.items()]
    answer = say(trials, find=lambda each, name: Evidence(by_seed=each.by_seed, rows={0: scores[each.number]}))
    assert not answer.main.decision.best.tried
    assert answer.main.decision.best.low < 0.5 < max(row.low for row in answer.rows if row.trial is not None)
    assert answer.learnt


def test_where_every_run_says_one_class_nothing_was_learnt():
    labels = np.arange(40) % 2
    dead = RowScores(labels=labels, predicted=np.zeros(40, dtype=int), losses=np.zeros(40))
    trials = [trial(n, n, 0.5, rows=40.0) for n in range(3)]
    answer = say(trials, find=lambda each, name: Evidence(by_seed=each.by_seed, rows={0: dead}))
    assert (answer.main, answer.learnt, label(answer)) == (None, False, "best guess")
    assert headline(answer).startswith("nothing was learnt: all 3 runs gave one answer for all rows")


def test_a_metric_that_rows_do_not_determine_is_said_of_these_rows():
    answer = say([trial(0, 0, 0.9, rows=None), trial(1, 4, 0.89, rows=None)], metric="entity_f1")
    assert any(line.startswith("of these held-out rows alone: entity_f1") for line in standing_lines(answer))


@pytest.mark.slow
def test_a_metric_that_is_no_mean_over_rows_has_a_bootstrap():
    rng = np.random.default_rng(0)
    scores = {n: rows_of(rng.random(300) < 0.8) for n in range(3)}
    trials = [trial(n, 2 * n, 0.8, rows=300.0) for n in scores]
    find = lambda each, name: Evidence(by_seed=each.by_seed, rows={0: scores[each.number]})  # noqa: E731
    answer = say(trials, metric="f1_macro", find=find)
    assert any("bootstrap" in line for line in standing_lines(answer))
    by_mean = say(trials, find=find)
    assert np.diag(answer.main.fitted.noise.rows) == pytest.approx(np.diag(by_mean.main.fitted.noise.rows), rel=0.4)


def test_less_can_be_better():
    trials = [trial(0, 0, 0.40), trial(1, 3, 0.35), trial(2, 6, 0.90)]
    answer = say(trials, metric="loss", maximize=False, margin=0.05)
    assert answer.best.number == 1
    assert answer.recommended.depth in {0, 3}
    by_level = {row.level: row for row in answer.rows}
    assert by_level[6].mean > by_level[3].mean > 0
    assert all(row.low < row.mean < row.high for row in answer.rows)


def test_what_stopped_early_is_not_compared():
    trials = [
        trial(0, 0, 0.8),
        trial(1, 0, 0.95, state=TrialState.PRUNED),
        trial(2, 3, 0.99, state=TrialState.PRUNED, paused=True),
    ]
    answer = say(trials)
    by_level = {row.level: row for row in answer.rows}
    assert (by_level[0].trial.number, by_level[0].num_trials) == (0, 2)
    assert (by_level[3].trial, by_level[3].num_trials) == (None, 1)
    assert answer.recommended.depth == 0


def test_failed_and_nan_trials_are_never_the_best():
    trials = [trial(0, 0, 0.5), trial(1, 1, math.nan), trial(2, 2, None, state=TrialState.FAILED, reason="x")]
    answer = say(trials)
    assert answer.best.number == answer.recommended.number == 0


def test_no_depth_and_no_trials():
    lone = TrialRecord(
        number=0,
        params={"optimizer.lr": 3e-4},
        state=TrialState.COMPLETE,
        outcome=TrialOutcome(state=TrialState.COMPLETE, by_seed={0: 0.7}),
    )
    answer = say([lone], keys=("optimizer.lr",))
    assert headline(answer).startswith("optimizer.lr=3e-04: accuracy 0.700 (95 %: ")
    assert (answer.standing, answer.rows, standing_lines(answer)) == (None, [], [])
    assert headline(say([])) == "no trial was trained to its end"


def test_the_pareto_front():
    trials = [
        trial(0, 0, 0.9, train_s=30),
        trial(1, 3, 0.88, train_s=12),
        trial(2, 4, 0.80, train_s=14),
        trial(3, 6, 0.7, train_s=5),
    ]
    assert [p.number for p in pareto(trials, CostName.TRAIN_S, maximize=True)] == [3, 1, 0]


def test_of_one_depth_alone_no_probability_is_shown():
    answer = say([trial(n, 6, 0.63 + n / 50, lr=1e-4 * 3**n) for n in range(3)], margin=0.2)
    assert label(answer) == "best guess"
    assert standing_lines(answer)[0] == (
        "not settled at 20 points: only depth 6 was tried to the end; more trials (sweep.n_trials) tell of the others"
    )
    table = level_table(answer)
    columns = [table.head.index("at most worse"), table.head.index("P(within 20 points)")]
    assert {line[column] for line in table.lines for column in columns} == {"-"}


def test_the_report_is_one_page_with_everything_in_it_and_nothing_in_it_runs(tmp_path):
    trials = [trial(n, n % 4, 0.7 + n / 100, lr=1e-5 * 3**n) for n in range(8)]
    trials.append(trial(8, 1, 0.5, state=TrialState.FAILED, reason="=cmd() <script>alert(1)</script>"))
    trials.append(trial(9, 2, 0.6, state=TrialState.PRUNED, paused=True))
    answer = say(trials)
    material = ReportData(
        name="<b>x</b>", trials=trials, answer=answer,
        cost=CostName.TRAIN_S, base={"seed": 0, "model.name": "<script>"}, command="frostline run <x>",
        status="10 trials",
    )  # fmt: skip
    paths = write_report(material, tmp_path)
    assert {path.name for path in paths} == {
        "report.html", "trials.csv", "answer.png", "depth.png", "rates.png", "quality_vs_cost.png", "history.png",
        "slices.png", "parallel_coordinates.png", "importances.png",
    }  # fmt: skip
    page = paths[0].read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert page.count("data:image/png;base64,") == 7
    assert 'data-text="#7 d3 lr2.19e-02: accuracy 0.7700' in page
    rows = list(csv.DictReader(io.StringIO(paths[1].read_text(encoding="utf-8"))))
    assert len(rows) == 10
    assert rows[8]["reason"].startswith("'=cmd()")
    assert float(rows[3]["accuracy"]) == trials[3].quality
    for path in paths[2:]:
        assert path.read_bytes().startswith(b"\x89PNG")
    first = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in write_report(material, tmp_path)] == first


def test_the_terminal_says_the_same(capsys):
    answer = say([trial(0, 0, 0.86), trial(1, 4, 0.85)])
    print_answer(answer, make_console())
    out = capsys.readouterr().out
    assert f"<- {label(answer)}" in out
    assert f"{label(answer)}: freeze" in out
    assert "posterior mean of all 2 runs together, with its 95 % interval" in out
    for line in standing_lines(answer):
        assert line in out


def test_a_trial_survives_its_file():
    one = trial(3, 2, 0.7, reason="why", paused=True)
    assert TrialRecord.from_json(one.to_json()) == one
    assert one.label() == "d2 lr1e-04"


def test_what_the_cache_saved_is_added_up_once_for_each_trial():
    plain, shallow = trial(0, 0, 0.85), trial(1, 4, 0.85)
    assert cache_line(say([plain, shallow])) == ""
    cost = {**shallow.outcome.cost, "fill_s": 12.34, "saved_s": 240.6}
    cached = replace(shallow, outcome=replace(shallow.outcome, cost=cost))
    copy = replace(cached, number=2, copy_of=1)  # takes its twin's outcome over
    assert cache_line(say([plain, cached, copy])) == (
        "1 of 2 trials used the prefix cache: 12.3 s to fill it, 4 min of forward passes saved"
    )


def test_the_price_of_a_depth_is_recorded_operations_and_the_median_time():
    trials = clear_cut()
    priced = []
    for each in trials:
        flops = (7 - each.depth) * 1e12
        own = replace(each.outcome, cost={**each.outcome.cost, "flops": flops, "train_s": 100.0})  # a slow first run
        further = {
            seed: replace(outcome, cost={"train_s": 10.0 + seed, "flops": flops})
            for seed, outcome in each.replicates.items()
        }
        priced.append(replace(each, outcome=own, replicates=further))
    answer = say(priced, margin=0.02)
    assert [row.operations for row in answer.rows] == pytest.approx([(7 - depth) / 7 for depth in range(7)])
    assert {row.seconds for row in answer.rows} == {13.0}
    table = level_table(answer)
    assert [line[-2] for line in table.lines][:2] == ["100 %", "86 %"]
    assert table.lines[0][-1] == "13.0 s"


def full_fine_tuning(quality, lr=1e-4):
    seeds = dict(enumerate((0.001, -0.001, 0.002, -0.002, 0.0)))
    cost = {"train_s": 12.0, "num_trainable": 8e6, "eval_rows": 20000.0}
    outcome = TrialOutcome(state=TrialState.COMPLETE, by_seed={0: quality + seeds[0]}, cost=cost)
    return TrialRecord(
        number=BASELINE_NUMBER, params={"freeze.depth": None, "optimizer.lr": lr}, state=TrialState.COMPLETE,
        outcome=outcome,
        replicates={
            seed: TrialOutcome(state=TrialState.COMPLETE, by_seed={seed: quality + gap})
            for seed, gap in seeds.items()
            if seed
        },
    )  # fmt: skip


def test_full_fine_tuning_is_the_first_row_and_what_depths_are_compared_with():
    answer = say([*clear_cut(), full_fine_tuning(0.9)], margin=0.02)
    assert [line[0] for line in level_table(answer).lines] == ["none", *map(str, range(7))]
    assert answer.recommended.is_baseline
    assert headline(answer).startswith("train everything (freeze=none), lr 1e-04: accuracy 0.90")
    assert standing_lines(answer)[0].startswith("full fine-tuning at 2 points: it is within")
    alike = say([*clear_cut(), full_fine_tuning(0.85)], margin=0.02)
    assert alike.recommended.depth == 3
    assert answer.num_trials == 7
