"""`frostline show --test`: the final score of a chosen run on its test rows.

Every look at test rows before the last choice makes the number a little too good. So the first look is recorded in the
run's folder, and shown again rather than repeated.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.api.recorded_spec import located, refuse_scripts
from frostline.cli.common import OneLineParser
from frostline.errors import UserError, as_user_error, visible
from frostline.files import write_atomically
from frostline.hashes import sealed, unsealed
from frostline.records.result import RunResult, Status
from frostline.records.run_folder import MODEL_FOLDER, SPEC_FILE, TEST_FILE, check_files
from frostline.spec import TEST_SET

if TYPE_CHECKING:
    import numpy as np

    from frostline.data.load import Rows
    from frostline.inference.predict import Predictor
    from frostline.spec import RunSpec

    Array = np.ndarray[Any, Any]


def main(arguments: list[str]) -> int:
    """Prints what a run's model says of the test rows."""
    options = _parser().parse_args(arguments)
    from frostline.api.find_run import run_with_model
    from frostline.config.recorded import read_spec

    folder = run_with_model(options.run, options.tracking_uri, None)
    spec, result = read_spec(folder), RunResult.read(folder)
    check_files(folder, result, SPEC_FILE)
    spec = located(spec, folder)
    if not spec.dataset.has_test:
        raise UserError(
            f"{options.run}: was trained without test rows; set some aside with dataset.test_fraction or test_from"
        )
    if result.status is not Status.FINISHED:
        raise UserError(f"{options.run}: has no final number: it is {result.status.value} ({result.reason})")
    by_word = not spec.dataset.task.rows_are_independent  # no interval is known
    record = _recorded(folder)
    if record is None and spec.dataset.test_at_end:
        values = {k.removeprefix("test/"): v for k, v in result.metrics.items() if k.startswith("test/")}
        record = {"metrics": values, "rows": result.data.get("test_rows"), "looks": 1, "first": "when the run ended"}
    if record is not None and not options.again:
        _print(result, record, f"shown before ({record['first']}); --again computes it anew", by_word=by_word)
        return 0
    refuse_scripts(options.run, spec.training.metrics, options.metric, options.plugin)
    check_files(folder, result, MODEL_FOLDER)
    now = {
        "metrics": (values := _compute(spec, folder, str(result.provenance.get("data_fingerprint")))),
        "rows": int(values.pop("rows")),
        "looks": 1 if record is None else int(record["looks"]) + 1,
        "first": datetime.now(UTC).isoformat(timespec="seconds") if record is None else record["first"],
        "weights_sha256": result.weights_sha256,
    }
    write_atomically(folder / TEST_FILE, sealed(now))
    _print(
        result,
        now,
        "" if record is None else f"look number {now['looks']}: each choice after a look flatters it",
        by_word=by_word,
    )
    _record(folder, result, now, options.tracking_uri)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="frostline show --test",
        description="The final number of a run: its model on the test rows (dataset.test_fraction, test_from), which\n"
        "training and every choice left alone. Computed once: afterwards the same number is shown again.",
        epilog="examples:\n"
        "  frostline show --test lr_x_depth            a sweep: its best run\n"
        "  frostline show --test runs/single/...",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", help="its folder, a sweep (its best run) or an MLflow run id")
    parser.add_argument("--again", action="store_true", help="compute it anew; the record counts how often")
    parser.add_argument(
        "--metric", action="append", default=[], metavar="NAME",
        help="a metric of the run that is a script of evaluate's, and that you trust; may be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--plugin", action="append", default=[], metavar="MODULE", help="a module that registers a metric of the run"
    )
    parser.add_argument("--tracking-uri", help="the store that the number is recorded in too; the config's by default")
    return parser


def _recorded(folder: Path) -> dict[str, Any] | None:
    try:
        data = unsealed((folder / TEST_FILE).read_text(encoding="utf-8"))
        return {
            "metrics": {str(key): float(value) for key, value in data["metrics"].items()},
            "rows": int(data["rows"]), "looks": int(data["looks"]), "first": str(data["first"]),
        }  # fmt: skip
    except OSError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{folder / TEST_FILE}: is damaged ({type(error).__name__}); remove it to compute it anew"
        ) from error


