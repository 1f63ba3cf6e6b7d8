"""Verdicts on re-runs: identical, equivalent, different, and what is named as the cause."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cache

import pytest

from frostline.config import compose_run, spec_from_json
from frostline.errors import UserError
from frostline.hashes import hashes_of, sealed
from frostline.records.result import Cause, Objective, RunResult, Status
from frostline.records.run_folder import RECORDED_FILES
from frostline.reproduction.compare import Conclusion, Effect, compare, differences
from frostline.reproduction.record import Recorded, read_record

PROVENANCE = {
    "versions": {"torch": "2.13.0", "transformers": "5.23.0", "mlflow": "3.17.2", "python": "3.11.7"},
    "platform": {"cpu": "a CPU", "machine": "x86_64", "cores": 2},
    "compute": {"threads": 2, "device": "cpu", "precision": "fp32"},
    "git": {"commit": "0123456789abcdef", "dirty": False},
    "weights_sha256": "w" * 64,
    "tokenizer_sha256": "t" * 64,
    "data_fingerprint": "d" * 64,
}
CURVE = {
    1: {"train/loss": 0.7, "train/grad_norm": 2.0},
    2: {"train/loss": 0.6, "train/grad_norm": 1.0, "eval/loss": 0.65, "eval/accuracy": 0.5},
    4: {"train/loss": 0.5, "eval/loss": 0.55, "eval/accuracy": 0.75},
}
METRICS = {"eval/accuracy": 0.75, "eval/loss": 0.55}


@cache
def shipped():
    """The run that the shipped config composes."""
    return compose_run()


def result(**changes):
    spec = changes.pop("spec", None) or shipped()
    values = {
        "name": "n", "status": Status.FINISHED, "reason": None, "spec_digest": spec.digest(), "metrics": METRICS,
        "step": 4, "weights_sha256": "a" * 64, "provenance": PROVENANCE, "data": {"eval_rows": 2000},
        "objective": Objective(metric="accuracy", value=0.75, direction="maximize"),
    }  # fmt: skip
    return RunResult(**{**values, **changes})


def record(**changes):
    return Recorded(spec=shipped(), result=result(**changes), curve=CURVE, source="r")


def moved(size, metric="train/loss", step=2):
    return {**CURVE, step: {**CURVE[step], metric: CURVE[step][metric] + size}}


def changed(path, value):
    data = json.loads(json.dumps(PROVENANCE))
    *parts, last = path.split("/")
    node = data
    for part in parts:
        node = node[part]
    node[last] = value
    return data


def verdict(curve=CURVE, again=None, provenance=PROVENANCE, then=None, spec=None, **kwargs):
    then = then or record()
    found = differences(then, spec or then.spec, provenance)
    return compare(then, again or result(), curve, found, **kwargs)


def test_equal_bits_are_identical():
    said = verdict()
    assert said.conclusion is Conclusion.IDENTICAL
    assert (said.exit_code, said.first, said.largest, said.weights) == (0, None, None, True)
    assert said.num_compared == 2 + 4 + 3 + 2


@pytest.mark.parametrize("size", [1e-16, 1e-9, 0.3])
def test_another_number_without_a_known_cause_is_different_however_small(size):
    said = verdict(moved(size, step=4))
    assert said.conclusion is Conclusion.DIFFERENT
    assert said.reason == "nothing that the record knows of differs here"
    assert (said.exit_code, said.first.step, said.first.metric) == (1, 4, "train/loss")


def test_other_weights_alone_are_not_identical():
    said = verdict(again=result(weights_sha256="b" * 64))
    assert said.conclusion is Conclusion.DIFFERENT
    assert said.weights is False


def test_a_record_without_a_hash_of_the_weights_says_so():
    said = verdict(then=record(weights_sha256=None))
    assert said.conclusion is Conclusion.IDENTICAL
    assert "no hash of the trained weights" in said.reason


def test_without_a_recorded_curve_the_rest_is_compared_and_the_reason_says_so():
    said = verdict(then=replace(record(), curve={}))
    assert said.conclusion is Conclusion.IDENTICAL
    assert said.first is None
    assert said.reason.endswith("the record has no curve that could be compared")


def test_within_the_tolerance_and_with_a_known_cause_it_is_equivalent_and_names_it():
    other = changed("compute/threads", 1)
    said = verdict(moved(0.001), again=result(weights_sha256="b" * 64), provenance=other)
    assert said.conclusion is Conclusion.EQUIVALENT
    assert said.exit_code == 0
    assert said.reason == "within 0.01; not bit-equal because of threads: 2 -> 1"
    assert said.largest.size == pytest.approx(0.001)
    far = verdict(moved(0.02), provenance=other)
    assert far.conclusion is Conclusion.DIFFERENT
    assert far.reason == "beyond 0.01; likely because of threads: 2 -> 1"
    assert verdict(moved(0.02), provenance=other, tolerance=0.1).conclusion is Conclusion.EQUIVALENT


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("versions/transformers", "5.24.0", "transformers: 5.23.0 -> 5.24.0"),
        ("versions/torch", "2.14.0", "torch: 2.13.0 -> 2.14.0"),
        ("platform/cpu", "another CPU", "cpu: a CPU -> another CPU"),
        ("compute/precision", "bf16", "precision: fp32 -> bf16"),
    ],
)
def test_what_changes_bits_is_named(path, value, words):
    said = verdict(moved(1e-6), provenance=changed(path, value))
    assert said.conclusion is Conclusion.EQUIVALENT
    assert words in said.reason


@pytest.mark.parametrize(
    ("path", "words"),
    [("weights_sha256", "model weights: "), ("data_fingerprint", "data: "), ("tokenizer_sha256", "tokenizer: ")],
)
def test_another_input_is_another_computation_even_within_the_tolerance(path, words):
    said = verdict(moved(1e-6), provenance=changed(path, "x" * 64))
    assert said.conclusion is Conclusion.DIFFERENT
    assert said.reason.startswith(f"because of {words}")


def test_another_setting_is_named_by_its_key():
    spec = compose_run(["optimizer.weight_decay=0.2"])
    said = verdict(moved(1e-6), spec=spec)
    assert said.conclusion is Conclusion.DIFFERENT
    assert said.reason == "because of optimizer.weight_decay: 0.01 -> 0.2"


def test_a_spec_that_is_not_the_one_of_the_result_is_seen():
    then = record(spec_digest="0" * 64)
    (difference,) = differences(then, then.spec, PROVENANCE)
    assert (difference.name, difference.effect) == ("spec.json", Effect.MEANING)


def test_what_cant_change_bits_is_reported_and_is_no_excuse():
    other = changed("versions/mlflow", "4.0")
    (difference,) = differences(record(), record().spec, other)
    assert difference.effect is Effect.NONE
    assert verdict(moved(1e-9), provenance=other).conclusion is Conclusion.DIFFERENT
    assert verdict(provenance=other).conclusion is Conclusion.IDENTICAL


def test_a_metric_may_be_off_by_two_held_out_rows():
    other = changed("compute/threads", 1)
    few = result(data={"eval_rows": 20})
    assert verdict(moved(0.1, "eval/accuracy"), again=few, provenance=other).conclusion is Conclusion.EQUIVALENT
    assert verdict(moved(0.1, "eval/loss"), again=few, provenance=other).conclusion is Conclusion.DIFFERENT
    assert verdict(moved(0.1, "eval/accuracy"), provenance=other).conclusion is Conclusion.DIFFERENT


def test_the_largest_gap_is_measured_by_its_tolerance():
    curve = {**CURVE, 1: {"train/loss": 0.7, "train/grad_norm": 2.015}, 2: {**CURVE[2], "train/loss": 0.609}}
    said = verdict(curve, provenance=changed("compute/threads", 1))
    assert said.first.metric == "train/grad_norm"
    assert said.largest.metric == "train/loss"


def test_missing_and_nan_numbers():
    less = {1: CURVE[1], 2: CURVE[2]}
    said = verdict(less)
    assert said.conclusion is Conclusion.DIFFERENT
    assert said.first.step == 4
    assert math.isinf(said.first.size)
    nan = {**CURVE, 1: {"train/loss": math.nan, "train/grad_norm": 2.0}}
    then = replace(record(), curve=nan)
    assert verdict(nan, then=then).conclusion is Conclusion.IDENTICAL
    assert verdict(nan).conclusion is Conclusion.DIFFERENT


def test_a_rerun_that_fails_is_different_and_a_failure_that_comes_again_is_not():
    said = verdict(again=result(status=Status.FAILED, reason="diverged at step 4"))
    assert said.conclusion is Conclusion.DIFFERENT
    assert said.reason == "it ended as FAILED (diverged at step 4), the record as FINISHED"
    failed = {"status": Status.FAILED, "reason": "diverged at step 4: x", "cause": Cause.DIVERGED, "metrics": {}}
    failed["weights_sha256"] = None
    then = record(**failed)
    assert then.until() is None
    assert verdict(then=then, again=result(**failed)).conclusion is Conclusion.IDENTICAL


def test_a_part_of_a_run_is_compared_without_what_its_end_adds():
    extra = {1: CURVE[1], 2: {**CURVE[2]}}
    paused = result(status=Status.PRUNED, reason="paused after epoch 1")
    said = verdict(extra, again=paused, until=2)
    assert said.conclusion is Conclusion.IDENTICAL
    assert said.reason == "every number up to step 2 is bit-equal"
    odd = {1: {**CURVE[1], "eval/loss": 0.1}}  # evaluated where it ended; the record was not
    assert verdict(odd, again=paused, until=1).conclusion is Conclusion.IDENTICAL
    assert verdict({1: {**CURVE[1], "train/loss": 9.0}}, again=paused, until=1).conclusion is Conclusion.DIFFERENT


@pytest.mark.parametrize(
    ("changes", "until"),
    [
        ({}, None),
        ({"status": Status.PRUNED, "reason": "pruned after epoch 1"}, 4),
        ({"status": Status.KILLED, "reason": "stopped by SIGINT"}, 4),
        ({"status": Status.FAILED, "reason": "killed by signal 9"}, 4),
        ({"status": Status.FAILED, "reason": "diverged at step 3", "cause": Cause.DIVERGED}, None),
    ],
)
def test_where_a_rerun_ends(changes, until):
    assert record(**changes).until() == until


def test_a_run_without_a_step_cant_be_reproduced():
    then = replace(record(status=Status.FAILED, reason="ValueError: x"), curve={})
    with pytest.raises(UserError, match="before its first step"):
        then.until()


def write_record(folder, spec=None):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spec.json").write_text((spec or compose_run()).to_json())
    lines = [json.dumps({"step": step, **values}) for step, values in CURVE.items()]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    files = hashes_of(folder, RECORDED_FILES)
    (folder / "result.json").write_text(replace(result(), files=files).to_json())
    return folder


def test_a_record_is_read_from_three_files(tmp_path):
    found = read_record(write_record(tmp_path), "r", spec_from_json)
    assert (found.spec, found.curve, replace(found.result, files={})) == (compose_run(), CURVE, result())


def test_a_curve_that_was_changed_is_not_compared(tmp_path, caplog):
    folder = write_record(tmp_path)
    text = (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text(text.replace("0.65", "0.64"))
    assert read_record(folder, "r", spec_from_json).curve == {}
    assert "the curve is not compared" in caplog.text


@pytest.mark.parametrize("name", ["spec.json", "result.json", "metrics.jsonl"])
def test_a_link_that_leads_out_of_the_folder_is_refused(tmp_path, name):
    inside = write_record(tmp_path / "inside")
    outside = tmp_path / name
    (inside / name).replace(outside)
    (inside / name).symlink_to(outside)
    with pytest.raises(UserError, match="leads out"):
        read_record(inside, "r", spec_from_json)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("spec.json", "{"), ("spec.json", "[]"), ("spec.json", '{"schema": 99}'), ("spec.json", "\x00"),
        ("spec.json", "!!python/object/apply:os.system ['touch canary']"), ("result.json", "{}"),
        ("result.json", '{"schema": 99}'), ("metrics.jsonl", '{"train/loss": 1}\n'), ("metrics.jsonl", "[1]\n"),
        ("metrics.jsonl", '{"step": 1, "train/loss": {}}\n'), ("metrics.jsonl", "5\n"), ("result.json", "[" * 100_000),
        ("spec.json", "a: &a [1]\nb: *a\n"),
    ],
)  # fmt: skip
def test_a_damaged_or_foreign_record_is_one_line_and_runs_nothing(tmp_path, monkeypatch, name, text):
    monkeypatch.chdir(tmp_path)
    folder = write_record(tmp_path / "r")
    (folder / name).write_text(text)
    with pytest.raises(UserError) as error:
        read_record(folder, "r", spec_from_json)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "change", [{"metrics": []}, {"provenance": [1]}, {"provenance": {"compute": [1]}}, {"data": 1}]
)
def test_a_result_of_other_shapes_is_one_line(tmp_path, change):
    folder = write_record(tmp_path)
    data = json.loads((folder / "result.json").read_text())
    data.pop("sha256")
    (folder / "result.json").write_text(sealed({**data, **change}))
    with pytest.raises(UserError, match="no result|no group"):
        read_record(folder, "r", spec_from_json)


def test_a_record_that_is_no_text_is_one_line(tmp_path):
    folder = write_record(tmp_path)
    (folder / "result.json").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="is no text"):
        read_record(folder, "r", spec_from_json)


def test_a_tolerance_of_zero_leaves_no_room():
    said = verdict(moved(1e-9), provenance=changed("compute/threads", 1), tolerance=0.0)
    assert said.conclusion is Conclusion.DIFFERENT
    assert said.largest is not None


def test_nothing_to_compare_is_not_identical():
    said = verdict({}, again=result(status=Status.PRUNED, metrics={}), then=replace(record(), curve={}), until=1)
    assert said.conclusion is Conclusion.DIFFERENT
    assert said.reason == "there was no number to compare"


def test_a_run_lost_at_its_last_step_may_come_to_its_end():
    then = record(status=Status.FAILED, reason="killed by signal 9", metrics={}, weights_sha256=None)
    assert verdict(then=then, until=4).conclusion is Conclusion.IDENTICAL


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cuda", "driver"])
def test_another_gpu_stack_may_change_bits(name):
    then = record(provenance={**PROVENANCE, "compute": {**PROVENANCE["compute"], name: "12.4"}})
    said = verdict(moved(1e-6), then=then, provenance=changed(f"compute/{name}", "13.0"))
    assert said.conclusion is Conclusion.EQUIVALENT
