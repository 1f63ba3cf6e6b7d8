"""A class for each word: read, trained, judged by spans, asked."""

from __future__ import annotations

import json
import random

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForTokenClassification, DataCollatorForTokenClassification, pipeline

from frostline.config import compose_job, compose_run
from frostline.data.conll import read_conll
from frostline.data.load import load_rows
from frostline.data.token_table import NO_LABEL, Padding
from frostline.data.tokenize import token_table
from frostline.errors import DataError, SpecError
from frostline.inference.predict import Predictor
from frostline.metrics import ComputeMetrics
from frostline.metrics.offline import METRIC_CLASSES, spans_of
from frostline.models.processors import load_tokenizer
from frostline.records.recorder import NullRecorder
from frostline.records.result import RunResult
from frostline.records.run_context import RunContext
from frostline.spec import TASKS
from tests.conftest import FILLER, TINY

NAMES = ("O", "B-MOOD", "I-MOOD")


def save_sentences(path, rows=120, seed=0):
    """Sentences in CoNLL's form: a mood is one word, or two that stand side by side."""
    rng, lines = random.Random(seed), ["-DOCSTART- -X- O O", ""]
    for index in range(rows):
        words = [(word, "O") for word in rng.choices(FILLER, k=rng.randint(3, 8))]
        found = [("good", "B-MOOD"), ("great", "I-MOOD")] if index % 2 else [("bad", "B-MOOD")]
        at = rng.randrange(len(words))
        words[at:at] = [*found, (str(index), "O")]  # a number of several tokens
        lines += [*(f"{word} X {tag}" for word, tag in words), ""]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def conll(tmp_path_factory):
    return save_sentences(tmp_path_factory.mktemp("conll") / "moods.conll")


def arguments(model, conll, *more):
    return [
        "model=path", f"model.location={model}", "dataset=conll", f"dataset.location={conll}",
        "training=token_classification", *TINY, "tracking=off", *more,
    ]  # fmt: skip


@pytest.fixture
def train(frostline, in_tmp, tiny_model, conll):
    def call(*more):
        before = {path.parent for path in in_tmp.rglob("result.json")}
        code, out, err = frostline("run", *arguments(tiny_model, conll, *more))
        assert code == 0, err
        [made] = {path.parent for path in in_tmp.rglob("result.json")} - before
        return made, RunResult.read(made)

    return call


def rows_of(path, cache, *more):
    spec = compose_run(["dataset=conll", f"dataset.location={path}", "training=token_classification", *more]).dataset
    return load_rows(spec, lambda other: path, cache)


def test_sentences_are_read(conll, tmp_path):
    rows = rows_of(conll, tmp_path)
    assert rows.label_names == ("B-MOOD", "I-MOOD", "O")
    assert (len(rows.train), len(rows.evaluation)) == (96, 24)
    counts = rows.report["labels"]
    assert counts["train"]["B-MOOD"] + counts["eval"]["B-MOOD"] == 120
    assert counts["train"]["I-MOOD"] + counts["eval"]["I-MOOD"] == 60
    first = rows.train[0]
    assert len(first["words"]) == len(first["labels"])


def test_the_first_token_of_a_word_has_its_label(conll, tmp_path, tiny_model):
    rows = rows_of(conll, tmp_path)
    tokenizer = load_tokenizer(tiny_model, 32, by_word=True)
    table, cut = token_table(rows.train, tokenizer, 32)
    assert not cut.any()
    labels = table.all_labels()
    for row in range(20):
        words = rows.train[row]["words"]
        ids = tokenizer(words, is_split_into_words=True).word_ids()
        expected = [
            NO_LABEL if word is None or (at and ids[at - 1] == word) else rows.train[row]["labels"][word]
            for at, word in enumerate(ids)
        ]
        assert labels[row, : len(ids)].tolist() == expected
        assert (labels[row, len(ids) :] == NO_LABEL).all()
    assert any(len(number) > 1 for row in rows.train for number in row["words"] if number.isdigit())
    table, cut = token_table(rows.train, tokenizer, 6)
    assert cut.any()
    assert table.all_labels().shape[1] == 6


