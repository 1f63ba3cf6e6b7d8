"""`frostline predict --vectors`: writes the rows of a data set as vectors to a file."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.api.recorded_spec import located
from frostline.cli.common import compose, override_parser
from frostline.errors import SpecError, UserError
from frostline.files import written_whole

if TYPE_CHECKING:
    from collections.abc import Iterator

    from datasets import Dataset

    from frostline.data.load import Rows
    from frostline.data.token_table import Padding
    from frostline.inference.embeddings import Encoder, VectorWriter
    from frostline.spec import RunSpec

# As in `frostline.inference.embeddings`, whose import would cost --help torch.
_POOLS = ("first", "mean", "last", "pooler")
_SETS = ("train", "eval", "test")


def main(arguments: list[str]) -> int:
    """Writes one vector for each row."""
    parser = override_parser(
        "predict --vectors",
        "Writes what a model makes of each row of a data set, one vector a row, to a Parquet or safetensors file:\n"
        "a trained run's model, or a pretrained one. Rows are written as they come: the file may be of any size.",
        "examples:\n"
        "  frostline predict --vectors model=minilm dataset=tweets --pool mean\n"
        "  frostline predict --vectors runs/single/... --out vectors.safetensors\n"
        "  frostline predict --vectors runs/single/... dataset=amazon --block 3 --pool first",
    )
    parser.usage = (
        "frostline predict --vectors [-h] [--pool POOL] [--block N] [--set SET] [--text] [--out FILE]\n"
        "                                   [RUN] [KEY=VALUE ...]"
    )
    actions = [action for action in parser._actions if action.dest == "overrides"]
    actions[0].help, actions[0].metavar = (
        "a run (its folder, a sweep, an MLflow run id): its model and data; then overrides, for example dataset=tweets",
        "[RUN] KEY=VALUE",
    )
    parser.add_argument("--pool", choices=_POOLS, default="mean", help="which vector (default: mean of the tokens)")
    parser.add_argument(
        "--block", type=int, metavar="N", help="after block N, 0: the embeddings (default: the last hidden state)"
    )
    parser.add_argument("--set", choices=_SETS, action="append", help="only these rows (default: all there are)")
    parser.add_argument("--text", action="store_true", help="with a column of texts (Parquet)")
    parser.add_argument("--out", type=Path, default=Path("embeddings.parquet"), help="*.parquet or *.safetensors")
    parser.add_argument("--tracking-uri", help="where to look a run id up; the config's by default")
    options = parser.parse_args(arguments)
    if options.out.suffix not in {".parquet", ".safetensors"}:
        raise SpecError(f"--out={options.out}: give a name that ends in .parquet or .safetensors")
    if options.text and options.out.suffix != ".parquet":
        raise SpecError("--text: safetensors hold numbers only; give --out FILE.parquet")
    if not options.out.absolute().parent.is_dir():
        raise UserError(f"--out={options.out}: there is no folder {options.out.parent}")
    spec, folder = _spec(options)
    _write(spec, folder, options)
    return 0


def _spec(options: Any) -> tuple[RunSpec, Path | None]:
    """Returns what to read, and the folder of a trained model; None: the spec's own, pretrained."""
    run = next((word for word in options.overrides if "=" not in word or Path(word).exists()), None)
    if run is None:
        return compose(options).run, None
    from frostline.api.find_run import run_with_model, trained_spec

    folder = run_with_model(run, options.tracking_uri, options.config_dir)
    recorded = located(trained_spec(folder), folder)
    options.overrides.remove(run)
    foreign = [word for word in options.overrides if not word.startswith(("dataset=", "dataset.", "+dataset."))]
    if foreign:
        raise SpecError(f"{foreign[0]}: the run has its own model and settings; only dataset can be another")
    if not options.overrides:
        return recorded, folder / "model"
    if any(word.startswith("dataset=") for word in options.overrides):
        return replace(recorded, dataset=compose(options).run.dataset), folder / "model"
    from frostline.config import value_from_text
    from frostline.spec import RunSpec

    data = recorded.to_dict()
    for word in options.overrides:
        key, _, value = word.partition("=")
        data["dataset"][key.lstrip("+").partition(".")[2]] = value_from_text(value)
    return RunSpec.from_dict(data), folder / "model"


