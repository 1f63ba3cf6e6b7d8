"""Bad input gets one line and exit 2."""

import pytest

from tests.conftest import sentences, write_csv
from tests.e2e.cli.store_runs import OFF


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["freeze.depth=5"], "freeze.depth=5: tiny has 4 blocks, so give 0 to 4"),
        (["freeze.depth=-1"], "freeze.depth=-1: must be 0 or more"),
        (["optimizer.learing_rate=1"], "did you mean 'optimizer.lr'?"),
        (["optimizer.lr=abc"], "optimizer.lr=abc: expected a number"),
        (["optimizer.lr=nan"], "optimizer.lr=nan: must be a finite number above 0"),
        (["model=nosuch"], "no such choice; one of albert_base, "),
        (["dataset.location=missing.csv"], "dataset.location=missing.csv: no such file"),
        (["dataset.eval_from=missing.csv"], "dataset.eval_from=missing.csv: no such file"),
        (["dataset.label_column=stars"], "dataset.label_column=stars: moods.csv has no such column"),
        (["dataset.train_rows=1"], "hold one class only"),
        (["+freeze._target_=os.getpid"], "freeze._target_ is refused"),
        (["model=hub", "model.location=some/model"], "the hub can't be reached"),
        (["dataset=hub", "dataset.location=some/data"], "the hub can't be reached"),
        (["training.max_tokens=100"], "the model has 64 positions"),
        (["plugins=[no_such_module]"], "plugins: can't import 'no_such_module'"),
        (["resume=nowhere"], "resume=nowhere: no run's folder there"),
        (["training.metrics=[accuracy,acuracy]"], "did you mean 'accuracy'?"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(frostline, in_tmp, tiny_overrides, overrides, message):
    code, out, err = frostline("run", *tiny_overrides, OFF, *overrides)
    assert code == 2
    assert out == ""
    assert message in err
    assert len(err.strip().splitlines()) == 1, err
    assert err.startswith("frostline: ")


def test_two_runs_at_once_in_one_folder(frostline, in_tmp, tiny_overrides, make_spec):
    from frostline.records.run_folder import RunFolder

    with RunFolder(in_tmp / "same", make_spec()):
        code, _, err = frostline("run", *tiny_overrides, OFF, "hydra.run.dir=same")
    assert code == 2
    assert "another process is writing a run there" in err
    code, _, err = frostline("run", *tiny_overrides, OFF, "hydra.run.dir=same")
    assert (code, "holds a run already" in err) == (2, True)


def test_flags_may_stand_anywhere_and_wrong_ones_get_one_line(frostline, in_tmp, tiny_overrides):
    code, out, err = frostline("run", *tiny_overrides, OFF, "-m", "freeze.depth=0,4")
    assert code == 0, err
    assert "[2/2]" in out
    for arguments in (["--nosuch"], ["--cfg", "nope"], ["freeze.depth=1", "--cfg"]):
        code, _, err = frostline("run", *arguments)
        assert code == 2
        assert len(err.strip().splitlines()) == 1, err
    assert frostline("run", "--info", "freeze.depth=1")[0] == 0


def test_predict_wants_pairs_where_the_model_does(frostline, in_tmp, tiny_overrides):
    rows = [(text, text, str(i % 2)) for i, (text, _) in enumerate(sentences(40))]
    write_csv(in_tmp / "pairs.csv", rows, ("text", "second", "label"))
    pairs = ["dataset.location=pairs.csv", "dataset.pair_column=second", "hydra.run.dir=pairs"]
    assert frostline("run", *tiny_overrides, OFF, *pairs)[0] == 0
    assert "give the second with --pair" in frostline("predict", "pairs", "a text")[2]
    assert frostline("predict", "pairs", "--pair", "other", "a text")[0] == 0


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model/model.safetensors", b"half"),
        ("model/tokenizer.json", b'{"a": 1}'),
        ("model/config.json", b"[]"),
        ("spec.json", b"\xff\xfe"),
        ("spec.json", b'{"schema": 1'),
    ],
)
@pytest.mark.slow
def test_predict_on_a_damaged_run_gets_one_line(frostline, in_tmp, tiny_overrides, file, content):
    assert (
        frostline("run", *tiny_overrides, OFF, "hydra.run.dir=run", "training.max_steps=1", "training.epochs=null")[0]
        == 0
    )
    (in_tmp / "run" / file).write_bytes(content)
    code, _, err = frostline("predict", "run", "a text")
    assert code == 2
    assert len(err.strip().splitlines()) == 1, err


@pytest.mark.parametrize("command", ["show --blocks", "run", "run -m"])
def test_debug_shows_the_traceback_too(frostline, in_tmp, monkeypatch, command):
    monkeypatch.setenv("FROSTLINE_DEBUG", "1")
    code, _, err = frostline(*command.split(), "freeze.depth=9")
    assert code == 2
    assert "Traceback" in err
    assert err.splitlines()[-1] == "frostline: freeze.depth=9: minilm has 6 blocks, so give 0 to 6"


def test_a_folder_that_can_not_be_written(frostline, in_tmp, tiny_overrides):
    (in_tmp / "taken").write_text("")
    code, _, err = frostline("run", *tiny_overrides, OFF, "hydra.run.dir=taken/run")
    assert code == 2
    assert len(err.strip().splitlines()) == 1, err
    assert "taken" in err


def test_a_folder_with_spaces_and_unicode(frostline, in_tmp, tiny_overrides):
    code, out, err = frostline("run", *tiny_overrides, OFF, "hydra.run.dir='my runs/été ☃'")
    assert code == 0, err
    assert (in_tmp / "my runs" / "été ☃" / "result.json").exists()


def test_a_folder_that_holds_a_run_is_not_written_over(frostline, in_tmp, tiny_overrides):
    assert frostline("run", *tiny_overrides, OFF, "hydra.run.dir=here")[0] == 0
    code, _, err = frostline("run", *tiny_overrides, OFF, "hydra.run.dir=here")
    assert code == 2
    assert "holds a run already" in err


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("runs/none", "runs/none: no run's folder, no sweep in runs/, and no MLflow run id"),
        (".", "is no run's folder"),
        (
            "0123456789abcdef",
            "0123456789abcdef: no run's folder, no sweep in runs/, and no MLflow run id",
        ),
    ],
)
def test_predict_without_a_run(frostline, store, run, message):
    code, _, err = frostline("predict", run, "text")
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_two_texts_files(frostline, in_tmp, tiny_overrides):
    write_csv(in_tmp / "train.csv", sentences(40))
    write_csv(in_tmp / "test.csv", sentences(20, seed=9))
    code, out, _ = frostline(
        "run", *tiny_overrides, OFF, "dataset.location=train.csv", "dataset.eval_from=test.csv", "freeze=head"
    )
    assert code == 0
    assert "40 rows trained on, 20 held out" in out
