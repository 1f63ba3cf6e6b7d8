"""How a run ends: finished, diverged, crashed, interrupted, resumed."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from frostline.records.result import RunResult, Status
from tests.e2e.cli.store_runs import OFF, interrupt_step_three, runs_of
from tests.support.sweep_tools import start, wait_for


def test_a_diverged_run_is_failed_everywhere(frostline, in_tmp, tiny_overrides, store):
    code, out, err = frostline("run", *tiny_overrides, "optimizer.lr=1e30")
    assert code == 1
    assert err.splitlines()[-1].startswith("frostline: d0-lr1e+30-s0-tiny-moods: diverged at step ")
    assert "Traceback" not in err
    (run,) = runs_of(store)
    assert run.info.status == "FAILED"
    assert run.data.tags["frostline.reason"].startswith("diverged at step ")
    assert "best/accuracy" not in run.data.metrics
    assert out.splitlines()[-1].startswith("run_dir: ")


def test_a_crash_is_failed_and_not_a_traceback(frostline, in_tmp, tiny_overrides, store, monkeypatch):
    from transformers import Trainer

    def explode(self, *args, **kwargs):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(Trainer, "training_step", explode)
    code, _, err = frostline("run", *tiny_overrides)
    assert code == 1
    assert err.splitlines()[-1] == "frostline: d0-lr1e-03-s0-tiny-moods: RuntimeError: out of luck"
    (run,) = runs_of(store)
    assert (run.info.status, run.data.tags["frostline.reason"]) == ("FAILED", "RuntimeError: out of luck")


@pytest.mark.parametrize("raised", [SystemExit(3), SystemExit(0), SystemExit("bye")])
@pytest.mark.slow
def test_an_exit_in_a_run_is_a_failure(frostline, in_tmp, tiny_overrides, store, monkeypatch, raised):
    from transformers import Trainer

    def leave(self, *args, **kwargs):
        raise raised

    monkeypatch.setattr(Trainer, "training_step", leave)
    code, _, err = frostline("run", *tiny_overrides)
    assert code == 1, err
    assert runs_of(store)[0].info.status == "FAILED"
    assert "SystemExit" in RunResult.read(next((in_tmp / "runs" / "single").iterdir())).reason


@pytest.mark.slow
def test_a_tracking_server_that_is_down_ends_no_run(frostline, in_tmp, tiny_overrides, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    code, out, err = frostline("run", *tiny_overrides, "tracking.uri=http://me:secret@127.0.0.1:9")
    assert code == 0
    assert err.count("MLflow at") == 1
    assert (
        "training continues. What it misses is kept in the runs' folders: frostline ui --sync records it later" in err
    )
    assert RunResult.read(Path(out.splitlines()[-1].removeprefix("run_dir: "))).status is Status.FINISHED
    arguments = (
        "tracking.uri=http://me:secret@127.0.0.1:9",
        "seed=0,1",
        "training.max_steps=1",
        "training.epochs=null",
    )
    assert frostline("run", "-m", *tiny_overrides, *arguments)[0] == 0
    for path in (in_tmp / "runs").rglob("*"):
        assert path.is_dir() or b"secret" not in path.read_bytes(), path
    assert "secret" not in err


def test_resume_resumes_and_refuses_another_config(frostline, in_tmp, tiny_overrides):
    code, out, _ = frostline("run", *tiny_overrides, OFF, "hydra.run.dir=whole", "training.epochs=2")
    assert code == 0
    code, _, err = frostline("run", *tiny_overrides, OFF, "resume=whole", "training.epochs=2", "optimizer.lr=2e-3")
    assert code == 2
    assert "that run had another config: optimizer.lr: 0.001 -> 0.002" in err
    code, _, err = frostline("run", *tiny_overrides, OFF, "resume=whole", "training.epochs=2")
    assert code == 2
    assert "no whole checkpoint" in err


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_killed_everywhere_and_the_run_can_go_on(store, in_tmp, tiny_overrides, signum, code):
    """A real process, a real signal, then `resume=`."""
    arguments = ["run", *tiny_overrides, "training.epochs=400", "hydra.run.dir=cut short"]
    process = start(*arguments, cwd=in_tmp, as_users_do=signum == signal.SIGINT)
    metrics = in_tmp / "cut short" / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.read_text().count("\n") > 20)
    os.kill(process.pid, signum)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "KILLED" in out
    assert "Traceback" not in err
    assert RunResult.read(in_tmp / "cut short").status is Status.KILLED
    (run,) = runs_of(store)
    assert run.info.status == "KILLED"
    assert list((in_tmp / "cut short" / "checkpoints").glob("step-*"))
    assert err.splitlines()[-1] == f"resume it with the same command and 'resume={in_tmp / 'cut short'}'"


@pytest.mark.slow
def test_resume_by_the_run_id_in_mlflow(frostline, in_tmp, tiny_overrides, store, monkeypatch):
    with monkeypatch.context() as patched:
        interrupt_step_three(patched)
        assert frostline("run", *tiny_overrides, "hydra.run.dir=first")[0] == 130
    (run,) = runs_of(store)
    code, _, err = frostline("run", *tiny_overrides, f"resume={run.info.run_id}", "hydra.run.dir=second")
    assert code == 0, err
    assert RunResult.read(in_tmp / "second").provenance["resumed_from"] == str(in_tmp / "first")
    shutil.rmtree(in_tmp / "first")
    code, _, err = frostline("run", *tiny_overrides, f"resume={run.info.run_id}", "hydra.run.dir=third")
    assert code == 2
    assert err == f"frostline: resume={run.info.run_id}: its folder ({in_tmp / 'first'}) isn't on this machine\n"
    code, _, err = frostline("run", *tiny_overrides, f"resume={'0' * 32}", "hydra.run.dir=third")
    assert code == 2
    assert "neither a run's folder nor a run in sqlite:///mlflow.db" in err
