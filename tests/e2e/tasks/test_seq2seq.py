"""An encoder and a decoder through the whole of frostline, on a small T5 and a small BART."""

from __future__ import annotations

import json
import re

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from frostline.config import compose_job
from frostline.errors import SpecError
from frostline.inference.embeddings import Encoder, Pooling
from frostline.inference.generate import Generation, Writer
from frostline.train.data import load_data
from tests.conftest import FILLER, TINY
from tests.support.language_models import save_encoder_decoder
from tests.support.tiny_runs import stop_and_resume, train

KINDS = ("t5", "bart")
MOODS = ("bad", "good", "long")


def pairs(count=60):
    for n in range(count):
        film, mood = FILLER[n % len(FILLER)], MOODS[n % len(MOODS)]
        yield f"film {n} of {film} was {mood} , said everyone" + " twice" * (n % 4), f"{film} : {mood}" + " !" * (n % 2)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    home = tmp_path_factory.mktemp("encoder-decoders")
    texts = [text for pair in pairs() for text in pair]
    return {kind: save_encoder_decoder(kind, home / kind, texts, num_blocks=(3, 2)) for kind in KINDS}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": text, "summary": target}) + "\n" for text, target in pairs()))
    return path


def arguments(model, path, *more):
    return [
        "model=path", f"model.location={model}", "dataset=jsonl", f"dataset.location={path}", "dataset.task=seq2seq",
        "dataset.target_column=summary", *TINY, "training=seq2seq", "tracking=off", "freeze=depth", *more,
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_the_prefix_cache_gives_the_same_numbers(tmp_path, models, rows, kind, depth):
    """With dropout: an encoder whose embeddings are frozen draws none for them."""
    given = arguments(models[kind], rows, f"freeze.depth={depth}", "training.epochs=2")
    cached, plain = (train([*given, f"runtime.cache={mode}"], tmp_path / mode) for mode in ("require", "off"))
    assert cached.audit.frozen_unchanged
    assert (cached.freeze.num_blocks, cached.freeze.depth) == (5, depth)
    assert cached.metrics["eval/loss"] == pytest.approx(plain.metrics["eval/loss"], abs=1e-5)
    before = AutoModelForSeq2SeqLM.from_pretrained(models[kind]).state_dict()
    after = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "require" / "model").state_dict()
    moved = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    blocks = [rf"encoder\.(block|layers)\.{number}\." for number in range(3)]
    blocks += [rf"decoder\.(block|layers)\.{number}\." for number in range(2)]
    moves = [any(re.search(block, name) for name in moved) for block in blocks]
    assert moves == [number >= depth for number in range(5)]
    norm = "encoder.final_layer_norm.weight"
    assert (norm in moved) == (kind == "t5" and depth < 3)
    scores = pq.read_table(tmp_path / "require" / "predictions.parquet").to_pandas()
    mean = (scores["loss"] * scores["label"]).sum() / scores["label"].sum()
    assert cached.metrics["eval/loss"] == pytest.approx(mean, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_of_a_batch_is_transformers_own(tmp_path, models, rows, kind):
    given = arguments(models[kind], rows, "freeze.depth=3")
    result = train(given, tmp_path / "run")
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "run" / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "model")
    loaded, _ = load_data(compose_job(given).run, False)
    batch = tokenizer(list(loaded.evaluation["text"]), padding=True, return_tensors="pt")
    labels = tokenizer(text_target=list(loaded.evaluation["target"]), padding=True, return_tensors="pt")["input_ids"]
    labels[labels == tokenizer.pad_token_id] = -100
    with torch.no_grad():
        theirs = float(model(**batch, labels=labels).loss)
    assert result.metrics["eval/loss"] == pytest.approx(theirs, rel=1e-6)


@pytest.mark.slow
def test_a_steps_loss_does_not_depend_on_how_it_is_cut(tmp_path, models, rows):
    common = ("freeze.depth=1", "training.sampling=random", "optimizer.lr=1e-2")
    losses = []
    for size, steps in ((16, 1), (2, 8)):
        cut = (f"training.batch_size={size}", f"training.accumulation_steps={steps}")
        given = arguments(models["bart"], rows, *common, *cut)
        losses.append(train(given, tmp_path / f"{size}x{steps}").metrics["eval/loss"])
    assert losses[0] == pytest.approx(losses[1], abs=2e-2)  # dropout draws other numbers


@pytest.mark.slow
@pytest.mark.parametrize(
    "freeze",
    [["freeze=lora", "freeze.rank=2", "freeze.depth=2"], ["freeze=gradual", "training.epochs=6"], ["freeze=none"]],
)
def test_other_freeze_methods(tmp_path, models, rows, freeze):
    given = [each for each in arguments(models["t5"], rows) if each != "freeze=depth"]
    cached, plain = (train([*given, *freeze, f"runtime.cache={mode}"], tmp_path / mode) for mode in ("auto", "off"))
    assert cached.status.value == "FINISHED"
    assert cached.metrics["eval/loss"] == pytest.approx(plain.metrics["eval/loss"], abs=1e-4)