def test_loss_and_batches_are_those_of_transformers(conll, tmp_path, tiny_model):
    """The mean over all words of a step, from the same tensors as its collator makes."""
    rows = rows_of(conll, tmp_path)
    tokenizer = load_tokenizer(tiny_model, 32, by_word=True)
    table, _ = token_table(rows.train, tokenizer, 32)
    model = AutoModelForTokenClassification.from_pretrained(tiny_model, num_labels=3).eval()
    numbers = np.array([0, 5, 9, 3])
    batch = table.inputs(numbers, Padding.of(tokenizer, model))
    labels = table.labels_at(numbers, batch["input_ids"].shape[1])
    plain = [{k: v for k, v in table.rows[int(n)].items() if k != "text"} for n in numbers]
    theirs = DataCollatorForTokenClassification(tokenizer)(plain)
    assert torch.equal(theirs["labels"], labels)
    assert torch.equal(theirs["input_ids"], batch["input_ids"])
    with torch.no_grad():
        output = model(**batch, labels=labels)
    ours = TASKS.get("token_classification").summed_loss(output.logits, labels) / (labels != NO_LABEL).sum()
    assert ours == pytest.approx(float(output.loss), rel=1e-6)
    by_row = TASKS.get("token_classification").losses_of(output.logits.double().numpy(), labels.numpy())
    counts = (labels != NO_LABEL).sum(1).numpy()
    assert (by_row * counts).sum() / counts.sum() == pytest.approx(float(output.loss), rel=1e-6)


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        ("O B-A I-A O", [("A", 1, 3)]),
        ("B-A B-A I-A", [("A", 0, 1), ("A", 1, 3)]),
        ("I-A I-A O I-B", [("A", 0, 2), ("B", 3, 4)]),  # begins where nothing went before
        ("B-A I-B I-B", [("A", 0, 1), ("B", 1, 3)]),
        ("S-A B-B E-B O", [("A", 0, 1), ("B", 1, 3)]),
        ("U-A U-A B-B I-B L-B I-B", [("A", 0, 1), ("A", 1, 2), ("B", 2, 5), ("B", 5, 6)]),
        ("O O", []),
        ("B-per-son I-per-son", [("per-son", 0, 2)]),
    ],
)
def test_spans(tags, spans):
    assert spans_of(tags.split()) == spans


def test_entity_metrics_by_hand():
    """Of three wanted spans two are found whole; one of four found ones has the wrong end, one the wrong type."""
    wanted = [["B-A", "I-A", "O", "B-B"], ["B-A", "O"]]
    found = [["B-A", "I-A", "O", "B-A"], ["B-A", "I-A"]]
    values = {name: METRIC_CLASSES[name]().compute(predictions=found, references=wanted) for name in (
        "entity_f1", "entity_precision", "entity_recall",
    )}  # fmt: skip
    assert values["entity_precision"]["entity_precision"] == pytest.approx(1 / 3)
    assert values["entity_recall"]["entity_recall"] == pytest.approx(1 / 3)
    assert values["entity_f1"]["entity_f1"] == pytest.approx(1 / 3)
    with pytest.raises(SpecError, match=r"entity_f1 is for tags of spans.*here are \[?NOUN"):
        ComputeMetrics(("entity_f1",), TASKS.get("token_classification"), 2, ("NOUN", "VERB"))


