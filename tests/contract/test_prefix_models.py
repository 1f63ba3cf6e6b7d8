"""The suffix of a model, fed with cached hidden states, against the whole model: each architecture, built small."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    LlamaConfig,
    ModernBertConfig,
    MPNetConfig,
    RobertaConfig,
)

from frostline.data.token_table import rows_sha256
from frostline.models.blocks import find_blocks
from frostline.prefix_cache import compute
from frostline.prefix_cache.compute import (
    OverflowInPrefixError,
    RowsToCompute,
    canonical_batches,
    compute_hidden_states,
)
from frostline.prefix_cache.entry import CacheError
from frostline.prefix_cache.last_block import read_block
from frostline.prefix_cache.open_or_compute import Prefix, is_cached, open_or_compute
from frostline.prefix_cache.store import PrefixStore
from frostline.prefix_cache.suffix import HIDDEN, Suffix, TrainableModel, read_position

SMALL = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 99}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
CONFIGS = {
    "bert": BertConfig(**SMALL),
    "distilbert": DistilBertConfig(dim=32, n_layers=4, n_heads=4, hidden_dim=64, vocab_size=99),
    "roberta": RobertaConfig(**SMALL, pad_token_id=1),
    "electra": ElectraConfig(**SMALL, embedding_size=16),
    "mpnet": MPNetConfig(**SMALL),
    "deberta": DebertaV2Config(
        **SMALL,
        relative_attention=True,
        norm_rel_ebd="layer_norm",
        pos_att_type=["p2c", "c2p"],
        share_att_key=True,
        position_buckets=8,
        position_biased_input=False,
    ),
    "modernbert": ModernBertConfig(**SMALL, **SPECIAL, cls_token_id=1, sep_token_id=2, local_attention=8),
    "llama": LlamaConfig(**SMALL, **SPECIAL, num_key_value_heads=2),
    "gpt2": GPT2Config(n_embd=32, n_layer=4, n_head=4, vocab_size=99, pad_token_id=0, bos_token_id=2, eos_token_id=2),
}
READS = {**dict.fromkeys(CONFIGS, "first"), "gpt2": "last", "llama": "last"}
BOUND = 1e-6
"""Logits of some 0.1: hidden states that were computed in batches of other padding differ in their last bits."""


def make(name, seed=0):
    torch.manual_seed(seed)
    return AutoModelForSequenceClassification.from_config(CONFIGS[name])


@pytest.fixture(params=CONFIGS)
def name(request):
    return request.param


def table(name, num_rows=23, seed=0):
    rng = np.random.default_rng(seed)
    ids = [rng.integers(5, 99, length).tolist() for length in rng.integers(2, 14, num_rows)]
    pad = CONFIGS[name].pad_token_id or 0

    def collate(rows):
        longest = max(len(ids[row]) for row in rows)
        batch = torch.full((len(rows), longest), pad)
        mask = torch.zeros_like(batch)
        for index, row in enumerate(rows):
            batch[index, : len(ids[row])] = torch.tensor(ids[row])
            mask[index, : len(ids[row])] = 1
        return {"input_ids": batch, "attention_mask": mask}

    lengths = np.array([len(row) for row in ids], dtype=np.int64)
    sha256 = rows_sha256({"input_ids": (lengths, np.concatenate(ids))})
    return RowsToCompute(name="rows", lengths=lengths, sha256=sha256, collate=collate)


def prefix_of(model, name):
    from contextlib import nullcontext

    anatomy = find_blocks(model)
    position = read_position(anatomy)
    return Prefix(
        anatomy=anatomy, facts={"weights": name}, about={}, width=32, dtype="float32", position=position,
        reading=read_block(anatomy, position), autocast=nullcontext, threads=torch.get_num_threads(),
    )  # fmt: skip


def batch_of(made, rows, cached, position=None):
    """The rows as a batch, and the same with their hidden states."""
    batch = dict(made.collate(rows))
    if position is not None:
        last = batch["attention_mask"].sum(-1) - 1
        at = torch.zeros_like(last) if position == "first" else last
        short = {key: value.gather(1, at[:, None]) for key, value in batch.items()}
    else:
        short = dict(batch)
    hidden = torch.zeros(*short["input_ids"].shape, 32)
    for index, row in enumerate(rows):
        states = torch.from_numpy(np.array(cached[row]))
        hidden[index, : len(states)] = states
    return batch, {**short, HIDDEN: hidden}


def test_which_position_the_head_reads_is_found_without_touching_the_generator(name):
    model = make(name)
    before = torch.get_rng_state()
    assert read_position(find_blocks(model)) == READS[name]
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert "forward" not in model.__dict__


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_logits_losses_and_gradients_are_those_of_the_whole_model(tmp_path, name, depth):
    model, made = make(name), table(name)
    prefix = prefix_of(model, name)
    store = PrefixStore(tmp_path, 10**7)
    cached = open_or_compute(store, prefix, depth, (), made, lambda: None).rows
    position = prefix.position if prefix.is_read(depth) else None
    rows = [3, 17, 8, 11]
    batch, short = batch_of(made, rows, cached, position)
    frozen = [p for _, module in prefix.anatomy.prefix(depth) for p in module.parameters()]
    for parameter in frozen:
        parameter.requires_grad_(False)
    trained = [p for p in model.parameters() if p.requires_grad]
    labels = torch.tensor([0, 1, 1, 0])
    model.eval()
    whole = model(**batch, labels=labels)
    wanted = torch.autograd.grad(whole.loss, trained, allow_unused=True)
    suffix = Suffix(prefix.anatomy, depth)
    suffix.attach()
    part = model(**short, labels=labels)
    given = torch.autograd.grad(part.loss, trained, allow_unused=True)
    suffix.detach()
    assert (part.logits - whole.logits).abs().max() < BOUND
    assert (part.loss - whole.loss).abs() < BOUND
    for one, other in zip(given, wanted, strict=True):
        assert (one is None) == (other is None)
        assert one is None or (one - other).abs().max() < 1e-5
    again = model(**batch, labels=labels)
    assert torch.equal(again.logits, whole.logits)  # it is whole again


def test_one_pass_gives_every_depth_the_same_bits_as_its_own_pass(tmp_path, name):
    made, depths = table(name), (1, 3, 4)
    together = PrefixStore(tmp_path / "together", 10**7)
    open_or_compute(together, prefix_of(make(name), name), 1, depths, made, lambda: None)
    for depth in depths:
        prefix = prefix_of(make(name), name)
        alone = open_or_compute(
            PrefixStore(tmp_path / f"alone{depth}", 10**7), prefix, depth, (), made, lambda: None
        ).rows
        assert is_cached(together, prefix, depth, [made])
        both = open_or_compute(together, prefix, depth, (), made, lambda: None).rows
        assert all(np.array_equal(alone[row], both[row]) for row in range(len(made.lengths)))


def test_a_deeper_depth_starts_from_a_shallower_one_in_the_same_bits(tmp_path, name, monkeypatch):
    made, model = table(name), make(name)
    prefix, store = prefix_of(model, name), PrefixStore(tmp_path / "both", 10**7)
    first = open_or_compute(store, prefix, 2, (), made, lambda: None)
    assert first.fill_s > first.pass_s > 0
    lowest, real = prefix.anatomy.blocks[0][1], type(prefix.anatomy.blocks[0][1]).forward
    runs = []
    monkeypatch.setattr(type(lowest), "forward", lambda self, *a, **k: (runs.append(self), real(self, *a, **k))[1])
    for depth in (3, 4):
        deeper = open_or_compute(store, prefix, depth, (), made, lambda: None)
        assert runs.count(lowest) <= 2  # probes
        assert deeper.pass_s > first.pass_s  # from token ids on
        runs.clear()
        alone = open_or_compute(PrefixStore(tmp_path / f"{depth}", 10**7), prefix, depth, (), made, lambda: None).rows
        assert all(np.array_equal(alone[row], deeper.rows[row]) for row in range(len(made.lengths)))
        runs.clear()
    again = open_or_compute(store, prefix, 3, (), made, lambda: None)
    assert (again.fill_s, runs) == (0, [])
    assert not [key for key, module in model.named_modules() if "forward" in module.__dict__]


def test_the_same_batch_gives_the_same_bits_as_the_whole_model(name):
    """With hidden states of that very batch, what is left is the same computation."""
    model, made = make(name), table(name)
    anatomy = find_blocks(model)
    model.eval()
    seen = {}
    batch = dict(made.collate([1, 2, 5]))
    for depth in (1, 2, 3, 4):
        handle = anatomy.blocks[depth - 1][1].register_forward_hook(lambda module, inputs, out: seen.update(out=out))
        whole = model(**batch).logits
        handle.remove()
        hidden = seen["out"][0] if isinstance(seen["out"], tuple) else seen["out"]
        suffix = Suffix(anatomy, depth)
        suffix.attach()
        assert torch.equal(model(**batch, **{HIDDEN: hidden}).logits, whole)
        suffix.detach()


def test_a_hidden_state_that_is_not_finite_is_noticed_while_filling(tmp_path, name):
    model, made = make(name), table(name)
    prefix = prefix_of(model, name)
    with torch.no_grad():
        next(prefix.anatomy.blocks[1][1].parameters()).fill_(float("inf"))
    with pytest.raises(OverflowInPrefixError, match="after block 2"):
        compute_hidden_states(prefix.anatomy, made, [1, 2], lambda *_: None)
    store = PrefixStore(tmp_path, 10**7)
    with pytest.raises(CacheError, match="not finite"):
        open_or_compute(store, prefix, 2, (), made, lambda: None)
    assert not list(tmp_path.rglob("*.bin")) + list(tmp_path.rglob(".*.tmp"))
    assert model.training


def test_bfloat16_hidden_states_are_kept_as_the_numbers_that_they_are(tmp_path, name):
    """Under autocast on a CPU some models' blocks give bfloat16, ELECTRA's among them."""
    from dataclasses import replace
    from functools import partial

    model, made = make(name), table(name)
    half = partial(torch.autocast, "cpu", dtype=torch.bfloat16)
    prefix = replace(prefix_of(model, name), autocast=half)
    cached = open_or_compute(PrefixStore(tmp_path, 10**7), prefix, 2, (), made, lambda: None).rows
    rows = [3, 17, 8, 11]
    batch, short = batch_of(made, rows, cached)
    model.eval()
    with torch.no_grad(), half():
        whole = model(**batch).logits
        suffix = Suffix(prefix.anatomy, 2)
        suffix.attach()
        part = model(**short).logits
        suffix.detach()
    assert (part - whole).abs().max() <= 0.05 * whole.abs().max()


def test_seconds_are_those_of_the_passes(name, tmp_path):
    """Also where a deeper depth begins at a shallower one."""
    model, made = make(name), table(name)
    prefix, store = prefix_of(model, name), PrefixStore(tmp_path, 10**7)
    began = time.perf_counter()
    for depth in (1, 2, 4):
        provided = open_or_compute(store, prefix, depth, (), made, lambda: None)
        assert 0 < provided.pass_s < time.perf_counter() - began, depth


def test_a_device_is_warmed_up_before_a_pass_is_measured(monkeypatch):
    model, made = make("bert"), table("bert")
    anatomy, calls = find_blocks(model), []
    monkeypatch.setattr(compute, "BATCH_TOKENS", {"cpu": 64})
    model.base_model.register_forward_pre_hook(lambda *_: calls.append(1))
    taken = {}
    for slow in ({}, {"cpu"}):
        monkeypatch.setattr(compute, "SLOW_AT_FIRST", slow)
        calls.clear()
        got = taken[bool(slow)] = []
        took = compute_hidden_states(anatomy, made, [1, 2], lambda *batch, got=got: got.append(batch))
        assert set(took) == {1, 2}
        assert len(calls) == (not slow) + len(got) // 2 + len(slow)  # it is probed once
    assert len(taken[True]) > 2
    for (depth, rows, counts, one), (same_depth, same_rows, _, other) in zip(taken[True], taken[False], strict=True):
        assert depth == same_depth
        assert rows.tolist() == same_rows.tolist()
        assert counts == made.lengths[rows].tolist()
        assert torch.equal(one, other)


def test_batches_depend_on_the_rows_alone_and_hold_each_once():
    lengths = np.array([5, 900, 3, 3, 4000, 9000, 1])
    batches = [list(batch) for batch in canonical_batches(lengths, 2048)]
    assert sorted(row for batch in batches for row in batch) == list(range(7))
    assert batches[0] == [5]
    assert batches == [list(batch) for batch in canonical_batches(lengths.copy(), 2048)]


@pytest.mark.parametrize(
    "change",
    [
        {"facts": {"weights": "other"}}, {"facts": {"weights": "bert", "attention": "eager"}}, {"dtype": "float16"},
        {"rows": 1}, {"types": 1}, {"borders": 1},
    ],
)  # fmt: skip
def test_any_change_is_a_miss(tmp_path, change):
    from dataclasses import replace

    store, prefix, made = PrefixStore(tmp_path, 10**7), prefix_of(make("bert"), "bert"), table("bert")
    open_or_compute(store, prefix, 2, (), made, lambda: None)
    assert is_cached(store, prefix, 2, [made])
    assert not is_cached(store, prefix, 3, [made])
    other = replace(prefix, **{key: value for key, value in change.items() if key in {"facts", "dtype"}})
    if "rows" in change:
        made = table("bert", seed=1)
    if "types" in change:
        column = (made.lengths, np.zeros(made.lengths.sum()))
        made = replace(made, sha256=rows_sha256({"input_ids": column, "token_type_ids": column}))
    if "borders" in change:  # the same tokens, cut into rows elsewhere
        one, other_rows = (rows_sha256({"input_ids": (np.array(cut), np.arange(5))}) for cut in ([2, 3], [3, 2]))
        assert one != other_rows
        return
    assert not is_cached(store, other, 2, [made])


@pytest.fixture
def padded(name):
    torch.manual_seed(1)
    ids, mask = torch.randint(5, 99, (4, 9)), torch.ones(4, 9, dtype=torch.long)
    mask[1, 5:] = mask[2, 3:] = mask[3, 1:] = 0
    return {"input_ids": ids.masked_fill(mask == 0, CONFIGS[name].pad_token_id or 0), "attention_mask": mask}


def probabilities(module, value):
    for part in module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = value


WHOLE_LAST = {"mpnet", "deberta", "modernbert", "llama"}
"""Layouts of a block that `last_block` does not know."""
known_layouts = pytest.mark.parametrize("name", sorted(CONFIGS.keys() - WHOLE_LAST))


@known_layouts
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_last_block_at_the_read_position_is_the_whole_blocks(name, attention, padded):
    model = make(name)
    model.set_attn_implementation(attention)
    anatomy = find_blocks(model)
    block = read_block(anatomy, READS[name])
    assert block is not None
    trained = [(key, p) for key, p in model.named_parameters() if p.requires_grad]
    labels = torch.tensor([0, 1, 1, 0])
    model.eval()
    full = {"input_ids": torch.randint(5, 99, (4, 9)), "attention_mask": torch.ones_like(padded["attention_mask"])}
    for batch in (padded, full):
        whole = model(**batch, labels=labels)
        wanted = torch.autograd.grad(whole.loss, [p for _, p in trained], allow_unused=True)
        with block.attached():
            read = model(**batch, labels=labels)
            got = torch.autograd.grad(read.loss, [p for _, p in trained], allow_unused=True)
        assert (read.logits - whole.logits).abs().max() < BOUND
        for (key, _), one, other in zip(trained, got, wanted, strict=True):
            assert (one is None) == (other is None), key
            assert one is None or (one - other).abs().max() < 1e-5, key
    assert torch.equal(model(**batch).logits, model(**batch).logits)
    assert "forward" not in anatomy.blocks[-1][1].__dict__


@pytest.mark.parametrize("name", sorted(WHOLE_LAST))
def test_a_layout_that_is_not_known_is_left_alone(name):
    assert read_block(find_blocks(make(name)), READS[name]) is None


@known_layouts
def test_the_last_block_drops_out_what_the_whole_one_does(name, padded):
    """Where dropout leaves nothing there is nothing random: each of the block's dropouts alone, then all."""
    model = make(name)
    anatomy = find_blocks(model)
    block = read_block(anatomy, READS[name])
    probabilities(model, 0.0)
    model.train()
    last = anatomy.blocks[-1][1]
    dropouts = [part for part in last.modules() if isinstance(part, torch.nn.Dropout)]
    assert dropouts
    plain = model(**padded).logits
    for chosen in [*([one] for one in dropouts), dropouts]:
        for one in chosen:
            one.p = 1.0
        whole = model(**padded).logits
        with block.attached():
            read = model(**padded).logits
        assert (read - whole).abs().max() < BOUND
        assert not torch.allclose(whole, plain)
        probabilities(model, 0.0)


