"""Causal language models through the whole of frostline, on small GPT-2s and Llamas."""

from __future__ import annotations

import json
import re
import shutil

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForLanguageModeling, GenerationConfig

from frostline.config import compose_job
from frostline.data.token_table import NO_LABEL
from frostline.inference.generate import Generation, Writer
from frostline.records.result import RunResult
from frostline.train.data import load_data
from tests.conftest import FILLER, TINY
from tests.support.language_models import save_language_model
from tests.support.tiny_runs import stop_and_resume, train

KINDS = ("gpt2", "llama")
COLUMNS = {
    "text": [],
    "completion": ["dataset.text_column=prompt", "dataset.target_column=answer"],
    "messages": ["dataset.messages_column=talk"],
}


def texts(count=60):
    moods = ("bad", "good")
    return [f"the film was {moods[n % 2]} {FILLER[n % len(FILLER)]}" + " and long" * (n % 4) for n in range(count)]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    home = tmp_path_factory.mktemp("language-models")
    return {kind: save_language_model(kind, home / kind, texts()) for kind in KINDS}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """The same texts whole, as prompts with their completions, and as conversations."""
    lines = []
    for text in texts():
        prompt, answer = text[:12], text[12:]
        talk = [{"role": "user", "content": text[:16]}, {"role": "assistant", "content": text[16:]}]
        lines.append(json.dumps({"text": text, "prompt": f"{prompt}{text[-9:]}", "answer": answer, "talk": talk}))
    path = tmp_path_factory.mktemp("texts") / "rows.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def arguments(model, path, *more):
    return [
        "model=path", f"model.location={model}", "dataset=jsonl", f"dataset.location={path}",
        "dataset.task=causal_lm", *TINY, "training=causal_lm", "tracking=off", "freeze=depth", *more,
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_prefix_cache_gives_the_same_numbers(tmp_path, models, rows, kind, columns):
    given = arguments(models[kind], rows, "freeze.depth=2", "training.epochs=2", *COLUMNS[columns])
    cached, plain = (train([*given, f"runtime.cache={mode}"], tmp_path / mode) for mode in ("require", "off"))
    assert cached.audit.frozen_unchanged
    assert cached.metrics["eval/loss"] == pytest.approx(
        plain.metrics["eval/loss"], abs=1e-3 if kind == "gpt2" else 1e-5
    )
    assert cached.metrics["eval/perplexity"] == pytest.approx(plain.metrics["eval/perplexity"], rel=1e-3)
    scores = pq.read_table(tmp_path / "require" / "predictions.parquet").to_pandas()
    mean = (scores["loss"] * scores["label"]).sum() / scores["label"].sum()
    assert cached.metrics["eval/loss"] == pytest.approx(mean, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_tied_head_is_frozen_with_the_embeddings(tmp_path, models, rows, kind):
    result = train(arguments(models[kind], rows, "freeze.depth=1"), tmp_path / "run")
    before = AutoModelForCausalLM.from_pretrained(models[kind]).state_dict()
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model").state_dict()
    assert torch.equal(before["lm_head.weight"], after["lm_head.weight"]) == (kind == "gpt2")
    assert result.audit.absent_from_optimizer
    given = [each for each in arguments(models[kind], rows) if each != "freeze=depth"]
    full = train([*given, "freeze=none", "optimizer.layer_decay=0.9"], tmp_path / "full")
    tuned = AutoModelForCausalLM.from_pretrained(tmp_path / "full" / "model").state_dict()
    assert full.status.value == "FINISHED"
    assert not torch.equal(before["lm_head.weight"], tuned["lm_head.weight"])


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("training.packing=true",)])
def test_a_steps_loss_does_not_depend_on_how_it_is_cut(tmp_path, models, rows, more):
    common = ("freeze.depth=1", "training.sampling=random", "optimizer.lr=1e-2", *more)
    losses = []
    for size, steps in ((16, 1), (2, 8)):
        cut = (f"training.batch_size={size}", f"training.accumulation_steps={steps}")
        given = arguments(models["llama"], rows, *common, *cut)
        losses.append(train(given, tmp_path / f"{size}x{steps}").metrics["eval/loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_of_a_batch_is_trainers_own(tmp_path, models, rows, kind):
    """Of the saved model on the held-out rows, as Transformers' collator for language models makes them."""
    given = arguments(models[kind], rows, "freeze.depth=2", "runtime.cache=auto")
    result = train(given, tmp_path / "run")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "model")
    loaded, _ = load_data(compose_job(given).run, False)
    tokenizer.pad_token = "!"  # their collator makes no label of padding, which would be the end token
    collate = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    ended = [tokenizer(text)["input_ids"] + [tokenizer.eos_token_id] for text in loaded.evaluation["text"]]
    batch = collate([{"input_ids": ids} for ids in ended])
    with torch.no_grad():
        theirs = float(model(**batch).loss)
    assert result.metrics["eval/loss"] == pytest.approx(theirs, rel=1e-6)
    targets = pq.read_table(tmp_path / "run" / "predictions.parquet")["label"].to_pylist()
    assert int((batch["labels"][:, 1:] != NO_LABEL).sum()) == sum(targets)


@pytest.mark.slow
@pytest.mark.parametrize(
    "freeze", [["freeze=lora", "freeze.rank=2"], ["freeze=gradual", "training.epochs=4"], ["freeze=head"]]
)
def test_other_freeze_methods(tmp_path, models, rows, freeze):
    given = [each for each in arguments(models["llama"], rows) if each != "freeze=depth"]
    cached, plain = (train([*given, *freeze, f"runtime.cache={mode}"], tmp_path / mode) for mode in ("auto", "off"))
    assert cached.status.value == "FINISHED"
    assert cached.metrics["eval/loss"] == pytest.approx(plain.metrics["eval/loss"], abs=1e-4)


@pytest.mark.slow
def test_a_killed_run_resumes_in_the_same_bits(tmp_path, models, rows):
    given = arguments(models["gpt2"], rows, "freeze.depth=1", "training.epochs=3", "training.packing=true")
    whole = train(given, tmp_path / "whole")
    later = stop_and_resume(given, tmp_path / "part", 7)
    assert later.weights_sha256 == whole.weights_sha256


@pytest.mark.slow
def test_a_run_of_conversations_is_reproduced_tested_and_asked(frostline, in_tmp, models, rows):
    given = arguments(
        models["llama"], rows, "freeze.depth=2", "training.epochs=6", "optimizer.lr=1e-2", *COLUMNS["messages"],
        "dataset.test_fraction=0.2",
    )  # fmt: skip
    code, _, err = frostline("run", *given)
    assert code == 0, err
    [folder] = {path.parent for path in in_tmp.rglob("result.json")}
    code, out, err = frostline("reproduce", str(folder))
    assert code == 0, (out, err)
    code, out, err = frostline("show", "--test", str(folder))
    assert code == 0, err
    assert "perplexity" in out
    assert "rows)" in out
    ask = ("predict", str(folder), "the film was", "--max-new-tokens", "8")
    code, greedy, err = frostline(*ask)
    assert code == 0, err
    assert frostline(*ask)[1] == greedy
    own = GenerationConfig(repetition_penalty=3.0, min_new_tokens=3, do_sample=True, temperature=5.0)
    other = shutil.copytree(folder / "model", in_tmp / "other")
    own.save_pretrained(other)  # what a model's file asks for is not what the command line says
    [(_, written)] = Writer(other, is_chat=True, max_tokens=32).write(["the film was"], Generation(max_new_tokens=8))
    assert written == greedy.removesuffix("\n")
    drawn = [
        frostline("predict", "--json", str(folder), "the film", "--temperature", "2", "--seed", seed)[1]
        for seed in ("1", "1", "2")
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert json.loads(drawn[0])["text"] == "the film"
    for more, message in (
        (["x", "--temperature", "-1"], "temperature -1.0: must be 0, or 0.01 or more"),
        (["x", "--temperature", "1e-40"], "temperature 1e-40: must be 0, or 0.01 or more"),
        (["x", "--seed", str(2**40)], "must be 0 or more and below 2**32"),
        (["x", "--max-new-tokens", "0"], "max_new_tokens 0: must be 1 or more"),
        (["good " * 200], "leaves no room: the model has 128 positions"),
    ):
        code, _, err = frostline("predict", str(folder), *more)
        assert (code, message in err) == (2, True), err


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_sweep_answers_in_perplexity(frostline, in_tmp, models, rows, kind):
    given = [each for each in arguments(models[kind], rows) if each not in {"freeze=depth", "runtime.cache=off"}]
    code, out, err = frostline(
        "sweep", "lr_x_depth", *given, "sweep.n_trials=4", "training.epochs=2", "sweep.margin=5", "sweep.settle=0"
    )
    assert code == 0, err
    assert "perplexity" in out
    assert "posterior mean of all 5 runs" in out
    assert re.search(r"[1-4] of 4 trials used the prefix cache", out), (out, err)


def test_what_does_not_fit_is_one_line(frostline, in_tmp, models, rows, tiny_model, tmp_path):
    bare = shutil.copytree(models["llama"], tmp_path / "bare")
    (bare / "chat_template.jinja").unlink()
    for model, more, message in (
        (bare, COLUMNS["messages"], "the model's tokenizer has no chat template"),
        (models["gpt2"], ["training.max_tokens=3", *COLUMNS["completion"]], "leaves none of training.max_tokens=3"),
        (models["gpt2"], ["dataset.messages_column=text"], "expected a list of messages with role and content"),
        (models["gpt2"], ["dataset.text_column=body"], "dataset.text_column=body: rows.jsonl has no such column"),
        (models["gpt2"], ["training=default"], "accuracy is not for causal_lm; for it there are perplexity"),
        (tiny_model, [], "its weights lack"),
    ):
        code, _, err = frostline("run", *arguments(model, rows, *more))
        assert (code, message in err) == (2, True), err
    assert not [RunResult.read(path.parent) for path in in_tmp.rglob("result.json") if "FINISHED" in path.read_text()]
