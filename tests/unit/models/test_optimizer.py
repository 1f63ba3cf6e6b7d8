import pytest
import torch
from transformers import AutoModelForSequenceClassification

from frostline.config import compose_run
from frostline.errors import SpecError, UserError
from frostline.freezing.freeze import freeze
from frostline.models import optimizer
from frostline.models.blocks import find_blocks
from tests.conftest import tiny_config


def levels_of(depth=None):
    torch.manual_seed(0)
    anatomy = find_blocks(AutoModelForSequenceClassification.from_config(tiny_config()))
    if depth is not None:
        freeze(anatomy, compose_run([f"freeze.depth={depth}"]).freeze)
    return anatomy, [(name, [module for _, module in modules]) for name, modules in anatomy.groups()]


def spec_of(*overrides):
    return compose_run([*overrides]).optimizer


@pytest.mark.parametrize("depth", [None, 0, 2, 4])
def test_every_trained_parameter_is_in_one_group_and_no_frozen_one(depth):
    anatomy, levels = levels_of(depth)
    groups = optimizer.param_groups(levels, spec_of())
    ids = [id(p) for group in groups for p in group["params"]]
    assert len(ids) == len(set(ids))
    assert set(ids) == {id(p) for p in anatomy.model.parameters() if p.requires_grad}


def test_biases_and_norms_do_not_decay():
    anatomy, levels = levels_of()
    groups = optimizer.param_groups(levels, spec_of("optimizer.weight_decay=0.1"))
    names = {id(p): name for name, p in anatomy.model.named_parameters()}
    for group in groups:
        for p in group["params"]:
            plain = names[id(p)].endswith("bias") or "LayerNorm" in names[id(p)]
            assert group["weight_decay"] == (0.0 if plain else 0.1), names[id(p)]


def test_layer_decay_lowers_the_rate_block_by_block():
    _, levels = levels_of(1)
    groups = optimizer.param_groups(levels, spec_of("optimizer.lr=1.0", "optimizer.layer_decay=0.5"))
    rates = {group["name"]: group["lr"] for group in groups if "no decay" not in group["name"]}
    assert rates == {"block 1": 0.25, "block 2": 0.5, "block 3": 1.0, "head": 1.0}


@pytest.mark.parametrize("name", ["adamw", "sgd", "adafactor"])
def test_each_optimizer_steps(name):
    anatomy, levels = levels_of(3)
    spec = spec_of(f"optimizer={name}")
    made = optimizer.build(spec, optimizer.param_groups(levels, spec))
    before = anatomy.model.classifier.weight.detach().clone()
    anatomy.model(input_ids=torch.tensor([[2, 5, 3]])).logits.square().sum().backward()
    made.step()
    assert not torch.equal(before, anatomy.model.classifier.weight)
    assert all(p.grad is None for _, m in anatomy.prefix(3) for p in m.parameters())


def test_adamw_is_fused_and_takes_its_settings():
    _, levels = levels_of()
    spec = spec_of("optimizer.beta1=0.8", "optimizer.beta2=0.95", "optimizer.eps=1e-6")
    made = optimizer.build(spec, optimizer.param_groups(levels, spec))
    assert made.defaults["fused"] is True
    assert made.defaults["betas"] == (0.8, 0.95)
    assert made.defaults["eps"] == 1e-6


def test_sgd_uses_beta1_as_momentum():
    _, levels = levels_of()
    spec = spec_of("optimizer=sgd", "optimizer.beta1=0.5")
    assert optimizer.build(spec, optimizer.param_groups(levels, spec)).defaults["momentum"] == 0.5


def test_a_users_own_optimizer():
    @optimizer.OPTIMIZERS.register("test-own")
    def own(groups, spec):
        return torch.optim.SGD(groups, lr=spec.lr)

    _, levels = levels_of()
    spec = spec_of("optimizer.name=test-own")
    optimizer.check(spec)
    assert type(optimizer.build(spec, optimizer.param_groups(levels, spec))) is torch.optim.SGD


def test_a_name_can_be_taken_once():
    with pytest.raises(ValueError, match="registered already"):
        optimizer.OPTIMIZERS.register("adamw")(lambda groups, spec: None)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.name=adamww", r"optimizer 'adamww' is not known \(did you mean 'adamw'\?\)"),
        ("optimizer.schedule=linnear", r"optimizer.schedule=linnear: not known \(did you mean 'linear'\?\)"),
    ],
)
def test_unknown_names(override, message):
    with pytest.raises(UserError, match=message):
        optimizer.check(spec_of(override))


def test_every_schedule_is_one_of_transformers():
    from transformers import SchedulerType

    assert set(optimizer.SCHEDULES) <= {item.value for item in SchedulerType}


def test_nothing_to_train():
    with pytest.raises(SpecError, match="nothing is left to train"):
        optimizer.build(spec_of(), [])
