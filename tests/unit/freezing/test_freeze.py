import copy

import pytest
import torch
from transformers import AutoModelForSequenceClassification, DebertaConfig, LlamaConfig, RobertaPreLayerNormConfig

from frostline.errors import SpecError
from frostline.freezing.drift import Drift
from frostline.freezing.freeze import freeze
from frostline.freezing.methods.depth import FreezeDepth
from frostline.freezing.methods.fraction import FreezeFraction
from frostline.freezing.methods.head import FreezeAllButHead
from frostline.freezing.methods.last import FreezeAllButLast
from frostline.freezing.methods.none import FreezeNone
from frostline.models.blocks import find_blocks
from frostline.spec import FreezeMethod
from frostline.spec.decode import decode
from tests.conftest import tiny_config


@pytest.fixture
def anatomy():
    torch.manual_seed(0)
    return find_blocks(AutoModelForSequenceClassification.from_config(tiny_config()))


def depth(k):
    return FreezeDepth(depth=k)


NONE, HEAD = FreezeNone(), FreezeAllButHead()


def optimizer_of(anatomy):
    return torch.optim.SGD([p for p in anatomy.model.parameters() if p.requires_grad], lr=0.1)


def test_choices_come_to_depths():
    assert [spec.depth_of(4) for spec in (NONE, depth(0), depth(3), HEAD)] == [None, 0, 3, 4]
    last = [FreezeAllButLast(last=n).depth_of(4) for n in range(5)]
    assert last == [4, 3, 2, 1, 0]
    fractions = [FreezeFraction(fraction=f).depth_of(12) for f in (0, 0.5, 0.04, 0.05, 0.125, 1)]
    assert fractions == [0, 6, 0, 1, 1, 12]  # half a block is the lower depth
    assert FreezeFraction(fraction=0.07).depth_of(50) == 3


@pytest.mark.parametrize("k", range(5))
def test_a_depth_freezes_the_embeddings_and_the_lowest_blocks(anatomy, k):
    part = freeze(anatomy, depth(k))
    frozen = {name for name, p in anatomy.model.named_parameters() if not p.requires_grad}
    wanted = {n for n, _ in anatomy.model.named_parameters() if n.startswith("bert.embeddings.")}
    for index in range(k):
        wanted |= {n for n, _ in anatomy.model.named_parameters() if n.startswith(f"bert.encoder.layer.{index}.")}
    assert frozen == wanted
    assert part.params.num_frozen == sum(p.numel() for p in anatomy.model.parameters() if not p.requires_grad)


def test_none_trains_everything_and_head_only_the_head(anatomy):
    assert freeze(anatomy, NONE).params.num_frozen == 0
    assert all(p.requires_grad for p in anatomy.model.parameters())
    freeze(anatomy, HEAD)
    left = {n.split(".")[0] + "." + n.split(".")[1] for n, p in anatomy.model.named_parameters() if p.requires_grad}
    assert left == {"bert.pooler", "classifier.weight", "classifier.bias"}


def choice(name, **keys):
    method, own = FreezeMethod.decode_as({"name": name, **keys}, "freeze")
    return decode(method, own, "freeze")


def frozen_names(anatomy):
    return {name for name, p in anatomy.model.named_parameters() if not p.requires_grad}


def of_blocks(anatomy, *numbers):
    starts = tuple(f"bert.encoder.layer.{number}." for number in numbers)
    return {name for name, _ in anatomy.model.named_parameters() if name.startswith(starts)}


EMBEDDINGS = {"word_embeddings.weight", "position_embeddings.weight", "token_type_embeddings.weight"}
EMBEDDINGS = {f"bert.embeddings.{name}" for name in (*EMBEDDINGS, "LayerNorm.weight", "LayerNorm.bias")}


@pytest.mark.parametrize(
    ("spec", "numbers", "embeddings", "prefix"),
    [
        (choice("last", last=1), (0, 1, 2), True, 3),
        (choice("fraction", fraction=0.5), (0, 1), True, 2),
        (choice("blocks", blocks=(0, "2-3"), embeddings=True), (0, 2, 3), True, 1),
        (choice("blocks", blocks=("1-2",), embeddings=True), (1, 2), True, 0),
        (choice("blocks", blocks=("0-1",), embeddings=False), (0, 1), False, None),
        (choice("pattern", pattern=("embeddings", r"layer\.[01]\.")), (0, 1), True, 2),
        (choice("pattern", pattern=(r"layer\.[01]\.",)), (0, 1), False, None),
    ],
    ids=lambda value: value.label() if isinstance(value, FreezeMethod) else None,
)
def test_whole_blocks_are_frozen_and_pinned(anatomy, spec, numbers, embeddings, prefix):
    part = freeze(anatomy, spec)
    assert frozen_names(anatomy) == of_blocks(anatomy, *numbers) | (EMBEDDINGS if embeddings else set())
    assert part.prefix_depth == prefix
    assert part.extra_params == ()
    anatomy.model.train()
    assert [not block.training for _, block in anatomy.blocks] == [number in numbers for number in range(4)]
    assert (not anatomy.embeddings[0][1].training) is embeddings
    assert anatomy.model.bert.pooler.training
    audit = part.audit(optimizer_of(anatomy))
    assert (audit.frozen_unchanged, audit.absent_from_optimizer, audit.pinned_in_eval) == (True, True, True)


