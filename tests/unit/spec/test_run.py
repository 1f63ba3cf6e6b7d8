import json
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from frostline.config import compose_run, spec_from_text, spec_to_yaml
from frostline.errors import SpecError
from frostline.spec import Augment, RunSpec, expand_cache_shorthand, short_number, spec_diff


@pytest.fixture(scope="module")
def spec() -> RunSpec:
    return compose_run(["freeze.depth=4", "optimizer.lr=1e-4"])


def test_round_trips_through_json_yaml_and_dict(spec):
    assert spec_from_text(spec.to_json()) == spec
    assert spec_from_text(spec_to_yaml(spec)) == spec
    assert RunSpec.from_dict(spec.to_dict()) == spec


BASE = compose_run()


@settings(max_examples=60, deadline=None)
@given(
    lr=st.floats(min_value=1e-12, max_value=1e3, allow_nan=False),
    decay=st.floats(min_value=0, max_value=10),
    depth=st.integers(min_value=0, max_value=6),
    seed=st.integers(min_value=0, max_value=2**32 - 1),
    name=st.text(min_size=1, max_size=20).filter(lambda t: t.strip() and t.isprintable()),
)
@example(lr=1.0, decay=0.0, depth=0, seed=0, name="0E0")
def test_any_valid_spec_round_trips_exactly(lr, decay, depth, seed, name):
    base = BASE
    spec = replace(
        base,
        seed=seed,
        freeze=replace(base.freeze, depth=depth),
        optimizer=replace(base.optimizer, lr=lr, weight_decay=decay),
        dataset=replace(base.dataset, name=name),
    )
    assert spec_from_text(spec.to_json()) == spec
    assert spec_from_text(spec_to_yaml(spec)) == spec
    assert spec_from_text(spec.to_json()).digest() == spec.digest()


def test_name_has_the_coordinates_that_vary_first(spec):
    assert spec.name() == "d4-lr1e-04-s0-minilm-movie_reviews"
    assert compose_run(["freeze=head"]).name().startswith("head-lr1e-04-")
    assert compose_run(["freeze=none"]).name().startswith("none-")


def test_names_keep_out_what_a_folder_can_not_hold():
    spec = compose_run(["model.name='a b/c:d'", "dataset=csv", "dataset.location=x/my reviews.v2.csv"])
    assert spec.name() == "d0-lr1e-04-s0-a_b_c_d-my_reviews.v2"


@pytest.mark.parametrize(
    ("value", "text"), [(1e-4, "1e-04"), (3.16e-4, "3.16e-04"), (0.00123456, "1.23e-03"), (2.5, "2.5e+00")]
)
def test_short_numbers(value, text):
    assert short_number(value) == text


def test_digest_is_of_everything_but_runtime(spec):
    elsewhere = replace(spec, runtime=replace(spec.runtime, threads=7, loader_workers=3))
    assert elsewhere.digest() == spec.digest()
    for other in (
        replace(spec, seed=1),
        replace(spec, optimizer=replace(spec.optimizer, lr=2e-4)),
        replace(spec, dataset=replace(spec.dataset, train_rows=10)),
        replace(spec, model=replace(spec.model, weights_sha256="0" * 64)),
    ):
        assert other.digest() != spec.digest()


def test_digest_is_pinned(spec):
    # Recorded runs are found again by it: a change here breaks every old record and asks for a new SCHEMA_VERSION.
    assert spec.digest() == PINNED


def test_a_key_that_was_added_later_counts_where_it_changes_something(spec):
    """A record of 0.1, which has none of them, keeps its digest."""
    training, dataset = spec.training, spec.dataset
    for same in (replace(dataset, views=3), replace(dataset, crop_scale=0.9)):  # of no augmentation
        assert replace(spec, dataset=same).digest() == PINNED
    for other in (
        replace(spec, training=replace(training, patience=2)),
        replace(spec, training=replace(training, label_smoothing=0.1)),
        replace(spec, dataset=replace(dataset, image_column="image", augment=Augment.TRIVIAL)),
        replace(spec, dataset=replace(dataset, image_column="image", augment=Augment.TRIVIAL, views=3)),
    ):
        assert other.digest() != PINNED
    images = replace(dataset, image_column="image", augment=Augment.TRIVIAL)
    digests = {replace(spec, dataset=replace(images, views=views)).digest() for views in (3, 4, None)}
    assert len(digests) == 3


