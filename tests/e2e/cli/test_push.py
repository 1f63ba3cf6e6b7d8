"""`frostline push`, and the card that goes with the model."""

import yaml
from transformers import AutoModelForSequenceClassification

from frostline.config.recorded import read_spec
from frostline.records.result import RunResult
from frostline.records.run_folder import rewrite_card


def test_every_kept_model_has_a_card(frostline, tiny_overrides, in_tmp):
    frostline("run", *tiny_overrides, "freeze.depth=2", "tracking=off", "hydra.run.dir=runs/it")
    card = (in_tmp / "runs/it/model/README.md").read_text()
    head, body = card.split("---\n")[1:]
    assert yaml.safe_load(head)["tags"] == ["frostline", "freeze-depth"]
    result = RunResult.read(in_tmp / "runs/it")
    for fact in (
        "the embeddings and 2 of 4 blocks", f"accuracy {result.metrics['eval/accuracy']:.4f}",
        result.provenance["data_fingerprint"], read_spec(in_tmp / "runs/it").digest(), "frostline reproduce runs/it",
    ):  # fmt: skip
        assert fact in body
    assert "Why this depth" not in body
    assert AutoModelForSequenceClassification.from_pretrained(in_tmp / "runs/it/model").num_labels == 2
    (in_tmp / "runs/it/model/README.md").write_text(f"{card}\nOur own words.\n")  # a card is there to be edited
    assert frostline("predict", "runs/it", "a good film")[0] == 0
    rewrite_card(in_tmp / "runs/it", read_spec(in_tmp / "runs/it"), ["recommended"])
    assert "Our own words." in (in_tmp / "runs/it/model/README.md").read_text()


def test_a_model_that_froze_nothing_says_so(frostline, tiny_overrides, in_tmp):
    frostline("run", *tiny_overrides, "freeze=none", "tracking=off", "hydra.run.dir=it")
    assert "| frozen | nothing |" in (in_tmp / "it/model/README.md").read_text()


def test_it_is_pushed_whole(frostline, tiny_overrides, in_tmp, monkeypatch):
    """The hub can't be had in a test: what is asked of it is checked."""
    asked = []

    class Hub:
        def create_repo(self, name, **options):
            asked.append((name, options))

        def upload_folder(self, repo_id, folder_path, commit_message):
            asked.append((repo_id, sorted(path.name for path in folder_path.iterdir())))

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    frostline("run", *tiny_overrides, "tracking=off", "hydra.run.dir=it")
    code, out, err = frostline("push", "it", "me/moods", "--private")
    assert code == 0, err
    assert out == "pushed: it/model to me/moods\n"
    (name, options), (again, files) = asked
    assert (name, again) == ("me/moods", "me/moods")
    assert options == {"private": True, "exist_ok": True}
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= set(files)


def test_what_can_not_be_pushed_gets_one_line(frostline, tiny_overrides, in_tmp):
    frostline("run", *tiny_overrides, "tracking=off", "hydra.run.dir=it")
    for words, message in (
        (["it", "me/moods"], "me/moods: can't be pushed to ("),  # the hub can't be reached
        (["it", "moods"], "give a repository as OWNER/NAME"),
        (["nothing", "me/moods"], "no run's folder"),
    ):
        code, _, err = frostline("push", *words)
        assert (code, message in err, err.count("\n")) == (2, True, 1), err
    (in_tmp / "it/model/config.json").write_text("{}")
    code, _, err = frostline("push", "it", "me/moods")
    assert (code, "config.json" in err) == (2, True)
