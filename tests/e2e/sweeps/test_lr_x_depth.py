"""The shipped sweep lr_x_depth, from the grid to the report: its files, its MLflow runs, the same command again."""

from __future__ import annotations

import base64
import json
import re
import zlib

import pytest

from frostline.records.trial import TrialState, ranked
from frostline.tracking import client
from tests.e2e.sweeps.tiny_sweep import finished_once, pairs, small
from tests.support.sweep_tools import TRIALS_ALONE, answer_rows, call, results

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def finished(tmp_path_factory, tiny_overrides):
    tiny = [each for each in tiny_overrides if not each.startswith("optimizer.lr=")]
    learns = ["training.epochs=4", "dataset.train_rows=null", "sweep.space.optimizer.lr.high=1e-2"]
    return finished_once(tmp_path_factory, "lr_x_depth", [*tiny, *TRIALS_ALONE, *small(14, *learns)])


@pytest.fixture
def copy(finished, tmp_path):
    return finished.copied_to(tmp_path / "copy")


def completed(sweep):
    return [trial for trial in sweep.trials if trial.state is TrialState.COMPLETE]


@pytest.fixture
def store(finished):
    return client(f"sqlite:///{finished.home / 'mlflow.db'}")


def test_the_trials_are_a_grid_then_the_samplers_and_the_best_of_each_depth_are_trained_to_the_end(finished):
    assert len(finished.trials) == 14
    assert {trial.depth for trial in finished.trials[:12]} == {0, 1, 3, 4}
    assert len(completed(finished)) >= 4
    assert {trial.depth for trial in completed(finished)} == {trial.depth for trial in finished.trials}


def test_it_prints_the_recommended_depth_and_a_line_for_each_trial(finished):
    words = r"(recommended|best guess): (nothing was learnt: )?freeze .*, lr \S+: accuracy 0\.\d{3} \(95 %: "
    assert re.search(words, finished.out)
    assert "report: runs/lr_x_depth/report/report.html" in finished.out
    lines = [line for line in finished.err.splitlines() if line.startswith("[")]
    assert len(lines) == 14 + len(completed(finished))


def test_the_report_is_a_page_that_needs_no_other_file(finished):
    report = finished.folder / "report"
    names = {path.name for path in report.iterdir()}
    assert names >= {"report.html", "trials.csv", "answer.png", "history.png", "quality_vs_cost.png"}
    page = (report / "report.html").read_text(encoding="utf-8")
    assert 'src="data:image/png;base64,' in page
    assert not re.search(r'src="(?!data:)', page)
    assert re.findall(r'href="(.*?)"', page.replace("&amp;", "&")) == [re.search(r"then (http\S+)", finished.out)[1]]


def test_the_model_of_the_recommended_trial_alone_is_kept(finished):
    recommended = json.loads((finished.folder / "report" / "recommended.json").read_text())
    assert [path.parent.name for path in finished.folder.glob("*/model")] == [f"{recommended['trial']:03d}"]


def test_every_frozen_tensor_was_hashed_in_both_rungs(finished):
    for result in results(finished.folder).values():
        assert result["audit"]["frozen_unchanged"]
        assert result["audit"]["absent_from_optimizer"]


def test_each_trial_is_a_child_run_in_mlflow_with_its_state(finished):
    parent, children = pairs(finished.home, "lr_x_depth")
    assert parent.info.status == "FINISHED"
    assert len(children) == 14
    assert {run.info.status for run in children} == {"FINISHED", "KILLED"}
    states = [run.data.tags["frostline.status"] for run in children]
    assert states.count("PRUNED") == len([p for p in finished.trials if p.state is TrialState.PRUNED])
    assert states.count("FINISHED") == len(completed(finished))
    assert all(re.match(r"(\u2605 )?d\d lr", run.info.run_name) for run in children)
    (marked,) = (run for run in children if run.info.run_name.startswith("\u2605 "))
    assert marked.data.tags["frostline.recommended"] == "recommended"
    assert marked.info.run_id == parent.data.tags["frostline.best_run"]
    assert all(len(run.data.params) <= 10 and "freeze.depth" in run.data.params for run in children)


