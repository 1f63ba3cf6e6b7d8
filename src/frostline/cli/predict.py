"""`frostline predict`: predicts labels, continues texts or writes others from them, with a trained run's model."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.api.find_run import run_with_model, trained_spec
from frostline.cli.common import override_parser
from frostline.errors import UserError, listing, nearest, visible
from frostline.spec import Format

if TYPE_CHECKING:
    from frostline.inference.generate import Generation
    from frostline.inference.predict import Prediction
    from frostline.spec import RunSpec


_DATA_FILES = frozenset({".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet"})


def main(arguments: list[str]) -> int:
    """Prints a label and its score for each text, or what a language model writes; `--vectors` writes a file."""
    if "--vectors" in arguments:
        from frostline.cli.predict_vectors import main as write_vectors

        return write_vectors([word for word in arguments if word != "--vectors"])
    parser = override_parser(
        "predict",
        "Predicts labels with a trained run's model; a language model continues the texts, and one with an encoder\n"
        "and a decoder writes others from them, for example summaries. Pass texts (or image paths) as arguments, one\n"
        "per line on standard input, or as a column of a file.",
        'examples:\n  frostline predict runs/single/... "a wonderful film" "two hours I will not get back"\n'
        "  frostline predict lr_x_depth --file new.csv --column review --json > predictions.jsonl\n"
        "  frostline predict 0123456789abcdef < lines.txt      a run id in MLflow (--tracking-uri)\n"
        '  frostline predict runs/single/... --max-new-tokens 20 --temperature 0.7 "The film"      a language model',
    )
    parser.usage = (
        "frostline predict [-h] [--json] [--pair TEXT] [--file FILE [--column NAME] [--pair-column NAME]]\n"
        "                         [--max-new-tokens N] [--temperature T] [--seed N] [--tracking-uri URI]\n"
        "                         RUN [TEXT ...]"
    )
    actions = [action for action in parser._actions if action.dest == "overrides"]
    actions[0].help, actions[0].metavar = (
        "the run: its folder, a sweep (its best run) or an MLflow run id; then texts",
        "RUN [TEXT ...]",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line, with the score of every class")
    parser.add_argument("--pair", help="second text, for a model of text pairs")
    parser.add_argument("--file", type=Path, help="CSV, TSV, JSON lines or Parquet: each row of a column is a text")
    parser.add_argument("--column", help="with --file: the column; that of the run's data by default")
    parser.add_argument("--pair-column", help="with --file: the column of the second text, of a model of text pairs")
    parser.add_argument("--max-new-tokens", type=int, help="a language model: tokens to write at most (64)")
    parser.add_argument("--temperature", type=float, help="a language model: 0 (the default) takes the likeliest token")
    parser.add_argument("--seed", type=int, help="a language model: of the tokens drawn with a temperature (0)")
    parser.add_argument("--tracking-uri", help="where to look a run id up; the config's by default")
    parser.add_argument(
        "--vectors",
        action="store_true",
        help="a vector for each row of a data set: see frostline predict --vectors --help",
    )
    options = parser.parse_intermixed_args(arguments)
    if not options.overrides:
        parser.error("give a run: its folder or its MLflow run id")
    run, *texts = options.overrides
    folder = run_with_model(run, options.tracking_uri, options.config_dir)
    spec = trained_spec(folder)
    source = _inputs(options, run, texts, spec)
    how = _generation(options, run, spec)
    from frostline.inference.generate import Writer
    from frostline.inference.load import load_model

    model = load_model(folder / "model", spec)
    if isinstance(model, Writer):
        for text, written in model.write((text for text, _ in source), how):
            shown = json.dumps({"text": text, "written": written}, ensure_ascii=False) if options.json else written
            print(visible(shown), flush=True)
        return 0
    for prediction in model.predict(source):
        print(visible(_shown(prediction, options.json)), flush=True)
    return 0


def _inputs(options: Namespace, run: str, texts: list[str], spec: RunSpec) -> Iterator[tuple[str, str | None]]:
    """Returns the texts to be asked, each with the second one of a pair or None.

    Raises:
        UserError: They are not what the model reads, or the file has no such column.
    """
    from_file = options.file is not None
    if not from_file and (options.column is not None or options.pair_column is not None):
        raise UserError("--column: is for --file FILE")
    if from_file and (texts or options.pair is not None):
        raise UserError("--file: the texts come from it; give no others, and --pair-column for --pair")
    is_pair = spec.dataset.pair_column is not None
    if is_pair != (options.pair is not None or (from_file and is_pair)):
        need = "was trained on pairs of texts: give the second with --pair" if is_pair else "takes no --pair"
        raise UserError(f"{run}: its model {need}")
    if from_file:
        return _rows_of(options, spec)
    if spec.dataset.is_image and not texts and sys.stdin.isatty():
        raise UserError(f"{run}: its model reads images; give their paths")
    file = next(
        (text for text in texts if Path(text).suffix.lower() in {*_DATA_FILES, ".txt"} and len(text.split()) == 1), None
    )
    if file is not None and not spec.dataset.is_image:
        kind = "is a file" if Path(file).is_file() else "no such file"
        rows = f"rows give --file {file} --column NAME"
        raise UserError(f"{file}: {kind}; to ask of its {f'lines: < {file}' if file.endswith('.txt') else rows}")
    return ((text, options.pair) for text in (texts or read_lines()))


def _rows_of(options: Namespace, spec: RunSpec) -> Iterator[tuple[str, str | None]]:
    """Yields the texts of a file's rows.

    Raises:
        UserError: It can't be read, or has no such column, or a row holds no text.
    """
    import datasets

    from frostline import assets
    from frostline.data.readers import read_file

    (datasets.enable_progress_bars if sys.stderr.isatty() else datasets.disable_progress_bars)()

    columns = [options.column or next(iter(spec.dataset.content_columns.values()))]
    if spec.dataset.pair_column is not None:
        columns.append(options.pair_column or spec.dataset.pair_column)
    if not options.file.is_file():
        raise UserError(f"--file {options.file}: no such file")
    if not {suffix.lower() for suffix in options.file.suffixes} & _DATA_FILES:
        raise UserError(
            f"--file {options.file}: give CSV, TSV, JSON lines or Parquet; of plain lines: frostline predict RUN < "
            f"{options.file}"
        )
    plain = replace(
        spec.dataset, format=Format.AUTO, columns=None, quoted=True, separator=None, escape=None
    )  # the rows that the run was trained on may have had another form
    read = read_file(options.file, plain, assets.home() / "datasets")
    is_like_training = len(spec.dataset.columns or ()) == len(read.table.column_names)
    if is_like_training and not set(columns) <= set(read.table.column_names):
        read = read_file(options.file, replace(spec.dataset, format=Format.AUTO), assets.home() / "datasets")
    for column in columns:
        if column not in read.table.column_names:
            known = read.table.column_names
            raise UserError(
                f"--column {column}: {options.file} has no such column{nearest(column, known)}; it has {listing(known)}"
            )
    for number, row in enumerate(read.table.select_columns(columns), 1):
        if not all(isinstance(row[column], str) for column in columns):
            raise UserError(f"{options.file}, row {number}: holds no text in {' and '.join(columns)}")
        yield row[columns[0]], row[columns[1]] if len(columns) > 1 else None


def _generation(options: Namespace, run: str, spec: RunSpec) -> Generation:
    """Returns how texts are continued, if the run's model does that.

    Raises:
        UserError: An option is out of range, or for another model.
    """
    settings = {"max_new_tokens": options.max_new_tokens, "temperature": options.temperature, "seed": options.seed}
    chosen = {name: value for name, value in settings.items() if value is not None}
    if chosen and not spec.dataset.task.generates:
        flag = "--" + next(iter(chosen)).replace("_", "-")
        raise UserError(f"{flag}: is for a language model; {run} was trained for labels")
    from frostline.inference.generate import Generation

    return Generation(**chosen)


def read_lines() -> Iterator[str]:
    """Yields the lines of standard input; at a terminal it says first what it waits for."""
    if sys.stdin.isatty():
        print("one text a line, Ctrl-D to end:", file=sys.stderr)
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise UserError(
                f"standard input, line {number}: is not UTF-8 (byte {error.start + 1}); convert it, as with "
                "iconv -f LATIN1 -t UTF-8"
            ) from error
        yield text.rstrip("\r\n")


def _shown(prediction: Prediction, as_json: bool) -> str:
    if as_json:
        fields: dict[str, Any] = {
            "text": prediction.text,
            "label": prediction.label,
            "score": prediction.score,
            "scores": prediction.scores,
        }
        if prediction.words:
            fields["words"] = [{"word": w, "label": label, "score": score} for w, label, score in prediction.words]
        return json.dumps(fields, ensure_ascii=False)
    if prediction.words:
        return " ".join(f"{word}/{label}" for word, label, _ in prediction.words)
    text = " ".join(prediction.text.split())
    label = f"{prediction.label}\t" if prediction.label is not None else ""
    return f"{label}{prediction.score:.4f}\t{text}"
