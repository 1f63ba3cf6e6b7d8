"""Each named data set of the hub, from a small local copy with its subsets, splits, columns and class names."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest

from frostline.config import compose_run
from frostline.errors import UserError
from frostline.records.result import RunResult, Status
from frostline.records.run_context import RunContext
from frostline.records.run_folder import RunFolder
from frostline.train import run
from tests.conftest import sentences
from tests.support.sweep_tools import call

CONF = Path(__file__).parents[3] / "conf" / "dataset"
NAMED = sorted(
    path.stem
    for path in CONF.glob("*.yaml")
    if "_base/glue" in path.read_text() or ("source: hub" in path.read_text() and path.stem != "hub")
)

# Columns, class names (None: a number) and the splits besides `train`, as the hub has them.
KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...] | None, tuple[str, ...]]] = {
    "ag_news": (("text",), ("World", "Sports", "Business", "Sci/Tech"), ("test",)),
    "cola": (("sentence",), ("unacceptable", "acceptable"), ("validation", "test")),
    "emotion": (("text",), ("sadness", "joy", "love", "anger", "fear", "surprise"), ("validation", "test")),
    "imdb": (("text",), ("neg", "pos"), ("test", "unsupervised")),
    "mnli": (
        ("premise", "hypothesis"), ("entailment", "neutral", "contradiction"),
        ("validation_matched", "validation_mismatched", "test_matched"),
    ),
    "mrpc": (("sentence1", "sentence2"), ("not_equivalent", "equivalent"), ("validation", "test")),
    "qnli": (("question", "sentence"), ("entailment", "not_entailment"), ("validation", "test")),
    "rte": (("sentence1", "sentence2"), ("entailment", "not_entailment"), ("validation", "test")),
    "sst2": (("sentence",), ("negative", "positive"), ("validation", "test")),
    "trec": (("text",), ("ABBR", "ENTY", "DESC", "HUM", "LOC", "NUM"), ("test",)),
    "stsb": (("sentence1", "sentence2"), None, ("validation", "test")),
}  # fmt: skip


def build(name: str, subset: str | None, folder: Path) -> None:
    """Parquet files of each split, and a card that names the subset, as the hub's repositories have them."""
    columns, classes, others = KINDS[name]
    label = datasets.Value("float32") if classes is None else datasets.ClassLabel(names=list(classes))
    named = compose_run([f"dataset={name}"]).dataset.label_column
    features = datasets.Features({**{key: datasets.Value("string") for key in columns}, named: label})
    where = folder / (subset or "plain_text")
    where.mkdir(parents=True)
    for seed, split in enumerate(("train", *others)):
        hidden = split.startswith(("test", "unsupervised")) and split != "test"
        rows = []
        for index, (text, mood) in enumerate(sentences(64 if split == "train" else 24, seed)):
            value: float = 2.5 * (mood == "positive") if classes is None else index % len(classes)
            made = {key: f"{text} {key} {split}" for key in columns}
            rows.append({**made, named: -1 if hidden and classes is not None else value})
        datasets.Dataset.from_list(rows, features=features).to_parquet(where / f"{split}-00000-of-00001.parquet")
    lines = ["---", "configs:", f"- config_name: {where.name}", "  data_files:"]
    for split in ("train", *others):
        lines += [f"  - split: {split}", f"    path: {where.name}/{split}-*"]
    (folder / "README.md").write_text("\n".join([*lines, "---", "# A copy"]) + "\n")


@pytest.fixture
def copy_of(tmp_path):
    """Overrides that put a local copy in the place of a data set of the hub."""

    def made(name: str) -> list[str]:
        build(name, compose_run([f"dataset={name}"]).dataset.subset, tmp_path / "copy")
        return [f"dataset={name}", f"dataset.location={tmp_path / 'copy'}", "dataset.revision=null"]

    return made


def test_every_named_data_set_is_tried():
    assert sorted(KINDS) == NAMED


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMED)
def test_a_named_data_set_trains_from_a_copy_in_the_hubs_layout(name, tiny_overrides, tmp_path, copy_of):
    model = [each for each in tiny_overrides if not each.startswith("dataset")]
    columns, classes, others = KINDS[name]
    task = ["training=regression"] if classes is None else []
    revision = compose_run([f"dataset={name}", *task]).dataset.revision
    assert len(revision) == 40 or (name, revision) == ("trec", "refs/convert/parquet")  # a commit
    spec = compose_run([*task, *model, *copy_of(name), "freeze.depth=1", "optimizer.lr=1e-3"])
    with RunFolder(tmp_path / "run", spec) as recorder:
        result = run(spec, RunContext(recorder, tmp_path / "run"))
    assert result.status is Status.FINISHED, result.reason
    assert result.data["label_names"] == list(classes or ())
    assert (result.data["train_rows"], result.data["eval_rows"]) == (64, 24)
    assert result.data["overlap"] == 0  # held out is another split
    assert spec.dataset.eval_from == others[0]
    assert result.objective.metric == ("spearman" if classes is None else "accuracy")


@pytest.mark.slow
def test_pairs_are_judged_by_accuracy_and_f1_and_predicted(tiny_overrides, tmp_path, copy_of):
    """What the notebooks print for MRPC, and a question in the task's terms."""
    model = [each for each in tiny_overrides if not each.startswith("dataset")]
    asked = ["training.metrics=[accuracy,f1]", "tracking=off", "hydra.run.dir=here"]
    done = call("run", *model, *copy_of("mrpc"), *asked, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = RunResult.read(tmp_path / "here")
    assert {"eval/accuracy", "eval/f1", "eval/loss"} <= set(result.metrics)
    assert "eval/balanced_accuracy" not in result.metrics
    done = call("predict", "here", "the film was good", "--pair", "a fine film", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "equivalent" in done.stdout


def test_regression_asks_for_its_metrics(tiny_overrides, copy_of, tmp_path):
    model = [each for each in tiny_overrides if not each.startswith("dataset")]
    spec = compose_run([*model, *copy_of("stsb")])
    refused = pytest.raises(UserError, match="accuracy is not for regression; .* training=regression")
    with RunFolder(tmp_path / "run", spec) as recorder, refused:
        run(spec, RunContext(recorder, tmp_path / "run"))


def test_the_other_domains_of_mnli(tiny_overrides, copy_of, tmp_path):
    model = [each for each in tiny_overrides if not each.startswith("dataset")]
    spec = compose_run([*model, *copy_of("mnli"), "dataset.eval_from=validation_mismatched", "dataset.train_rows=32"])
    with RunFolder(tmp_path / "run", spec) as recorder:
        result = run(spec, RunContext(recorder, tmp_path / "run"))
    assert result.status is Status.FINISHED
    assert result.data["train_rows"] == 32