def _write(spec: RunSpec, folder: Path | None, options: Any) -> None:
    import datasets

    from frostline import assets
    from frostline.console import configure_logging
    from frostline.data.pixel_table import ImageInput
    from frostline.data.token_table import NO_PADDING, Padding
    from frostline.inference.embeddings import Encoder, Pooling
    from frostline.models import loading
    from frostline.train.data import load_data
    from frostline.train.inputs import load_processor

    configure_logging()
    _check(spec, folder, options)
    bar = sys.stderr.isatty()
    (datasets.enable_progress_bars if bar else datasets.disable_progress_bars)()
    source = folder if folder is not None else assets.model_folder(spec.model, progress=bar)
    if folder is None:
        loading.check_weights(spec.model, source)
    encoder = Encoder(source, Pooling(options.pool), options.block)
    rows, _ = load_data(replace(spec, dataset=replace(spec.dataset, also_evaluate=())), bar)
    processor, _ = load_processor(spec, source)
    every: dict[str, Dataset | None] = {"train": rows.train, "eval": rows.evaluation, "test": rows.test}
    wanted = options.set or list(_SETS)
    sets = {name: table for name, table in every.items() if table is not None and name in wanted}
    if not sets:
        raise SpecError(f"--set={wanted[0]}: the data set has no such rows; give dataset.test_fraction or test_from")
    about = {
        "model": str(folder) if folder is not None else spec.model_name, "dataset": spec.dataset_name,
        "pool": options.pool, "block": options.block, "max_tokens": spec.training.max_tokens,
        "label_names": list(rows.label_names),
    }  # fmt: skip
    was_there = options.out.exists()
    padding = NO_PADDING if isinstance(processor, ImageInput) else Padding.of(processor, encoder.model)
    with _writer(options, encoder.width, about, {name: len(table) for name, table in sets.items()}) as writer:
        cut = _write_sets(writer, spec, encoder, _Rows(rows, sets, processor, padding), options)
    words = f"block {options.block}" if options.block is not None else "the last hidden state"
    note = f"; {cut} texts longer than training.max_tokens={spec.training.max_tokens} were cut" if cut else ""
    shown = ", ".join(f"{len(table)} {name}" for name, table in sets.items())
    note += ", in place of what was there" if was_there else ""
    print(f"{options.out}: {shown} rows x {encoder.width} numbers ({options.pool} of {words}){note}")


def _check(spec: RunSpec, folder: Path | None, options: Any) -> None:
    """Refuses what has no vectors, or none that say anything."""
    from frostline.spec import Init

    if spec.dataset.task.labels_words:
        name = spec.dataset.task.name
        raise SpecError(f"dataset.task={name}: a sentence has no one label; embed its texts with another")
    if options.text and spec.dataset.is_image:
        raise SpecError("--text: the rows are images")
    if folder is None and spec.model.init is Init.RANDOM:
        raise SpecError("model.init=random: an untrained model's vectors say nothing; train it, and give the run")


@contextmanager
def _writer(options: Any, width: int, about: dict[str, Any], sizes: dict[str, int]) -> Iterator[VectorWriter]:
    """Yields the writer of `--out`, which replaces a file of that name only when it is whole."""
    from frostline.inference.embeddings import ParquetWriter, SafetensorsWriter

    named = bool(about["label_names"])
    try:
        with written_whole(options.out) as temporary:
            writer: VectorWriter
            if options.out.suffix == ".parquet":
                writer = ParquetWriter(temporary, width, about, named=named, with_text=options.text)
            else:
                writer = SafetensorsWriter(temporary, sizes, width, about, named=named)
            yield writer
            writer.close()
    except OSError as error:
        raise UserError(f"--out={options.out}: can't be written ({error.strerror or error})") from error


@dataclass(frozen=True)
class _Rows:
    """What is embedded.

    Attributes:
        rows: Of the data set.
        sets: Those that are wanted, by name.
        processor: Tokenizer or image processor.
        padding: How batches are filled up.
    """

    rows: Rows
    sets: dict[str, Dataset]
    processor: Any
    padding: Padding


def _write_sets(writer: VectorWriter, spec: RunSpec, encoder: Encoder, embedded: _Rows, options: Any) -> int:
    """Writes the vectors of all sets; returns how many texts were cut."""
    from tqdm.auto import tqdm

    from frostline.data.label_values import class_words
    from frostline.data.pixel_table import ImageInput
    from frostline.data.row_table import RowTable
    from frostline.data.tokenize import token_table
    from frostline.train.data import load_pixel_table

    label_names, cut = embedded.rows.label_names, 0
    separator = spec.dataset.label_separator if spec.dataset.task.may_have_no_class else None
    total = sum(len(table) for table in embedded.sets.values())
    with tqdm(total=total, unit=" rows", disable=not sys.stderr.isatty()) as progress:
        for name, table in embedded.sets.items():
            inputs: RowTable
            if isinstance(embedded.processor, ImageInput):
                inputs = load_pixel_table(name, table, embedded.rows, embedded.processor)
            else:
                inputs, is_cut = token_table(table, embedded.processor, spec.training.max_tokens)
                cut += int(is_cut.sum())
            for part in encoder.embed(name, inputs, embedded.padding, spec.training.eval_batch_size):
                part_rows = table[part.first : part.first + len(part.vectors)]
                labels = part_rows["labels"]
                if not spec.dataset.task.has_labels:  # what stands there tells rows apart
                    labels = [None if options.out.suffix == ".parquet" else 0] * len(labels)
                elif labels and isinstance(labels[0], list) and options.out.suffix != ".parquet":
                    raise UserError(f"--out={options.out}: labels of so many classes need a .parquet file")
                elif label_names and options.out.suffix == ".parquet":
                    labels = [class_words(label, label_names, separator) for label in labels]
                writer.write(part, labels, part_rows["text"] if options.text else None)
                progress.update(len(part.vectors))
    return cut
