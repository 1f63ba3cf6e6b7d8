import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from frostline.config import compose_run
from frostline.errors import ModelError
from frostline.hashes import file_sha256
from frostline.models import config_file, loading, processors
from frostline.spec import TASKS
from tests.conftest import save_tokenizer

NAMES = ("negative", "positive")


def spec_of(folder, **changes):
    return replace(compose_run(["model=path", f"model.location={folder}"]).model, **changes)


CLASSES = TASKS.get("classification")


def load(folder, task=CLASSES, names=NAMES, **changes):
    tokenizer = processors.load_tokenizer(folder, 32)
    return loading.load_model(spec_of(folder, **changes), folder, task=task, label_names=names, processor=tokenizer)


def test_label_names_are_the_models_own(tiny_model):
    loaded = load(tiny_model)
    assert loaded.model.config.id2label == {0: "negative", 1: "positive"}
    assert loaded.model.config.label2id == {"negative": 0, "positive": 1}
    assert loaded.fresh == ("classifier.bias", "classifier.weight")
    assert loaded.weights_sha256 == file_sha256(tiny_model / "model.safetensors")


def test_regression_has_one_output(tiny_model):
    loaded = load(tiny_model, task=TASKS.get("regression"), names=())
    assert loaded.model.config.num_labels == 1
    assert loaded.model.config.problem_type == "regression"


def test_the_heads_weights_come_from_the_seed(tiny_model):
    torch.manual_seed(5)
    one = load(tiny_model).model.classifier.weight
    torch.manual_seed(5)
    assert torch.equal(one, load(tiny_model).model.classifier.weight)


def test_weights_in_half_precision_are_trained_in_fp32(own_model):
    file = own_model / "model.safetensors"
    save_file({k: v.half() for k, v in load_file(file).items()}, file, metadata={"format": "pt"})
    assert {p.dtype for p in load(own_model).model.parameters()} == {torch.float32}


def test_a_trained_classifier_of_other_classes_gets_a_new_head(own_model):
    load(own_model).model.save_pretrained(own_model)
    loaded = load(own_model, names=("a", "b", "c"))
    assert loaded.model.classifier.weight.shape[0] == 3
    assert set(loaded.fresh) == {"classifier.bias", "classifier.weight"}


def test_pickled_weights_are_refused_and_not_opened(own_model, tmp_path):
    canary = tmp_path / "canary"

    class Evil:
        def __reduce__(self):
            return (open, (str(canary), "w"))

    (own_model / "model.safetensors").unlink()
    torch.save({"x": Evil()}, own_model / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"only pickled weights \(pytorch_model.bin\).*safetensors"):
        load(own_model)
    assert not canary.exists()


def test_no_weights(own_model):
    (own_model / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no weights there"):
        load(own_model)


def test_truncated_weights(own_model):
    file = own_model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match="can't be loaded"):
        load(own_model)


def test_weights_other_than_the_config_says(tiny_model):
    with pytest.raises(ModelError, match=r"weights have sha256 .* model.weights_sha256 says 000000000000"):
        load(tiny_model, weights_sha256="0" * 64)


def test_remote_code_is_refused_and_not_run(own_model, tmp_path):
    canary = tmp_path / "canary"
    config = json.loads((own_model / "config.json").read_text())
    config |= {"model_type": "homemade", "auto_map": {"AutoConfig": "code.Config"}}
    (own_model / "config.json").write_text(json.dumps(config))
    (own_model / "code.py").write_text(f"open({str(canary)!r}, 'w')")
    with pytest.raises(ModelError, match=r"\(homemade\) brings code of its own"):
        config_file.load_config(own_model)
    assert not canary.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"model_type": "nonsense"}', "{}"])
def test_a_config_that_is_none(own_model, text):
    (own_model / "config.json").write_text(text)
    with pytest.raises(ModelError) as error:
        config_file.load_config(own_model)
    assert "\n" not in str(error.value)


def test_a_tokenizer_of_another_model(own_model):
    save_tokenizer(own_model, extra_words=100)
    with pytest.raises(ModelError, match=r"the tokenizer has \d+ tokens, the model only 64 embeddings"):
        processors.load_tokenizer(own_model, 32)


def test_no_tokenizer(own_model):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (own_model / name).unlink()
    with pytest.raises(ModelError, match="no tokenizer there"):
        processors.load_tokenizer(own_model, 32)


def test_more_tokens_than_positions(tiny_model):
    with pytest.raises(ModelError, match=r"training.max_tokens=65: the model has 64 positions"):
        processors.load_tokenizer(tiny_model, 65)
    assert processors.load_tokenizer(tiny_model, 64) is not None


@pytest.mark.parametrize("kind", ["Roberta", "Camembert", "XLMRoberta", "MPNet"])
def test_some_families_start_counting_after_the_padding(tmp_path, kind):
    import transformers

    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = getattr(transformers, f"{kind}Config")(vocab_size=50, max_position_embeddings=34, pad_token_id=1, **small)
    config.save_pretrained(tmp_path)
    assert loading.max_positions(tmp_path, TASKS.get("classification")) == 32
    whole = getattr(transformers, f"{kind}ForSequenceClassification")(config).eval()
    whole(input_ids=torch.full((1, 32), 5))
    with pytest.raises((IndexError, RuntimeError)):
        whole(input_ids=torch.full((1, 33), 5))


def test_bert_counts_from_the_first_token_on(tiny_model):
    assert loading.max_positions(tiny_model, TASKS.get("classification")) == 64


def test_random_pretrained_parts_are_refused(own_model):
    file = own_model / "model.safetensors"
    weights = {k: v for k, v in load_file(file).items() if "layer.2.attention" not in k}
    save_file(weights, file, metadata={"format": "pt"})
    loaded = load(own_model)
    with pytest.raises(
        ModelError, match=r"lacks \d+ tensors of the pretrained part, for example bert.encoder.layer.2.attention"
    ):
        loading.check_fresh(loaded.fresh, ["bert.embeddings", "bert.encoder.layer.2"], own_model)


def test_a_skeleton_needs_no_weights(own_model):
    (own_model / "model.safetensors").unlink()
    built = loading.skeleton(own_model, task=TASKS.get("classification"), label_names=NAMES)
    assert {p.device.type for p in built.parameters()} == {"meta"}