@pytest.mark.slow
def test_a_killed_run_resumes_in_the_same_bits(tmp_path, models, rows):
    given = arguments(models["t5"], rows, "freeze.depth=4", "training.epochs=3", "runtime.cache=require")
    whole = train(given, tmp_path / "whole")
    later = stop_and_resume(given, tmp_path / "part", 7)
    assert later.weights_sha256 == whole.weights_sha256


@pytest.mark.slow
def test_a_run_writes_summaries_scored_by_rouge(frostline, in_tmp, models, rows):
    given = [each for each in arguments(models["t5"], rows) if each not in {"freeze=depth"}]
    learn = ("freeze=none", "training.epochs=30", "optimizer.lr=5e-3", "training.batch_size=4")
    more = ("training.generate_rows=6", "training.max_target_tokens=12", "dataset.test_fraction=0.2")
    code, out, err = frostline("run", *given, *learn, *more)
    assert code == 0, err
    [folder] = {path.parent for path in in_tmp.rglob("result.json")}
    records = [json.loads(line) for line in (folder / "generated.jsonl").read_text().splitlines()]
    assert [record["row"] for record in records] == list(range(6))
    metrics = json.loads((folder / "result.json").read_text())["metrics"]
    assert metrics["eval/rougeL"] == pytest.approx(sum(record["rougeL"] for record in records) / 6)
    assert metrics["eval/rouge1"] > 0.5  # it has learned what these texts are about
    assert "rougeL" in out
    code, written, err = frostline("predict", str(folder), records[0]["text"], "--max-new-tokens", "12")
    assert (code, written) == (0, f"{records[0]['written']}\n"), err
    [(_, other)] = Writer(folder / "model", is_chat=False, max_tokens=2).write([records[0]["text"]], Generation())
    assert other != written  # of the text it reads two tokens
    code, out, err = frostline("reproduce", str(folder))
    assert code == 0, (out, err)
    code, out, err = frostline("show", "--test", str(folder))
    assert (code, "perplexity" in out) == (0, True), err
    for name in ("vectors.parquet", "vectors.safetensors"):
        code, _, err = frostline("predict", "--vectors", str(folder), "--out", name)
        assert code == 0, err
    assert pq.read_table("vectors.parquet")["label"].null_count > 0


@pytest.mark.parametrize("kind", KINDS)
def test_texts_are_embedded_by_the_encoder(models, kind):
    tokenizer = AutoTokenizer.from_pretrained(models[kind])
    batch = tokenizer(["a good film"], return_tensors="pt")
    encoder = AutoModelForSeq2SeqLM.from_pretrained(models[kind]).get_encoder().eval()
    with torch.no_grad():
        expected = encoder(**batch, output_hidden_states=True)
    last = Encoder(models[kind], Pooling.MEAN, device="cpu").encode(batch)
    assert last == pytest.approx(expected.last_hidden_state.mean(1).numpy(), abs=1e-5)
    second = Encoder(models[kind], Pooling.MEAN, 2, device="cpu").encode(batch)
    assert second == pytest.approx(expected.hidden_states[2].mean(1).numpy(), abs=1e-5)
    with pytest.raises(SpecError, match="the model has 3 blocks"):
        Encoder(models[kind], Pooling.MEAN, 4)


@pytest.mark.slow
def test_a_sweep_counts_the_blocks_of_both(frostline, in_tmp, models, rows):
    given = [each for each in arguments(models["t5"], rows) if each not in {"freeze=depth", "runtime.cache=off"}]
    objective = ("training.objective=loss", "sweep.margin=0.5", "sweep.settle=0")
    code, out, err = frostline(
        "sweep", "lr_x_depth", *given, "sweep.n_trials=5", "training.epochs=2", *objective, "sweep.name=s"
    )
    assert code == 0, err
    assert "of 5 blocks" in out
    assert re.search(r"[1-5] of 5 trials used the prefix cache", out), (out, err)
    code, out, err = frostline("sweep", "lr_x_depth", "--plan", *given, *objective, "training.epochs=2")
    assert (code, "wall time" in out) == (0, True), err
    code, out, err = frostline("report", "s", "--latency")
    assert (code, "ms a row at batch 32" in out) == (0, True), err


@pytest.mark.slow
def test_what_does_not_fit_is_one_line(frostline, in_tmp, models, rows, tiny_model):
    full = [each for each in arguments(models["bart"], rows) if each != "runtime.cache=off"]
    for given, message in (
        ([*full, "freeze.depth=5"], "nothing is left to train: the frozen part is the whole model; freeze less"),
        ([*full, "freeze.depth=6"], "has 5 blocks"),
        ([*full, "training.max_target_tokens=200"], "training.max_target_tokens=200: the model has 128 positions"),
        (arguments(tiny_model, rows), "bert has not both"),
        (
            [each for each in full if each != "freeze=depth"] + ["freeze=lp_ft", "training.epochs=2"],
            "freeze=lp_ft: nothing is left to train from epoch 0 on: the model's head has no parameters of its own",
        ),
        ([*full, "training=default"], "accuracy is not for seq2seq; for it there are perplexity"),
    ):
        code, _, err = frostline("run", *given)
        assert (code, message in err) == (2, True), err
