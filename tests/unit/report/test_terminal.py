import io

from rich.console import Console

from frostline.records.result import Audit, Cost, Frozen, Objective, ParamCount, RunResult, Status
from frostline.report import Row, number, one_line, print_table, summary, varying


def row(depth, lr, value, tmp, direction="maximize", status=Status.FINISHED, **changes):
    objective = None if value is None else Objective(metric="accuracy", value=value, direction=direction)
    values = {
        "name": f"d{depth}", "status": status, "reason": None, "spec_digest": "x", "objective": objective,
        "metrics": {} if value is None else {"eval/accuracy": value, "eval/loss": 0.5}, "step": 3,
        "params": ParamCount(num_trainable=1_500_000, num_frozen=500_000),
        "freeze": Frozen(name="depth", depth=depth, num_blocks=6, words=f"the embeddings and {depth} of 6 blocks"),
        "cost": Cost(train_s=12.0, eval_s=1.0, setup_s=1.0, steps=3, peak_bytes=2**30, peak_of="process"),
        "audit": Audit(frozen_unchanged=True, absent_from_optimizer=True, pinned_in_eval=True, num_tensors=5),
        "data": {"train_rows": 10, "eval_rows": 5},
    }  # fmt: skip
    coordinates = {"freeze.depth": depth, "optimizer.lr": lr, "seed": 0, "runtime.threads": depth}
    return Row(coordinates=coordinates, result=RunResult(**{**values, **changes}), folder=tmp / str(depth))


def printed(rows, width=None):
    out = io.StringIO()
    console = Console(file=out, width=width or 120, force_terminal=True, color_system=None)
    print_table(rows, console)
    return out.getvalue()


def test_only_what_varies_is_a_coordinate(tmp_path):
    rows = [row(0, 1e-4, 0.5, tmp_path), row(3, 1e-4, 0.6, tmp_path)]
    assert varying(rows) == ["freeze.depth"]


def test_the_best_stands_first_whichever_way_is_better(tmp_path):
    text = printed([row(0, 1e-4, 0.5, tmp_path), row(3, 2e-4, 0.75, tmp_path)])
    assert text.index("0.7500") < text.index("0.5000")
    assert "best: freeze.depth=3, optimizer.lr=2e-04: accuracy 0.7500" in text
    text = printed([row(0, 1e-4, 0.5, tmp_path, "minimize"), row(3, 2e-4, 0.75, tmp_path, "minimize")])
    assert "best: freeze.depth=0" in text


def test_failed_runs_are_named_with_their_reason_and_never_best(tmp_path):
    failed = row(9, 1e-1, None, tmp_path, status=Status.FAILED, reason="diverged at step 2: [red]x[/red]")
    text = printed([failed, row(3, 1e-4, 0.1, tmp_path)])
    assert "FAILED: d9: diverged at step 2: [red]x[/red]" in text
    assert "best: freeze.depth=3" in text
    assert "best" not in printed([failed])


def test_headers_are_whole_at_80_columns(tmp_path):
    text = printed([row(0, 1e-4, 0.5, tmp_path), row(3, 2e-4, 0.75, tmp_path)], width=80)
    assert "freeze.depth" in text.splitlines()[1]
    assert "optimizer.lr" in text.splitlines()[1]


def test_a_summary_says_what_was_frozen_and_ends_with_the_folder(tmp_path):
    text = summary(row(3, 1e-4, 0.5, tmp_path).result, tmp_path)
    assert "1.50 M trained, 0.50 M frozen: the embeddings and 3 of 6 blocks, unchanged (hashes compared)" in text
    assert text.splitlines()[-1] == f"run_dir: {tmp_path}"
    none = row(3, 1e-4, 0.5, tmp_path, freeze=Frozen(name="none", depth=None, num_blocks=6, words="nothing")).result
    assert "nothing frozen" in summary(none, tmp_path)


def test_one_line_of_a_failed_run_has_its_reason(tmp_path):
    assert one_line(row(3, 1e-4, None, tmp_path, status=Status.FAILED, reason="why").result) == "d3: FAILED (why)"
    assert one_line(row(3, 1e-4, 0.5, tmp_path).result) == "d3: accuracy 0.5000, 12 s"


def test_numbers():
    assert [number(v) for v in (0.0, 0.12345, 1e-6, 12345.0, float("nan"))] == [
        "0.0000", "0.1235", "1.000e-06", "1.234e+04", "nan",
    ]  # fmt: skip