def test_the_parent_run_holds_the_answer(finished, store):
    parent, _ = pairs(finished.home, "lr_x_depth")
    best = ranked(finished.trials, True)[0]
    assert parent.data.tags["frostline.best"] == best.label()
    assert parent.data.metrics["best/accuracy"] == best.quality
    assert (
        parent.data.metrics["answer/low"]
        <= parent.data.metrics["answer/accuracy"]
        <= parent.data.metrics["answer/high"]
    )
    steps = {metric.step for metric in store.get_metric_history(parent.info.run_id, "by_depth/accuracy")}
    assert steps
    assert steps <= {trial.depth for trial in completed(finished)}  # a depth whose runs learnt nothing has no number
    artifacts = {item.path for item in store.list_artifacts(parent.info.run_id)}
    assert artifacts >= {"report.html", "trials.csv", "journal.log", "sweep.json", "answer.png"}


def test_the_printed_link_opens_a_view_of_the_trials(finished, store):
    parent, children = pairs(finished.home, "lr_x_depth")
    link = re.search(r"frostline ui, then http://127.0.0.1:5000(/#/experiments/(\d+)/runs\?\S+)", finished.out)
    key = link.group(1).rpartition("viewStateShareKey=")[2]
    packed = store.get_experiment(link.group(2)).tags[f"mlflow.sharedViewState.{key}"]
    state = json.loads(zlib.decompress(base64.b64decode(packed.removeprefix("deflate;"))))
    assert state["searchFilter"] == f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    assert len(store.search_runs([link.group(2)], state["searchFilter"])) == 14
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`best/accuracy`", False)
    assert "params.`freeze.depth`" in state["selectedColumns"]
    known = {f"params.`{name}`" for run in children for name in run.data.params}
    known |= {f"metrics.`{name}`" for run in children for name in run.data.metrics}
    assert {column for column in state["selectedColumns"] if not column.startswith("tags.")} <= known
    assert link.group(1) in parent.data.tags["mlflow.note.content"]


def test_the_same_command_again_trains_nothing_and_prints_the_same(copy):
    before = {path: path.stat().st_mtime_ns for path in copy.folder.glob("*/result.json")}
    again = call("sweep", "lr_x_depth", *copy.arguments, cwd=copy.home)
    assert again.returncode == 0, again.stderr
    assert "resuming: 14 of 14 trials are done" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in copy.folder.glob("*/result.json")} == before
    assert again.stdout == copy.out


def test_report_prints_the_answer_from_the_files(copy):
    report = call("report", "lr_x_depth", cwd=copy.home)
    assert report.returncode == 0, report.stderr
    assert report.stdout.splitlines()[:12] == copy.out.splitlines()[:12]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("optimizer.weight_decay=0.3", "optimizer.weight_decay: 0.01 -> 0.3"),
        ("sweep.pruner.patience=9", "sweep.pruner.patience: 1 -> 9"),
        ("sweep.enqueue=[{freeze.depth: 1, optimizer.lr: 1e-3}]", "sweep.enqueue: coarse -> "),
        ("sweep.space.optimizer.lr.coarse=2", "optimizer.lr.coarse: 3 -> 2"),
    ],
)
def test_a_changed_config_is_refused_with_the_difference_and_nothing_is_lost(finished, change, words):
    rows = answer_rows(finished.folder)
    refused = call("sweep", "lr_x_depth", *finished.arguments, change, cwd=finished.home)
    assert refused.returncode == 2
    assert words in refused.stderr
    assert "sweep.new=true" in refused.stderr
    assert answer_rows(finished.folder) == rows


def test_a_sweep_of_another_schema_is_not_resumed(copy):
    description = json.loads((copy.folder / "sweep.json").read_text())
    (copy.folder / "sweep.json").write_text(json.dumps({**description, "schema": 99}))
    refused = call("sweep", "lr_x_depth", *copy.arguments, cwd=copy.home)
    assert refused.returncode == 2
    assert "schema 99" in refused.stderr