PINNED = "672358a913401650db6e41eaed878c0bc0bdc6c03d63e1db9f8f6653d9656c6c"


def test_flat_has_dotted_names_and_scalars(spec):
    flat = spec.flat()
    assert flat["freeze.depth"] == 4
    assert flat["optimizer.lr"] == 1e-4
    assert flat["dataset.columns"] == "id,rating,text"
    assert flat["training.precision"] == "fp32"
    assert flat["seed"] == 0
    assert all(value is None or type(value) in (str, int, float, bool) for value in flat.values())


def test_diff_names_what_differs_and_leaves_runtime_out(spec):
    other = replace(spec, seed=3, runtime=replace(spec.runtime, threads=1))
    assert spec_diff(spec, other) == ["seed: 0 -> 3"]


def test_specs_are_frozen(spec):
    with pytest.raises(AttributeError):
        spec.seed = 1


@pytest.mark.parametrize("version", [0, True, None, "1", 2, 99])
def test_another_schema_version_is_refused(spec, version):
    data = json.loads(spec.to_json())
    assert data["schema"] == 1
    with pytest.raises(SpecError, match="this frostline reads 1"):
        spec_from_text(json.dumps({**data, "schema": version}))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.lr=0", r"optimizer.lr=0.0: must be a finite number above 0"),
        ("optimizer.lr=-1e-4", r"optimizer.lr=-0.0001: must be"),
        ("optimizer.lr=nan", r"optimizer.lr=nan: must be a finite number"),
        ("optimizer.lr=inf", r"optimizer.lr=inf: must be"),
        ("optimizer.weight_decay=-1", r"optimizer.weight_decay=-1.0"),
        ("optimizer.warmup_ratio=1", r"optimizer.warmup_ratio=1.0: must be at least 0 and below 1"),
        ("optimizer.layer_decay=0", r"optimizer.layer_decay"),
        ("training.epochs=0", r"training.epochs=0.0: must be above 0"),
        ("training.batch_size=0", r"training.batch_size=0: must be 1 or more"),
        ("training.max_steps=5", r"either training.epochs or training.max_steps"),
        ("training.epochs=null", r"either training.epochs or training.max_steps"),
        ("training.max_tokens=2", r"training.max_tokens=2"),
        ("training.metrics=[accuracy,accuracy]", r"more than once"),
        ("freeze.depth=-1", r"freeze.depth=-1: must be 0 or more"),
        ("freeze.depth=7", r"freeze.depth=7: minilm has 6 blocks, so give 0 to 6"),
        ("freeze.depth=null", r"freeze.depth is missing"),
        (
            "freeze.last=2",
            r"freeze.last=2 contradicts freeze=depth: drop one of them \(freeze.last belongs to freeze=last\)",
        ),
        ("seed=-1", r"seed=-1"),
        ("seed=4294967296", r"seed=4294967296"),
        ("dataset.eval_fraction=1", r"dataset.eval_fraction=1.0: must be between 0 and 1"),
        ("dataset.train_rows=0", r"dataset.train_rows=0: must be 1 or more, or null"),
        ("dataset.label_names=[a]", r"two classes"),
        ("dataset.label_names=[a,a]", r"more than once"),
        ("dataset.sha256=abc", r"dataset.sha256"),
        ("dataset.member=null", r"dataset.member is missing"),
        ("model.location=noversion", r"model.location=noversion: a package is given as name==version"),
        ("model.location=''", r"model.location is empty"),
        ("runtime.threads=0", r"runtime.threads=0"),
        ("tracking.uri=''", r"tracking.uri is empty"),
        ("tracking.register=a/b", r"tracking.register=a/b: MLflow takes a name without / and :"),
    ],
)
def test_values_out_of_range_get_one_line_with_the_key(override, message):
    with pytest.raises(SpecError, match=message) as error:
        compose_run([override])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("freeze=head freeze.depth=3", r"freeze.depth=3 contradicts freeze=head"),
        ("freeze=fraction freeze.fraction=1.5", r"freeze.fraction=1.5: must be 0 to 1"),
        ("freeze=last freeze.last=7", r"freeze.last=7: minilm has 6 blocks, so give 0 to 6"),
        ("freeze=last freeze.last=-1", r"freeze.last=-1: must be 0 or more"),
        ("freeze=blocks", r"freeze.blocks is missing: give the frozen blocks, for example freeze.blocks=\[0-3,7\]"),
        ("freeze=blocks freeze.blocks=[0-6]", r"freeze.blocks=\[0-6\]: minilm has 6 blocks, so give 0 to 5"),
        ("freeze=blocks freeze.blocks=[3-1]", r"freeze.blocks\[0\]=3-1: a range goes up, for example 1-3"),
        ("freeze=blocks freeze.blocks=[1,x]", r"freeze.blocks\[1\]=x: give the number of a block"),
        ("freeze=blocks freeze.blocks=[-1]", r"freeze.blocks\[0\]=-1: give the number of a block"),
        ("freeze=blocks freeze.blocks=[1.5]", r"freeze.blocks\[0\]"),
        ("freeze=blocks freeze.blocks=[0-99999999]", r"no model has so many blocks"),
        ("freeze=blocks freeze.blocks=3", r"freeze.blocks: expected a list"),
        ("freeze=blocks freeze.blocks=[]", r"freeze.blocks is empty"),
        ("freeze=pattern", r"freeze.pattern is missing: give regular expressions"),
        ("freeze=pattern freeze.pattern=[]", r"freeze.pattern is empty"),
        ("freeze=pattern freeze.pattern=['']", r"freeze.pattern\[0\] is empty"),
        ("freeze=pattern freeze.pattern=['(']", r"freeze.pattern\[0\]=\(: no regular expression"),
        ("freeze=pattern freeze.pattern=['a{99999999999999999999}']", r"no regular expression \(the repetition number"),
        ("freeze=pattern freeze.pattern=['[[a]']", r"no regular expression \(Possible nested set"),
        ("freeze=blocks freeze.blocks=[1e2]", r"freeze.blocks\[0\]=100.0: expected a whole number or a text"),
        ("freeze=blocks freeze.blocks=[true]", r"freeze.blocks\[0\]=True: expected a whole number or a text"),
        ("freeze=bias_only freeze.embeddings=true", r"freeze.embeddings=true contradicts freeze=bias_only"),
    ],
)
def test_ways_of_freezing_take_their_own_keys(overrides, message):
    with pytest.raises(SpecError, match=message) as error:
        compose_run(overrides.split(" "))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "label"),
    [
        ("freeze=fraction", "f0.5"),
        ("freeze=last", "last1"),
        ("freeze=blocks freeze.blocks=[0-2,5]", "b0-2+5"),
        ("freeze=blocks freeze.blocks=[0] freeze.embeddings=false", "b0-free"),
        ("freeze=blocks freeze.blocks=[5,0,0-1,2]", "b0-2+5"),
        ("freeze=pattern freeze.pattern=[embeddings,LayerNorm]", "pembeddings+LayerNorm"),
        ("freeze=bias_only", "bias"),
        ("freeze=norm_only", "norm"),
    ],
)
def test_ways_of_freezing_have_names_and_are_recorded(overrides, label):
    spec = compose_run(overrides.split(" "))
    assert spec.name().startswith(f"{label}-lr")
    again = spec_from_text(spec.to_json())
    assert again == spec
    assert again.digest() == spec.digest() != compose_run([]).digest()
    assert spec.flat()["freeze.name"] == overrides.split(" ")[0].removeprefix("freeze=")


def test_a_word_for_the_cache_leaves_its_keys_to_be_given():
    more = ["runtime.cache=${x}", "+runtime.cache=off", "runtime.cache.max_bytes=1"]
    assert expand_cache_shorthand(["runtime.cache=off,auto", *more]) == ["runtime.cache.mode=off,auto", *more]
    assert expand_cache_shorthand(["runtime.cache=off", "freeze.depth=1"]) == ["runtime.cache=off", "freeze.depth=1"]
    cache = compose_run(["runtime.cache=require", "runtime.cache.max_bytes=1e9"]).runtime.cache
    assert (cache.mode.value, cache.max_bytes) == ("require", 1e9)