def test_a_run_learns_and_its_model_is_asked(train, frostline, conll):
    made, result = train(
        "freeze.depth=1",
        "training.epochs=10",
        "optimizer.lr=5e-3",
        "dataset.test_fraction=0.2",
        "training.max_tokens=24",
    )
    assert result.audit.frozen_unchanged
    assert result.metrics["eval/entity_f1"] > 0.95
    table = pq.read_table(made / "predictions.parquet").to_pylist()
    hits = [one == two for row in table for one, two in zip(row["label"], row["predicted"], strict=True)]
    assert np.mean(hits) == pytest.approx(result.metrics["eval/accuracy"])
    words = [len(row["label"]) for row in table]
    loss = np.average([row["loss"] for row in table], weights=words)
    assert loss == pytest.approx(result.metrics["eval/loss"], rel=1e-5)
    code, out, err = frostline("predict", str(made), "the film was good great and", "bad plot")
    assert code == 0, err
    assert out.splitlines() == ["the/O film/O was/O good/B-MOOD great/I-MOOD and/O", "bad/B-MOOD plot/O"]
    # Sentences of a batch are what each is alone: one of no words, one that is cut off.
    asked = ["bad plot", "", " ".join(["the film was good"] * 12), "a story"]
    predictor = Predictor(made / "model", 24)
    together, alone = (list(predictor.predict(((text, None) for text in asked), batch_size=size)) for size in (4, 1))
    assert [each.label for each in together] == [each.label for each in alone]
    for one, other in zip(together, alone, strict=True):
        assert one.score == pytest.approx(other.score, rel=1e-5)
        assert [word for word, *_ in one.words] == [word for word, *_ in other.words] == one.text.split()
    code, out, _ = frostline("predict", "--json", str(made), "a bad story")
    said = json.loads(out)
    assert [each["label"] for each in said["words"]] == ["O", "B-MOOD", "O"]
    theirs = pipeline("token-classification", model=str(made / "model"), aggregation_strategy="none")("a bad story")
    mood = next(each for each in theirs if each["word"] == "bad")
    assert said["words"][1]["score"] == pytest.approx(float(mood["score"]), rel=1e-4)
    code, out, err = frostline("show", "--test", str(made))
    assert code == 0, err
    assert "entity_f1" in out
    assert "(24 rows)" in out


