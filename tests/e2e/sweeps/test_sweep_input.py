"""Bad input to a sweep: one line, exit 2, before a folder is made, before torch is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.sweep_tools import call


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lr_x_dept"], "no such sweep (did you mean 'lr_x_depth'?)"),
        (["lr_x_depth,pareto"], "one sweep at a time"),
        (["sweep.n_trials=3"], "the sweep's name comes first"),
        (["lr_x_depth", "sweep.sampler=tpee"], "sweep.sampler=tpee: no such choice (did you mean 'tpe'?)"),
        (["lr_x_depth", "sweep.pruner.name=medain"], "did you mean 'median'?"),
        (["lr_x_depth", "sweep.n_trails=3"], "sweep.n_trails: unknown key (did you mean 'sweep.n_trials'?)"),
        (["lr_x_depth", "training.objective=acuracy"], "training.objective=acuracy"),
        (["lr_x_depth", "training.direction=minimize"], "training.direction=minimize contradicts"),
        (["lr_x_depth", "sweep.space.freeze.depth.high=9"], "has 4 blocks"),
        (["lr_x_depth", "sweep.space.freeze.depth.low=-1"], "freeze.depth=-1"),
        (["lr_x_depth", "sweep.space.optimizer.lr.low=1"], "is above high"),
        (["lr_x_depth", "sweep.space={}", "freeze.depth=1", "optimizer.lr=1e-3"], "sweep.space is empty"),
        (["lr_x_depth", "+sweep.space.optimizer.learing_rate={low: 1.0, high: 2.0}"], "did you mean 'optimizer.lr'?"),
        (["lr_x_depth", "freeze.depth=range(3,3)"], "holds no values"),
        (["lr_x_depth", "sweep.sampler=tpe,random"], "one sweep at a time"),
        (["lr_x_depth", "+sweep.space.seed.choices=[0,1]"], "give sweep.seeds"),
        (["lr_x_depth", "sweep.enqueue=[{freeze.depth: 1}]"], "optimizer.lr is missing"),
        (["lr_x_depth", "sweep.enqueue=[{freeze.depth: 9, optimizer.lr: 1e-4}]"], "outside of the space"),
        (["lr_x_depth", "sweep.enqueue=corse"], "coarse, none"),
        (
            ["lr_x_depth", "sweep.pruner.name=median", "training.epochs=1"],
            "evaluations of whole epochs can't be pruned",
        ),
        (["lr_x_depth", "sweep.warm_start=nothing"], "sampler frost learns from its own sweep alone"),
        (["lr_x_depth", "sweep.sampler=tpe", "sweep.warm_start=nothing"], "sweep.warm_start=nothing"),
        (["lr_x_depth", "sweep.storage=nonsense://x"], "sweep.storage=nonsense://x"),
        (["lr_x_depth", "sweep.storage=sqlite:////proc/nope/x.db"], "can't be written there"),
        pytest.param(["lr_x_depth", "sweep.storage=journal:/nowhere/x.log"], "can't be opened", marks=pytest.mark.slow),
        (["lr_x_depth", "training.objective=choice(accuracy,f1)"], "trials are compared by one objective"),
        (
            [
                "lr_x_depth",
                "sweep.enqueue=[{freeze.depth: 1, optimizer.lr: 1e-4}]",
                "sweep.n_trials=1",
                "+sweep.space.freeze.depth.step=2",
            ],
            "in steps of 2",
        ),
        (["lr_x_depth", "runtime.slots=0"], "runtime.slots=0"),
        (["lr_x_depth", "runtime.slots=many"], "runtime.slots=many: must be auto, or 1 to 1024"),
        (["lr_x_depth", "sweep.margin=0"], "sweep.margin=0"),
        (["lr_x_depth", "sweep.confidence=0.5"], "sweep.confidence=0.5"),
        (["lr_x_depth", "sweep.confidence=1"], "sweep.confidence=1"),
        (["lr_x_depth", "sweep.settle=-1"], "sweep.settle=-1"),
        (
            ["lr_x_depth", "sweep.axis=freeze.dept"],
            "sweep.axis=freeze.dept: is not swept (did you mean 'freeze.depth'?)",
        ),
        (["lr_x_depth", "sweep.axis=optimizer.lr"], "no rate is cheaper"),
        (["lr_x_depth", "optimizer=choice(adamw,sgd)", "sweep.axis=optimizer"], "none of its choices is known to be"),
        (["lr_x_depth", "optimizer.schedule=choice(linear,cosine)", "sweep.axis=optimizer.schedule"], "are no numbers"),
        (["lr_x_depth", "sweep.settle_rows=0"], "sweep.settle_rows=0"),
        (["lr_x_depth", "sweep.folds=1"], "sweep.folds=1: must be 2 or more"),
        (["lr_x_depth", "sweep.folds=4", "dataset.eval_from=held_out.csv"], "set dataset.eval_from=null"),
        (["lr_x_depth", "sweep.folds=4", "dataset.folds=5"], "dataset.folds=5: sweep.folds=4 sets it"),
        (["lr_x_depth", "sweep.folds=4", "sweep.settle_rows=50"], "every row is held out once"),
        (["lr_x_depth", "+sweep.space.dataset.fold.choices=[0,1]"], "give sweep.folds=4"),
        (["lr_x_depth", "dataset.fold=1"], "dataset.fold=1: must be 0 where dataset.folds is null"),
        (["learning_curve", "sweep.sampler=frost"], "sweep.sampler=frost: searches one model"),
        (["pareto", "sweep.sampler=frost"], "sweep.sampler=frost: has one objective only"),
        (["lr_x_depth", "dataset.location=/nowhere.csv"], "/nowhere.csv"),
        (["lr_x_depth", "optimizer.lr=abc,1e-3"], "optimizer.lr"),
        (["lr_x_depth", "+hydra.callbacks.x._target_=os.system", "model._target_=os.system"], "_target_"),
    ],
)
def test_one_line_and_exit_2(frostline, in_tmp, tiny_overrides, arguments, words):
    tiny = [o for o in tiny_overrides if not o.startswith("optimizer.lr=")]
    code, out, err = frostline("sweep", arguments[0], *tiny, *arguments[1:])
    lines = [line for line in err.splitlines() if not line.startswith("note:")]
    assert code == 2, err
    assert len(lines) == 1, err
    assert words in lines[0]
    assert "Traceback" not in out + err
    assert not list(Path("runs").glob("*/[0-9]*"))


def test_a_sweep_of_sweeps_through_run_is_refused(frostline, in_tmp, tiny_overrides):
    code, _, err = frostline("run", "-m", "+sweep=lr_x_depth,pareto", *tiny_overrides)
    assert code == 2
    assert "one sweep at a time" in err


@pytest.mark.slow
def test_a_value_given_twice_is_reported(frostline, in_tmp, tiny_overrides):
    bad = "sweep.storage=nonsense://x"  # so that it ends here
    code, _, err = frostline("sweep", "lr_x_depth", *tiny_overrides, "freeze.depth=0,0,1", bad)
    assert code == 2
    assert "note: sweep.space.freeze.depth: 0 stands there more than once and is tried once" in err


@pytest.mark.slow
def test_whole_bounds_of_a_key_of_any_number_are_reported(frostline, in_tmp, tiny_overrides):
    bad = "sweep.storage=nonsense://x"
    decay = "+sweep.space.optimizer.weight_decay={low: 0, high: 1}"
    code, _, err = frostline("sweep", "lr_x_depth", *tiny_overrides, decay, bad)
    assert code == 2
    assert "note: sweep.space.optimizer.weight_decay: only the whole numbers 0 to 1 are tried; write low: 0.0" in err


@pytest.mark.slow
def test_help_lists_the_sweeps_and_imports_nothing_heavy(tmp_path):
    done = call("sweep", "--help", cwd=tmp_path)
    assert done.returncode == 0
    for name in ("lr_x_depth", "depth_only", "lr_only", "pareto", "models_x_depth"):
        assert name in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["sweep", "--help"],
        ["sweep", "nonsense"],
        ["report", "--help"],
        ["report", "no"],
        ["reproduce", "--help"],
        ["reproduce", "no"],
    ],
)
def test_small_commands_import_nothing_heavy(tmp_path, arguments):
    code = (
        "import sys\nfrom frostline.cli.main import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'mlflow', 'transformers', 'optuna', 'matplotlib', 'datasets'} & set(sys.modules)\n"
        "print('HEAVY', sorted(heavy))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert "HEAVY []" in done.stdout, done.stdout + done.stderr


@pytest.mark.slow
def test_the_parent_of_a_sweep_imports_no_torch(tmp_path):
    code = (
        "import sys\nimport frostline.sweeps.run_sweep, frostline.search, frostline.tracking, frostline.report\n"
        "import frostline.sweeps.finish\nfrostline.tracking.preload()\n"
        "print('HEAVY', sorted({'torch', 'transformers', 'datasets'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert "HEAVY []" in done.stdout, done.stdout + done.stderr


def test_report_of_an_unknown_study_names_those_that_are_there(frostline, in_tmp):
    code, _, err = frostline("report", "nothing")
    assert code == 2
    assert "no sweep was run in this folder yet" in err
    (Path("runs") / "mine").mkdir(parents=True)
    (Path("runs") / "mine" / "sweep.json").write_text("{}")
    code, _, err = frostline("report", "mime")
    assert code == 2
    assert "did you mean 'mine'?" in err
    code, _, err = frostline("report", "mine")
    assert code == 2
    assert "can't be read" in err
