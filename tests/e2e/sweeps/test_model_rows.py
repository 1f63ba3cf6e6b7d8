"""What a sweep's report says of the recommended model: calibration, confusion, worst rows, latency."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest


@pytest.mark.slow
def test_rows_and_latency_of_the_recommended_model(frostline, in_tmp, tiny_overrides):
    code, out, err = frostline(
        "sweep", "lr_x_depth", *tiny_overrides, "tracking=off", "sweep.n_trials=2", "sweep.settle=0",
        "sweep.baseline=false", "training.epochs=1",
    )  # fmt: skip
    assert code == 0, err
    line = next(line for line in out.splitlines() if line.startswith("calibration: "))
    assert re.search(r"expected calibration error [\d.]+ points on \d+ held-out rows; .*temperature", line)
    folder = in_tmp / "runs" / "lr_x_depth"
    chosen = json.loads((folder / "report" / "recommended.json").read_text())["trial"]
    run = folder / f"{chosen:03d}"
    scores = pq.read_table(run / "predictions.parquet")
    shares = np.array(scores["probabilities"].to_pylist())
    assert shares.sum(1) == pytest.approx(1.0, abs=1e-5)
    assert (shares.argmax(1) == scores["predicted"].to_numpy()).all()
    worst = [json.loads(line) for line in (run / "worst_rows.jsonl").read_text().splitlines()]
    assert worst[0]["loss"] == pytest.approx(scores["loss"].to_numpy().max(), abs=1e-4)
    assert worst[0]["loss"] == max(row["loss"] for row in worst)
    assert len(worst) == min(20, len(scores))
    page = (folder / "report" / "report.html").read_text()
    assert "Its held-out rows" in page
    assert worst[0]["text"][:20] in page
    code, again, err = frostline("report", str(folder), "--latency")
    assert code == 0, err
    assert line in again.splitlines()
    assert re.search(
        r"latency: [\d.]+ ms a row at batch 1 \(.*\), [\d.]+ ms a row at batch 32 .* on held-out rows, ", again
    )
    shutil.rmtree(run / "model")
    code, _, err = frostline("report", str(folder), "--latency")
    assert (code, "has no model; sweep.keep_models=recommended keeps it" in err) == (2, True), err
    with (run / "worst_rows.jsonl").open("a") as file:  # not as the run left it
        file.write("{}\n")
    code, again, err = frostline("report", str(folder))
    assert code == 0, err
    assert "calibration" not in again
    assert "its rows are not shown" in err