def test_biases_alone(anatomy):
    part = freeze(anatomy, choice("bias_only"))
    trained = {name for name, p in anatomy.model.named_parameters() if p.requires_grad}
    inside = {name for name in trained if "encoder" in name or "embeddings" in name}
    assert all(name.endswith(".bias") for name in inside)
    assert len(inside) == 4 * 8 + 1  # query, key, value, output, norm, intermediate, output, norm; the embeddings' norm
    assert trained - inside == {
        f"{name}.{kind}" for name in ("bert.pooler.dense", "classifier") for kind in ("weight", "bias")
    }
    assert part.prefix_depth is None
    assert part.modules == ()
    anatomy.model.train()
    assert anatomy.blocks[0][1].training  # its dropout stays: it is trained
    assert part.params.num_frozen == sum(p.numel() for p in anatomy.model.parameters() if not p.requires_grad)
    assert part.frozen.words == "all but the biases and what lies above the blocks"


def test_norms_alone(anatomy):
    freeze(anatomy, choice("norm_only"))
    trained = {
        n
        for n, p in anatomy.model.named_parameters()
        if p.requires_grad and "pooler" not in n and "classifier" not in n
    }
    assert trained == {n for n, _ in anatomy.model.named_parameters() if "LayerNorm" in n}
    assert len(trained) == 2 * (4 * 2 + 1)


def test_a_model_without_biases_has_none_to_train():
    config = LlamaConfig(
        vocab_size=64, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, pad_token_id=0
    )
    anatomy = find_blocks(AutoModelForSequenceClassification.from_config(config))
    with pytest.raises(SpecError, match="LlamaForSequenceClassification has no biases below its head"):
        freeze(anatomy, choice("bias_only"))
    assert (
        freeze(anatomy, choice("norm_only")).params.num_trainable == 2 * 2 * 16 + 16 + 2 * 16
    )  # and the last norm, head


