"""Owns: `frostline predict` - texts in, labels out. Must not know: how the model was trained."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.cli.common import compose, find_study, override_parser
from frostline.config import spec_from_json
from frostline.errors import UserError, visible
from frostline.record import MODEL_FOLDER, SPEC_FILE, check_files
from frostline.result import RunResult

if TYPE_CHECKING:
    from frostline.predict import Prediction
    from frostline.spec import RunSpec


def main(arguments: list[str]) -> int:
    """Prints a label and its score for each text."""
    parser = override_parser(
        "predict",
        "Asks the model of a trained run. Texts (of a model of images: paths) come as arguments, or one a line on\n"
        "standard input.",
        'examples:\n  frostline predict runs/single/... "a wonderful film" "two hours I will not get back"\n'
        "  frostline predict 0123456789abcdef < lines.txt      a run id in MLflow (--tracking-uri)",
    )
    parser.usage = "frostline predict [-h] [--json] [--pair TEXT] [--tracking-uri URI] RUN [TEXT ...]"
    actions = [action for action in parser._actions if action.dest == "overrides"]
    actions[0].help, actions[0].metavar = (
        "the run: its folder, a sweep (its best run) or an MLflow run id; then texts",
        "RUN [TEXT ...]",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line, with the score of every class")
    parser.add_argument("--pair", help="second text, for a model of text pairs")
    parser.add_argument("--tracking-uri", help="where to look a run id up; the config's by default")
    options = parser.parse_intermixed_args(arguments)
    if not options.overrides:
        parser.error("give a run: its folder or its MLflow run id")
    run, *texts = options.overrides
    folder = run_folder(run, options.tracking_uri, options.config_dir)
    spec = trained_spec(folder)
    if (spec.dataset.pair_column is None) != (options.pair is None):
        need = (
            "was trained on pairs of texts: give the second with --pair" if options.pair is None else "takes no --pair"
        )
        raise UserError(f"{run}: its model {need}")
    from frostline.predict import Predictor

    predictor = Predictor(folder / "model", spec.training.max_tokens)
    source = iter(texts) if texts else _lines()
    if predictor.reads_images and not texts and sys.stdin.isatty():
        raise UserError(f"{run}: its model reads images; give their paths")
    for prediction in predictor.predict((text, options.pair) for text in source):
        print(visible(_shown(prediction, options.json)), flush=True)
    return 0


def run_folder(run: str, tracking_uri: str | None, config_dir: str | None) -> Path:
    """Returns the folder of a run.

    Args:
        run: Its folder, a sweep's name or folder (its best run), or an MLflow run id.
        tracking_uri: Where to look an id up; None: the config's.
        config_dir: A folder of the user's own config groups.

    Raises:
        UserError: There is none.
    """
    study = find_study(run)
    if study is not None:
        from frostline.cli.sweeping.folder import recommended_run_folder

        return recommended_run_folder(study)
    path = Path(run)
    if path.is_dir():
        return path
    if "/" in run or not run.isalnum():
        raise UserError(f"{run}: no such folder")
    from argparse import Namespace

    from frostline import tracking

    uri = tracking_uri or compose(Namespace(overrides=[], config_dir=config_dir)).tracking.uri
    return tracking.run_folder(uri, run)


def run_spec(folder: Path) -> RunSpec:
    """Returns what the run in a folder was.

    Raises:
        UserError: The folder is none of a run, or its record is damaged.
    """
    try:
        return spec_from_json((folder / SPEC_FILE).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{folder}: is no run's folder ({SPEC_FILE}: {error.strerror})") from error
    except (UserError, UnicodeDecodeError) as error:
        raise UserError(f"{folder / SPEC_FILE}: is damaged: {error}") from error


def trained_spec(folder: Path) -> RunSpec:
    """Returns what the finished run in a folder was, its model checked against the run's record.

    Raises:
        UserError: The folder holds no finished run, no model, or a file that changed since the run.
    """
    spec = run_spec(folder)
    if not (folder / MODEL_FOLDER).is_dir():
        raise UserError(f"{folder / MODEL_FOLDER}: no trained model there (did the run finish?)")
    check_files(folder, RunResult.read(folder), SPEC_FILE, MODEL_FOLDER)
    return spec


def _lines() -> Iterator[str]:
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