@pytest.mark.slow
@known_layouts
def test_half_dropped_weights_are_scaled_up(name, padded):
    model = make(name)
    block = read_block(find_blocks(model), READS[name])
    probabilities(model, 0.0)
    wanted = model(**padded).logits
    for part in find_blocks(model).blocks[-1][1].modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.3
    torch.manual_seed(0)
    with torch.no_grad(), block.attached():
        draws = torch.stack([model.train()(**padded).logits for _ in range(300)])
    assert draws.std(0).min() > 0
    assert (draws.mean(0) - wanted).abs().max() < 6 * draws.std(0).max() / 300**0.5


def test_a_block_whose_parts_are_not_known_or_act_otherwise_is_computed_whole(caplog):
    caplog.set_level("INFO")
    model = make("bert")
    anatomy = find_blocks(model)
    assert read_block(anatomy, None) is None
    assert "its head does not read one position of every row" in caplog.text
    real = type(anatomy.blocks[-1][1]).forward

    class Other(type(anatomy.blocks[-1][1])):
        def forward(self, hidden_states, attention_mask=None, *args, **kwargs):
            return real(self, hidden_states, attention_mask, *args, **kwargs) + hidden_states

    anatomy.blocks[-1][1].__class__ = Other
    assert read_block(anatomy, "first") is None
    assert "at the first position alone it gives other logits" in caplog.text
    del anatomy.blocks[-1][1].attention
    caplog.clear()
    assert read_block(anatomy, "first") is None
    assert "the parts of Other are not known" in caplog.text


def test_a_causal_block_is_not_read_at_its_first_position(caplog):
    """Without padding there is no mask that says so: an attention that is causal by itself must be noticed."""
    caplog.set_level("INFO")
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(BertConfig(**SMALL, is_decoder=True))
    assert read_position(find_blocks(model)) == "first"
    assert read_block(find_blocks(model), "first") is None
    assert "at the first position alone it gives other logits" in caplog.text


def test_what_is_trained_is_a_model_of_its_own_under_the_same_names(name):
    model = make(name)
    anatomy = find_blocks(model)
    for _, module in anatomy.prefix(2):
        module.requires_grad_(False)
    wanted = {key for key, p in model.named_parameters() if p.requires_grad}
    part = TrainableModel(anatomy, 2)
    assert {key for key, _ in part.named_parameters()} == wanted
    assert all(p is dict(model.named_parameters())[key] for key, p in part.named_parameters())
    part.eval()
    kept = [module for _, module in (*anatomy.blocks[2:], *anatomy.head)]
    assert not model.training
    assert not any(inner.training for module in kept for inner in module.modules())
    part.train()
    assert model.training
    assert all(inner.training for module in kept for inner in module.modules())