def test_norms_are_found_by_layers_and_not_by_the_names_of_blocks():
    config = RobertaPreLayerNormConfig(
        vocab_size=64, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    anatomy = find_blocks(AutoModelForSequenceClassification.from_config(config))
    freeze(anatomy, choice("norm_only"))
    parts = [*anatomy.embeddings, *anatomy.blocks]
    inside = {key for part, module in parts for key, p in module.named_parameters(part) if p.requires_grad}
    assert inside
    assert all("LayerNorm" in key.split(".")[-2] for key in inside), inside


def test_every_kind_of_bias_is_one():
    config = DebertaConfig(
        vocab_size=64, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        relative_attention=True, pos_att_type=["c2p", "p2c"],
    )  # fmt: skip
    anatomy = find_blocks(AutoModelForSequenceClassification.from_config(config))
    freeze(anatomy, choice("bias_only"))
    trained = {name for name, p in anatomy.model.named_parameters() if p.requires_grad}
    assert {"deberta.encoder.layer.0.attention.self.q_bias", "deberta.encoder.layer.1.attention.self.v_bias"} <= trained


def test_loose_tensors_are_audited_too(anatomy):
    part = freeze(anatomy, choice("pattern", pattern=(r"attention.*\.weight",)))
    assert len(part.extra_params) == 4 * 5
    assert part.audit(optimizer_of(anatomy)).num_tensors == 4 * 5
    with torch.no_grad():
        anatomy.blocks[2][1].attention.self.query.weight.view(torch.int32)[3, 7] ^= 1
    assert part.audit(optimizer_of(anatomy)).changed == ("bert.encoder.layer.2.attention.self.query.weight",)
    everything = torch.optim.SGD(anatomy.model.parameters(), lr=0.1)
    assert not part.audit(everything).absent_from_optimizer


def test_a_module_above_the_blocks_that_is_frozen_whole_is_pinned(anatomy):
    freeze(anatomy, choice("pattern", pattern=("pooler",)))
    anatomy.model.train()
    assert not anatomy.model.bert.pooler.training
    assert anatomy.model.classifier.training


def test_a_pattern_that_finds_nothing_is_refused_and_one_that_adds_nothing_is_reported(anatomy, caplog):
    with pytest.raises(
        SpecError, match=r"freeze\.pattern\[1\]=layre: found in no parameter's name; they are like bert\."
    ):
        freeze(anatomy, choice("pattern", pattern=("embeddings", "layre")))
    freeze(anatomy, choice("pattern", pattern=("embeddings", "word_embeddings")))
    assert (
        "freeze.pattern[1]=word_embeddings adds nothing: what it matches is not trained, or matched before"
        in caplog.text
    )
    caplog.clear()
    anatomy.model.requires_grad_(False)
    freeze(anatomy, choice("pattern", pattern=("pooler",)))
    assert "freeze.pattern[0]=pooler adds nothing" in caplog.text


def test_frozen_modules_stay_in_eval_through_every_train_call(anatomy):
    freeze(anatomy, depth(2))
    for call in (anatomy.model.train, anatomy.model.bert.encoder.train, anatomy.blocks[0][1].train):
        call()
        assert not any(m.training for _, frozen in anatomy.prefix(2) for m in frozen.modules())
    assert anatomy.blocks[2][1].training
    anatomy.model.eval()
    assert not anatomy.blocks[2][1].training


def test_a_frozen_prefix_is_deterministic_although_the_model_trains(anatomy):
    freeze(anatomy, depth(2))
    anatomy.model.train()
    seen = []
    anatomy.blocks[1][1].register_forward_hook(lambda m, i, out: seen.append(out[0] if isinstance(out, tuple) else out))
    outputs = [anatomy.model(input_ids=torch.tensor([[2, 5, 6, 3]])).logits for _ in range(2)]
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(outputs[0], outputs[1])  # dropout above is alive


def test_the_pin_survives_a_copy(anatomy):
    freeze(anatomy, depth(1))
    other = copy.deepcopy(anatomy.model)
    other.train()
    assert not other.bert.encoder.layer[0].training
    assert other.bert.encoder.layer[0].train() is other.bert.encoder.layer[0]


def test_the_audit_passes_what_is_right(anatomy):
    part = freeze(anatomy, depth(2))
    optimizer = optimizer_of(anatomy)
    anatomy.model.train()
    anatomy.model(input_ids=torch.tensor([[2, 5, 3]])).logits.sum().backward()
    optimizer.step()
    audit = part.audit(optimizer)
    assert (audit.frozen_unchanged, audit.absent_from_optimizer, audit.pinned_in_eval) == (True, True, True)
    assert audit.num_tensors >= 5 + 2 * 16


def test_the_audit_sees_one_flipped_bit_in_one_tensor(anatomy):
    part = freeze(anatomy, depth(2))
    weight = anatomy.blocks[1][1].output.dense.weight
    with torch.no_grad():
        weight.view(torch.int32)[3, 7] ^= 1
    audit = part.audit(optimizer_of(anatomy))
    assert not audit.frozen_unchanged
    assert audit.changed == ("bert.encoder.layer.1.output.dense.weight",)


def test_the_audit_sees_a_changed_buffer(anatomy):
    part = freeze(anatomy, depth(0))
    anatomy.model.bert.embeddings.position_ids += 1
    assert part.audit(optimizer_of(anatomy)).changed == ("bert.embeddings.position_ids",)


def test_the_audit_sees_a_frozen_tensor_in_the_optimizer(anatomy):
    part = freeze(anatomy, depth(1))
    everything = torch.optim.SGD(anatomy.model.parameters(), lr=0.1)
    assert not part.audit(everything).absent_from_optimizer


def test_the_audit_sees_a_lost_pin(anatomy):
    part = freeze(anatomy, depth(1))
    torch.nn.Module.train(anatomy.blocks[0][1])
    assert not part.audit(optimizer_of(anatomy)).pinned_in_eval


def test_drift_is_exactly_zero_below_and_what_was_added_above(anatomy):
    freeze(anatomy, depth(3))
    drift = Drift(anatomy)
    with torch.no_grad():
        anatomy.model.classifier.bias += 0.5
        anatomy.blocks[3][1].output.dense.weight *= 2
    rows = {row["part"]: row for row in drift.table()}
    assert [rows[p]["sum_abs"] for p in ("embeddings", "block 0", "block 1", "block 2")] == [0, 0, 0, 0]
    assert [rows[p]["num_trainable"] for p in ("embeddings", "block 2")] == [0, 0]
    assert rows["head"]["sum_abs"] == pytest.approx(1.0)  # two labels
    assert 0 < rows["block 3"]["relative"] < 1


def test_drift_does_not_call_a_moved_frozen_part_zero(anatomy):
    freeze(anatomy, depth(1))
    rows = Drift(anatomy).table(changed=("bert.encoder.layer.0.output.dense.weight",))
    assert rows[1]["part"] == "block 0"
    assert rows[1]["sum_abs"] != rows[1]["sum_abs"]  # NaN
    assert rows[0]["sum_abs"] == 0
