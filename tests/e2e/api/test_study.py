"""`frostline.sweep` and the study that comes back."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pandas as pd
import pytest

import frostline as fl
from tests.conftest import TINY, sentences
from tests.support.sweep_tools import call

ROWS = [{"review": text, "mood": mood} for text, mood in sentences(160)]
OVERRIDES = [
    *(word for word in TINY if not word.startswith("optimizer.lr=")), "training.epochs=2", "sweep.n_trials=6",
    "sweep.settle=0", "tracking=off", "sweep.margin=0.2", "runtime.cache=auto",
]  # fmt: skip

pytestmark = pytest.mark.slow


def sweep(model, **changes):
    more = changes.pop("more", ())
    return fl.sweep(
        "lr_x_depth", model=model, train=ROWS, text="review", label="mood", overrides=[*OVERRIDES, *more], **changes
    )


@pytest.fixture(scope="module")
def study(tiny_model, tmp_path_factory):
    """A sweep over rows in memory, and the trials that it called back."""
    here, ended = Path.cwd(), []
    os.chdir(tmp_path_factory.mktemp("work"))
    before = os.environ.get("FROSTLINE_HOME")
    os.environ["FROSTLINE_HOME"] = str(tmp_path_factory.mktemp("home"))
    swept = sweep(tiny_model, on_trial=ended.append)
    swept.folder = swept.folder.absolute()
    yield swept, ended
    os.chdir(here)
    os.environ.pop("FROSTLINE_HOME") if before is None else os.environ.update(FROSTLINE_HOME=before)


def test_its_answer_prints_as_the_command_does(study):
    swept, _ = study
    ended = call("report", str(swept.folder), cwd=swept.folder.parent.parent)
    shown = [line.rstrip() for line in ended.stdout.strip("\n").splitlines()]
    ours = str(swept.answer).splitlines()
    assert [line for line in shown[: len(ours)] if line] == [line for line in ours if line]


def test_its_answer_is_what_the_report_recommends(study):
    swept, _ = study
    answer = swept.answer
    assert answer.standing in {"settled", "at least", "not settled"}
    assert answer.depth == answer.params["freeze.depth"]
    assert answer.lr == answer.params["optimizer.lr"]
    assert answer.low <= answer.value <= answer.high
    chosen = swept.table[swept.table["recommended"]]
    assert len(chosen) == 1
    assert chosen.iloc[0]["trial"] == answer.trial
    assert swept.best.params["optimizer.lr"] == answer.lr


def test_its_tables_have_a_row_a_depth_and_a_row_a_trial(study):
    swept, ended = study
    assert list(swept.table["freeze.depth"].dropna()) == [0, 1, 2, 3, 4]
    assert swept.table["freeze.depth"].dtype == "Int64"
    trials = swept.trials
    assert list(trials["number"]) == [-1, 0, 1, 2, 3, 4, 5]
    called = {trial["number"]: trial["value"] for trial in ended}
    assert called == dict(zip(trials["number"], trials["value"], strict=True))


def test_its_figures_are_matplotlibs(study):
    swept, _ = study
    assert {"depth", "rates", "history"} <= set(swept.figures)
    assert swept.figures["depth"]._repr_png_().startswith(b"\x89PNG")
    assert swept.figures["depth"].axes[0].get_xlabel().startswith("frozen blocks")
    with pytest.raises(fl.UserError, match="no such figure"):
        swept.figures["deep"]


def test_a_notebook_shows_the_report(study):
    swept, _ = study
    assert "<html" in swept.page()
    shown = swept._repr_html_()
    assert shown.startswith("<iframe srcdoc=")
    assert '"' not in shown.split('srcdoc="')[1].split('"')[0]


def test_the_recommended_model_predicts(study):
    swept, _ = study
    assert list(swept.predict(["a superb film"])["text"]) == ["a superb film"]
    for wrong in (pd.DataFrame(ROWS), ["a", None], {"a": 1}):
        with pytest.raises(fl.UserError, match="predict: "):
            swept.predict(wrong)
    os.chdir("/")  # as %cd in a notebook
    assert len(swept.predict(["a superb film"])) == 1


def test_the_same_call_resumes_it_and_trains_nothing_again(study, tiny_model):
    swept, _ = study
    more = []
    os.chdir(swept.folder.parent.parent)
    again = sweep(tiny_model, on_trial=more.append)
    assert more == []
    assert again.answer == swept.answer
    assert fl.load("lr_x_depth").answer == swept.answer


def test_bad_input_is_a_user_error(tiny_model, in_tmp):
    with pytest.raises(fl.UserError, match="no such sweep"):
        fl.sweep("lr_x_dept")
    with pytest.raises(fl.UserError, match=r"sweep\.sampler"):
        sweep(tiny_model, more=["sweep.sampler=best"])
    with pytest.raises(fl.UserError, match="did you mean"):
        sweep(tiny_model, more=["training.epoch=2"])
    assert not (in_tmp / "runs").exists()


def test_when_no_trial_ends_it_is_a_failure(tiny_model, in_tmp):
    with pytest.raises(fl.RunFailedError, match="every trial failed"):
        sweep(tiny_model, more=["optimizer.lr=1e30", "sweep.baseline=false", "sweep.n_trials=2"])


def test_what_a_callback_raises_ends_it_and_it_can_be_resumed(tiny_model, in_tmp):
    def refuse(trial):
        if trial["number"] == 1:
            raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        sweep(tiny_model, on_trial=refuse)
    with pytest.raises(fl.UserError, match="on_trial: give a function"):
        sweep(tiny_model, on_trial=3)
    assert {0, 1} <= set(sweep(tiny_model).trials["number"])


def test_a_forecast_trains_nothing(tiny_model, in_tmp):
    plan = fl.plan("lr_x_depth", model=tiny_model, train=ROWS, text="review", label="mood", overrides=OVERRIDES)
    assert plan.data["trials"] == 6
    assert "wall time" in str(plan)
    assert not (in_tmp / "runs").exists()


IN_AN_APPLICATION = """
import hydra
import frostline as fl
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

@hydra.main(version_base="1.3", config_path=None)
def main(cfg):
    study = fl.sweep("lr_x_depth", model={model!r}, train={rows!r}, text="text", label="label", overrides={overrides})
    print(study.answer.trial is not None, HydraConfig.get().job.name, OmegaConf.to_container(cfg))
    fl.run({overrides_of_a_run}, model={model!r}, train={rows!r}, text="text", label="label")
    print(fl.inspect({model!r}).facts["num_blocks"], HydraConfig.get().job.name)

main()
"""


def test_it_works_inside_of_another_application_of_hydra(tiny_model, tiny_csv, in_tmp):
    code = textwrap.dedent(IN_AN_APPLICATION).format(
        model=str(tiny_model), rows=str(tiny_csv), overrides=[*OVERRIDES, "sweep.n_trials=2", "sweep.baseline=false"],
        overrides_of_a_run=[*TINY, "tracking=off"],
    )  # fmt: skip
    (in_tmp / "mine.py").write_text(code)
    ended = subprocess.run(
        [sys.executable, "mine.py", "hydra.run.dir=out"], capture_output=True, text=True, timeout=240
    )
    assert ended.returncode == 0, ended.stderr
    assert "True mine {}" in ended.stdout
    assert "4 mine" in ended.stdout