def _compute(spec: RunSpec, folder: Path, fingerprint: str) -> dict[str, float]:
    """Returns metrics and loss, and how many rows.

    Raises:
        UserError: The data are not those that the run was trained on: the split would be another, and rows that were
            trained on among the test rows.
    """
    import datasets
    import numpy as np

    from frostline.console import configure_logging
    from frostline.inference.predict import Predictor
    from frostline.metrics import ComputeMetrics
    from frostline.models.config_file import load_config
    from frostline.train.data import load_data

    configure_logging()
    (datasets.enable_progress_bars if sys.stderr.isatty() else datasets.disable_progress_bars)()
    kind = spec.dataset.task.auto_class(load_config(folder / "model")) if spec.dataset.task.generates else None
    predictor = Predictor(folder / "model", spec.training.max_tokens, kind)
    rows, _ = load_data(replace(spec, dataset=replace(spec.dataset, also_evaluate=())), False)
    if rows.fingerprint != fingerprint:
        raise UserError(
            f"{spec.dataset_name}: its rows are not those that the run was trained on: test rows of now may be "
            "training rows of then; put the data back"
        )
    assert rows.test is not None
    task = spec.dataset.task
    if spec.dataset.is_image or task.labels_tokens:
        logits, labels = _of_table(spec, folder, rows, predictor)
    else:
        labels = np.asarray(rows.test["labels"])
        pairs = rows.test["pair"] if "pair" in rows.test.column_names else [None] * len(rows.test)
        logits = predictor.logits(zip(rows.test["text"], pairs, strict=True), spec.training.eval_batch_size)
    compute = ComputeMetrics(spec.training.metrics, task, task.num_outputs(rows.label_names), rows.label_names)
    return {**compute(logits, labels), "loss": task.mean_loss(logits, labels), "rows": float(len(labels))}


def _of_table(spec: RunSpec, folder: Path, rows: Rows, predictor: Predictor) -> tuple[Array, Array]:
    """Returns what an evaluation keeps of test rows that are tokens with a label each, or images, and their labels."""
    import numpy as np
    import torch

    from frostline.data.pixel_table import ImageInput
    from frostline.data.row_table import RowTable
    from frostline.data.token_table import NO_PADDING, Padding
    from frostline.data.tokenize import num_words, token_table
    from frostline.train.data import load_pixel_table, warn_once
    from frostline.train.inputs import load_processor

    assert rows.test is not None
    task, size, max_tokens = spec.dataset.task, spec.training.eval_batch_size, spec.training.max_tokens
    processor, _ = load_processor(spec, folder / "model")
    table: RowTable
    if isinstance(processor, ImageInput):
        table, padding = load_pixel_table(TEST_SET, rows.test, rows, processor), NO_PADDING
    else:
        table, _ = token_table(rows.test, processor, max_tokens, own_encode=task.row_encoder(processor, spec.training))
        padding = Padding.of(processor, predictor.model)
        if task.labels_words and (num_cut := num_words(rows.test) - table.num_labels):
            warn_once(f"words beyond training.max_tokens={max_tokens}, which are not scored: {num_cut}")
    labels = table.all_labels()
    num_outputs = task.num_outputs(rows.label_names)
    logits = np.zeros((len(labels), num_outputs) if task.generates else (*labels.shape, num_outputs))
    for first in range(0, len(table), size):
        numbers = np.arange(first, min(first + size, len(table)))
        outputs = predictor.of_inputs(table.inputs(numbers, padding))
        if task.generates:
            logits[numbers] = task.reduce(outputs, torch.from_numpy(labels[numbers, : outputs.shape[1]])).numpy()
        else:
            logits[numbers, : outputs.shape[1]] = (
                outputs.double().numpy()
            )  # of sentences as long as the longest of these
    return logits, labels


def _print(result: RunResult, record: dict[str, Any], note: str, *, by_word: bool) -> None:
    from frostline.report import number
    from frostline.report.significance import interval_of_share

    values, rows = record["metrics"], record["rows"]
    metric = result.objective.metric if result.objective is not None else next(iter(values))
    names = sorted(values, key=lambda name: (name != metric, name))
    shown = {name: number(values[name]) for name in names}
    if "accuracy" in shown and rows and not by_word:
        shown["accuracy"] += f" +- {interval_of_share(values['accuracy'], rows):.4f}"
    print(visible(result.name))
    print(f"  test        {', '.join(f'{name} {value}' for name, value in shown.items())} ({rows} rows)")
    if result.objective is not None:
        print(f"  held out    {metric} {number(result.objective.value)}: what the choice was made by")
    if note:
        print(f"  {note}")


def _record(folder: Path, result: RunResult, record: dict[str, Any], uri: str | None) -> None:
    """Records the number in the run's MLflow run, if it has one there; that it can't be had is said, and no failure."""
    from argparse import Namespace

    from frostline import tracking
    from frostline.cli.common import compose

    where = uri or compose(Namespace(overrides=[], config_dir=None)).tracking.uri
    values = {f"test/{name}": value for name, value in record["metrics"].items()}
    tags = {"frostline.test_looks": str(record["looks"]), "frostline.test_first": record["first"]}
    if tracking.recorded_run(folder, where) is None:
        return
    try:
        with as_user_error(lambda error: UserError(f"  not in MLflow: {type(error).__name__}")):
            tracking.log_metrics_and_tags(folder, where, values, result.step or 0, tags)
    except UserError as error:  # the number is in the folder
        print(error)
