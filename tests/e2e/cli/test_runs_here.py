"""`frostline list runs`, `show`, `prune`: what lies in runs/, and what of it may go."""

import json
import shutil
from pathlib import Path

import pytest

from frostline.records.result import RunResult
from tests.support.sweep_tools import call

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tiny_overrides, tmp_path_factory):
    """A folder with a sweep that kept all models, and a run beside it."""
    home = tmp_path_factory.mktemp("work")
    alone = [word for word in tiny_overrides if not word.startswith("optimizer.lr=")]
    words = ["sweep.n_trials=3", "sweep.settle=0", "sweep.keep_models=all", "tracking=off", "sweep.baseline=false"]
    done = call("sweep", "lr_x_depth", *alone, *words, "training.epochs=1", cwd=home)
    assert done.returncode == 0, done.stderr
    done = call("run", *tiny_overrides, "tracking=off", "hydra.run.dir=runs/single/a", cwd=home)
    assert done.returncode == 0, done.stderr
    return home


def test_what_lies_there(runs):
    shown = call("list", "runs", cwd=runs).stdout.splitlines()
    assert "MB  runs/lr_x_depth: sweep, tiny on moods, 3 trials, " in shown[0]
    assert "freeze " in shown[0]
    assert "MB  runs/single/a: d0-lr1e-03-s0-tiny-moods, tiny on moods, FINISHED, accuracy " in shown[1]
    assert shown[2].endswith("MB in 2 of runs/ (frostline prune)")
    entries = json.loads(call("list", "runs", "--json", cwd=runs).stdout)
    assert [entry["is_sweep"] for entry in entries] == [True, False]
    assert all(entry["size"] > 0 for entry in entries)


def test_nothing_lies_there(in_tmp):
    assert call("list", "runs", cwd=in_tmp).stdout == "      0.0 MB in 0 of runs/ (frostline prune)\n"


def test_a_run_is_shown_with_its_config(runs):
    shown = call("show", "runs/single/a", cwd=runs).stdout
    assert "FINISHED" in shown
    assert "  depth: 0" in shown
    data = json.loads(call("show", "runs/single/a", "--json", cwd=runs).stdout)
    assert data["spec"]["freeze"]["depth"] == 0
    assert data["result"]["status"] == "FINISHED"
    assert call("show", "nothing", cwd=runs).returncode == 2


def test_what_may_go_and_what_stays(runs, tmp_path):
    home = shutil.copytree(runs, tmp_path / "copy")
    sweep = home / "runs" / "lr_x_depth"
    chosen = json.loads((sweep / "report" / "recommended.json").read_text())["trial"]
    before = sorted(path.parent.name for path in sweep.glob("*/model"))
    assert len(before) == 3
    listed = call("prune", cwd=home).stdout
    assert listed.count("lr_x_depth recommends another trial") == 2
    assert "--yes removes them" in listed
    assert sorted(path.parent.name for path in sweep.glob("*/model")) == before
    done = call("prune", "--yes", cwd=home)
    assert done.stdout.splitlines()[-1].startswith("removed ")
    assert [path.parent.name for path in sweep.glob("*/model")] == [f"{chosen:03d}"]
    assert (home / "runs" / "single" / "a" / "model").is_dir()
    for path in sweep.glob("[0-9]*"):  # the records stay
        assert RunResult.read(path).status.value == "FINISHED"
    assert call("report", "lr_x_depth", cwd=home).returncode == 0
    assert call("predict", "lr_x_depth", "a good film", cwd=home).returncode == 0
    other = next(path for path in sweep.glob("[0-9]*") if path.name != f"{chosen:03d}")
    assert "no trained model there" in call("predict", str(other), "a good film", cwd=home).stderr
    assert call("prune", "--models", "--yes", cwd=home).returncode == 0
    assert not (home / "runs" / "single" / "a" / "model").exists()
    assert (sweep / f"{chosen:03d}" / "model").is_dir()


def test_a_folder_that_is_not_there(in_tmp):
    done = call("prune", "nothing", cwd=in_tmp)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_rows_of_a_file_of_another_form_than_the_training_rows(tiny_overrides, tmp_path):
    """Trained on a table without a header in which quotes are letters, asked of an ordinary CSV."""
    rows = [line.rsplit(",", 1) for line in Path(tiny_overrides[3].partition("=")[2]).read_text().splitlines()[1:]]
    (tmp_path / "train.tsv").write_text(
        "".join(f"{number}\t{label}\t{text}\n" for number, (text, label) in enumerate(rows))
    )
    data = ["dataset=tsv", "dataset.location=train.tsv", "dataset.columns=[id,label,text]", "dataset.quoted=false"]
    words = [*tiny_overrides[:2], *data, *tiny_overrides[4:], "tracking=off", "hydra.run.dir=it"]
    done = call("run", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (tmp_path / "new.csv").write_text('text,x\n"good, very good",1\n')
    done = call("predict", "it", "--file", "new.csv", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["text"] == "good, very good", done.stderr
    done = call("predict", "it", "--file", "train.tsv", cwd=tmp_path)
    assert len(done.stdout.splitlines()) == len(rows)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    done = call("predict", "it", "--file", "other.csv", cwd=tmp_path)
    assert "--column text: other.csv has no such column" in done.stderr


def test_rows_of_a_file_are_predicted(runs, tmp_path):
    file = tmp_path / "new.csv"
    file.write_text('id,review\n1,"a good, good film"\n2,"a ""bad"" one"\n')
    done = call("predict", "runs/single/a", "--file", str(file), "--column", "review", "--json", cwd=runs)
    assert [json.loads(line)["text"] for line in done.stdout.splitlines()] == ["a good, good film", 'a "bad" one']
    wrong = call("predict", "runs/single/a", "--file", str(file), "--column", "revew", cwd=runs)
    assert "did you mean 'review'?" in wrong.stderr
    wrong = call("predict", "runs/single/a", str(file), cwd=runs)
    assert f"is a file; to ask of its rows give --file {file} --column NAME" in wrong.stderr
    wrong = call("predict", "runs/single/a", "nowhere.csv", cwd=runs)
    assert wrong.returncode == 2
    assert "nowhere.csv: no such file; to ask of its rows" in wrong.stderr
    wrong = call("predict", "runs/single/a", "--column", "review", "a", cwd=runs)
    assert "is for --file FILE" in wrong.stderr