@pytest.mark.slow
def test_however_a_step_is_cut_up_it_is_the_same(own_model, in_tmp, conll):
    """Of sentences with few and many words each word counts alike, over all passes of a step."""
    from frostline.train.run import run

    config = json.loads((own_model / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (own_model / "config.json").write_text(json.dumps(config))
    found = []
    for size, passes in ((16, 1), (4, 4), (2, 8)):
        given = [f"training.batch_size={size}", f"training.accumulation_steps={passes}", "training.sampling=random"]
        spec = compose_job(arguments(own_model, conll, "freeze.depth=2", *given)).run
        folder = in_tmp / str(size)
        folder.mkdir()
        found.append(run(spec, RunContext(NullRecorder(), folder)).metrics["eval/loss"])
    assert found[1:] == pytest.approx([found[0]] * 2, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("depth", [2, 4])
def test_from_the_prefix_cache_it_is_the_same(train, depth):
    _, plain = train(f"freeze.depth={depth}", "training.epochs=2")
    _, cached = train(f"freeze.depth={depth}", "training.epochs=2", "runtime.cache=require")
    assert cached.prefix_cache == f"depth {depth}"
    assert cached.metrics["eval/loss"] == pytest.approx(plain.metrics["eval/loss"], rel=1e-4)
    assert cached.metrics["eval/entity_f1"] == pytest.approx(plain.metrics["eval/entity_f1"], abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["freeze=lora", "freeze=gradual", "freeze=lp_ft", "freeze=norm_only"])
def test_ways_of_freezing(train, name):
    _, result = train(name, "training.epochs=3")
    assert result.audit.frozen_unchanged


@pytest.mark.slow
def test_a_killed_run_resumes_in_the_same_bits(train, in_tmp, tiny_model, conll):
    from frostline.train.run import run

    _, whole = train("freeze.depth=1", "training.epochs=3")
    spec = compose_job(arguments(tiny_model, conll, "freeze.depth=1", "training.epochs=3")).run
    part = in_tmp / "part"
    part.mkdir()
    run(spec, RunContext(NullRecorder(), part, until_step=8))
    assert run(spec, RunContext(NullRecorder(), part, resume_from=part)).weights_sha256 == whole.weights_sha256


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["roberta", "gpt2"])
def test_a_tokenizer_of_bytes_is_given_words(kind, frostline, in_tmp, conll):
    """A word alone is then the one that stands behind a space; the saved tokenizer knows that, too."""
    from transformers import GPT2Config, GPT2Model, GPT2TokenizerFast, RobertaConfig, RobertaModel

    letters = [chr(c) for c in range(97, 123)] + [str(d) for d in range(10)]
    tokens = ["<pad>", "<s>", "</s>", "<unk>", *letters, "\u0120", *(f"\u0120{each}" for each in letters)]
    vocab = {token: index for index, token in enumerate(tokens)}
    merges = [("\u0120", each) for each in letters]
    sizes = {"vocab_size": len(vocab), "pad_token_id": 0}
    if kind == "gpt2":
        model = GPT2Model(GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=64, **sizes))
    else:
        model = RobertaModel(
            RobertaConfig(
                hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
                max_position_embeddings=66, **sizes,
            )
        )  # fmt: skip
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    model.save_pretrained(in_tmp / "model")
    GPT2TokenizerFast(vocab=vocab, merges=merges, **special).save_pretrained(in_tmp / "model")
    tokenizer = load_tokenizer(in_tmp / "model", 60, by_word=True)
    first = tokenizer.convert_ids_to_tokens(tokenizer([["bad", "plot"]], is_split_into_words=True)["input_ids"][0])
    assert [each for each in first if each.startswith("\u0120")] == ["\u0120b", "\u0120p"]
    code, out, err = frostline("run", *arguments(in_tmp / "model", conll, "training.max_tokens=60", "freeze.depth=1"))
    assert code == 0, err
    [made] = {path.parent for path in in_tmp.rglob("result.json")}
    code, out, err = frostline("predict", str(made), "a bad film")
    assert (code, len(out.split())) == (0, 3), err


@pytest.mark.parametrize("form", ["jsonl", "parquet", "csv"])
def test_other_files_hold_lists_or_texts(form, tmp_path):
    import datasets

    names = ["O", "B-X"]
    rows = {"tokens": [["a", "b"], ["c"], ["d", "e"], ["f"]] * 5, "ner": [["O", "B-X"], ["O"], ["B-X", "O"], ["O"]] * 5}
    path = tmp_path / f"set.{form}"
    if form == "csv":
        lines = [f"{' '.join(w)},{' '.join(t)}" for w, t in zip(rows["tokens"], rows["ner"], strict=True)]
        path.write_text("tokens,ner\n" + "\n".join(lines))
    elif form == "jsonl":
        path.write_text("\n".join(json.dumps({"tokens": w, "ner": t}) for w, t in zip(*rows.values(), strict=True)))
    else:
        classes = datasets.Sequence(datasets.ClassLabel(names=names))
        features = datasets.Features({"tokens": datasets.Sequence(datasets.Value("string")), "ner": classes})
        datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
    given = ["dataset.task=token_classification", "dataset.text_column=tokens", "dataset.label_column=ner"]
    spec = compose_run([f"dataset={form}", f"dataset.location={path}", *given]).dataset
    found = load_rows(spec, lambda other: path, tmp_path / "cache")
    assert sorted(found.label_names) == sorted(names)
    if form == "parquet":
        assert found.label_names == ("O", "B-X"), "in the order of their ids"


def test_trouble_is_one_line(tmp_path, frostline, tiny_model, conll):
    path = tmp_path / "bad.conll"
    for text, message in (
        ("EU B-ORG\nrejects\n", r"bad.conll, line 2: has a word \('rejects'\) and no tag"),
        ("\n\n", "holds no sentences"),
        ("a O\n\nb O\n", "have 1 different classes"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            rows_of(path, tmp_path / "cache")
    path = tmp_path / "bad.jsonl"
    path.write_text('{"words": ["a", "b"], "tags": ["O", "B-X"]}\n{"words": ["a"], "tags": ["O", "O"]}\n')
    with pytest.raises(DataError, match="row 2: has 1 words in .* and 2 labels in .*; give each word one label"):
        rows_of(path, tmp_path / "cache", "dataset.format=jsonl")
    code, _, err = frostline("run", *arguments(tiny_model, conll, "dataset.pair_column=b"))
    assert (code, "words with a class each come alone" in err) == (2, True)
    code, _, err = frostline("run", *arguments(tiny_model, conll, "dataset.task=classification"))
    assert (code, "give dataset.task=token_classification" in err) == (2, True)


def test_no_word_is_lost_or_merged_in_reading(tmp_path):
    path = tmp_path / "odd.conll"
    path.write_text(
        "# a comment of several words\n# O\none B-X\n\nNew York\tB-LOC\nis\tO\n\na\u00a0b O\n-DOCSTART- -X-\nlast O\n",
        encoding="utf-8",
    )  # fmt: skip
    raw = read_conll(path, "0" * 64)
    assert raw.table["words"][:] == [["#", "one"], ["New York", "is"], ["a\u00a0b"], ["last"]]
    assert raw.table["tags"][:] == [["O", "B-X"], ["B-LOC", "O"], ["O"], ["O"]]


@pytest.mark.slow
def test_words_that_are_cut_off_are_counted_and_reported(train, frostline, in_tmp, tiny_model, conll):
    code, _, err = frostline("run", *arguments(tiny_model, conll, "training.max_tokens=6"))
    assert code == 0, err
    [made] = {path.parent for path in in_tmp.rglob("result.json")}
    cut = RunResult.read(made).data["words_cut"]
    assert min(cut.values()) > 0
    for name, lost in cut.items():
        assert (
            f"moods.conll ({name}): words beyond training.max_tokens=6, which nothing is trained or scored on: {lost}"
            in err
        )
    _, result = train()
    assert result.data["words_cut"] == {"train": 0, "eval": 0}


def test_a_class_without_a_word_to_train_on_is_known(tmp_path):
    train, held_out = tmp_path / "train.jsonl", tmp_path / "eval.jsonl"
    train.write_text('{"words": ["a", "b"], "tags": ["O", "B-X"]}\n{"words": ["c"], "tags": ["O"]}\n')
    held_out.write_text('{"words": ["d", "e"], "tags": ["B-Y", "O"]}\n')
    given = ["dataset.format=jsonl", f"dataset.eval_from={held_out}", "dataset.label_names=[O,B-X,B-Y]"]
    spec = compose_run(["dataset=conll", f"dataset.location={train}", "training=token_classification", *given]).dataset
    rows = load_rows(spec, lambda other: held_out if other else train, tmp_path / "cache")
    assert rows.evaluation[0]["labels"] == [2, 0]
    assert any("classes without a word to train on: B-Y" in warning for warning in rows.warnings)
    held_out.write_text('{"words": ["d"], "tags": [["O"]]}\n')
    with pytest.raises(DataError, match="row 1: expected a label, got list"):
        load_rows(spec, lambda other: held_out if other else train, tmp_path / "cache")


@pytest.mark.slow
def test_no_interval_of_words_as_if_they_were_rows(frostline, in_tmp, tiny_model, conll):
    given = [each for each in arguments(tiny_model, conll) if not each.startswith("optimizer.lr")]
    given += ["training.metrics=[accuracy,f1_macro]", "training.objective=accuracy", "sweep.n_trials=2"]
    code, out, err = frostline("sweep", "depth_only", *given, "optimizer.lr=1e-3")
    assert code == 0, err
    assert "of these held-out rows alone: accuracy is known by seed only, not row by row" in out
    assert "recommended: " in out or "best guess: " in out
