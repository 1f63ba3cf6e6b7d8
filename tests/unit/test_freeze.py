import copy

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from frostline.anatomy import dissect
from frostline.drift import Drift
from frostline.freeze import depth_of, freeze_prefix
from frostline.spec import FreezeName, FreezeSpec
from tests.conftest import tiny_config


@pytest.fixture
def anatomy():
    torch.manual_seed(0)
    return dissect(AutoModelForSequenceClassification.from_config(tiny_config()))


def depth(k):
    return FreezeSpec(name=FreezeName.DEPTH, depth=k)


NONE, HEAD = (FreezeSpec(name=name, depth=None) for name in (FreezeName.NONE, FreezeName.HEAD))


def optimizer_of(anatomy):
    return torch.optim.SGD([p for p in anatomy.model.parameters() if p.requires_grad], lr=0.1)


def test_choices_come_to_depths():
    assert [depth_of(spec, 4) for spec in (NONE, depth(0), depth(3), HEAD)] == [None, 0, 3, 4]


@pytest.mark.parametrize("k", range(5))
def test_a_depth_freezes_the_embeddings_and_the_lowest_blocks(anatomy, k):
    part = freeze_prefix(anatomy, depth(k))
    frozen = {name for name, p in anatomy.model.named_parameters() if not p.requires_grad}
    wanted = {n for n, _ in anatomy.model.named_parameters() if n.startswith("bert.embeddings.")}
    for index in range(k):
        wanted |= {n for n, _ in anatomy.model.named_parameters() if n.startswith(f"bert.encoder.layer.{index}.")}
    assert frozen == wanted
    assert part.params.num_frozen == sum(p.numel() for p in anatomy.model.parameters() if not p.requires_grad)


def test_none_trains_everything_and_head_only_the_head(anatomy):
    assert freeze_prefix(anatomy, NONE).params.num_frozen == 0
    assert all(p.requires_grad for p in anatomy.model.parameters())
    freeze_prefix(anatomy, HEAD)
    left = {n.split(".")[0] + "." + n.split(".")[1] for n, p in anatomy.model.named_parameters() if p.requires_grad}
    assert left == {"bert.pooler", "classifier.weight", "classifier.bias"}


def test_frozen_modules_stay_in_eval_through_every_train_call(anatomy):
    freeze_prefix(anatomy, depth(2))
    for call in (anatomy.model.train, anatomy.model.bert.encoder.train, anatomy.blocks[0][1].train):
        call()
        assert not any(m.training for _, frozen in anatomy.prefix(2) for m in frozen.modules())
    assert anatomy.blocks[2][1].training
    anatomy.model.eval()
    assert not anatomy.blocks[2][1].training


def test_a_frozen_prefix_is_deterministic_although_the_model_trains(anatomy):
    freeze_prefix(anatomy, depth(2))
    anatomy.model.train()
    seen = []
    anatomy.blocks[1][1].register_forward_hook(lambda m, i, out: seen.append(out[0] if isinstance(out, tuple) else out))
    outputs = [anatomy.model(input_ids=torch.tensor([[2, 5, 6, 3]])).logits for _ in range(2)]
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(outputs[0], outputs[1])  # dropout above is alive


def test_the_pin_survives_a_copy(anatomy):
    freeze_prefix(anatomy, depth(1))
    other = copy.deepcopy(anatomy.model)
    other.train()
    assert not other.bert.encoder.layer[0].training
    assert other.bert.encoder.layer[0].train() is other.bert.encoder.layer[0]


def test_the_audit_passes_what_is_right(anatomy):
    part = freeze_prefix(anatomy, depth(2))
    optimizer = optimizer_of(anatomy)
    anatomy.model.train()
    anatomy.model(input_ids=torch.tensor([[2, 5, 3]])).logits.sum().backward()
    optimizer.step()
    audit = part.audit(optimizer)
    assert (audit.frozen_unchanged, audit.absent_from_optimizer, audit.pinned_in_eval) == (True, True, True)
    assert audit.num_tensors >= 5 + 2 * 16


def test_the_audit_sees_one_flipped_bit_in_one_tensor(anatomy):
    part = freeze_prefix(anatomy, depth(2))
    weight = anatomy.blocks[1][1].output.dense.weight
    with torch.no_grad():
        weight.view(torch.int32)[3, 7] ^= 1
    audit = part.audit(optimizer_of(anatomy))
    assert not audit.frozen_unchanged
    assert audit.changed == ("bert.encoder.layer.1.output.dense.weight",)


def test_the_audit_sees_a_changed_buffer(anatomy):
    part = freeze_prefix(anatomy, depth(0))
    anatomy.model.bert.embeddings.position_ids += 1
    assert part.audit(optimizer_of(anatomy)).changed == ("bert.embeddings.position_ids",)


def test_the_audit_sees_a_frozen_tensor_in_the_optimizer(anatomy):
    part = freeze_prefix(anatomy, depth(1))
    everything = torch.optim.SGD(anatomy.model.parameters(), lr=0.1)
    assert not part.audit(everything).absent_from_optimizer


def test_the_audit_sees_a_lost_pin(anatomy):
    part = freeze_prefix(anatomy, depth(1))
    torch.nn.Module.train(anatomy.blocks[0][1])
    assert not part.audit(optimizer_of(anatomy)).pinned_in_eval


def test_drift_is_exactly_zero_below_and_what_was_added_above(anatomy):
    freeze_prefix(anatomy, depth(3))
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
    freeze_prefix(anatomy, depth(1))
    rows = Drift(anatomy).table(changed=("bert.encoder.layer.0.output.dense.weight",))
    assert rows[1]["part"] == "block 0"
    assert rows[1]["sum_abs"] != rows[1]["sum_abs"]  # NaN
    assert rows[0]["sum_abs"] == 0
