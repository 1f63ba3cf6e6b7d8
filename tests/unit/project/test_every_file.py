"""Every YAML that is shipped is executed: it composes, is valid, and names things that exist."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from frostline import paths
from frostline.config import compose_job
from frostline.metrics import METRICS, check
from frostline.models import optimizer
from frostline.spec import TASKS, Source
from frostline.sweeps.read_config import read

ROOT = Path(__file__).parents[3]
GROUPS = sorted(path for path in (ROOT / "conf").glob("*/*.yaml"))
SWEEPS = sorted((ROOT / "sweeps" / "sweep").glob("*.yaml"))
BASES = sorted((ROOT / "conf").glob("*/_base/*.yaml")) + sorted((ROOT / "sweeps").glob("sweep/_base/*.yaml"))


def test_no_file_was_forgotten():
    """A new file raises the count here, when it has been checked: what it names, its line in the documentation."""
    assert (len(GROUPS), len(SWEEPS), len(BASES)) == (70, 8, 6)
    every = {path for folder in ("conf", "sweeps") for path in (ROOT / folder).rglob("*.yaml")}
    assert every == {*GROUPS, *SWEEPS, *BASES, ROOT / "conf" / "config.yaml"}


def stubs(group, name, text):
    """What a choice wants besides its name."""
    found = [f"freeze.{key}=['0']" for key in ("blocks", "pattern") if f"\n{key}: ???" in text]
    if name in {"gradual", "lp_ft"}:
        found.append("training.epochs=3")
    if name == "albert_base":
        found.append("freeze=none")
    if name in {"regression", "multi_label"} and group == "training":
        found += [f"dataset.task={name}", "dataset.threshold=null"]
        found += ["dataset.label_names=null"] if name == "regression" else []
    if name in {"causal_lm", "seq2seq"}:
        found.append(f"dataset.task={name}")
    if name == "seq2seq":
        found.append("dataset.target_column=summary")
    if name == "conll":
        found.append("training=token_classification")
    if name == "token_classification":
        found.append("dataset=conll")
        found.append("dataset.location=somewhere")
    if name == "stsb":
        found.append("training=regression")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("path", GROUPS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_group_file_composes_and_names_what_exists(path, tmp_path):
    group, text = path.parent.name, path.read_text(encoding="utf-8")
    plus = "+" if group == "experiment" else ""
    overrides = [f"{plus}{group}={path.stem}", *stubs(group, path.stem, text)]
    if group in {"model", "dataset"}:
        location = (
            "somewhere"
            if path.stem in {"path", "hub", "csv", "tsv", "jsonl", "parquet", "image_folder", "conll"}
            else None
        )
        overrides += [f"{group}.location={location}"] if location else []
    job = compose_job(overrides)
    spec = job.run
    optimizer.check(spec.optimizer)
    check(spec.training, spec.dataset.task)
    assert all(name in METRICS for name in spec.training.metrics)
    if spec.dataset.task is not TASKS.get("regression"):
        assert spec.training.objective in {*spec.training.metrics, "loss"}
    for part in (spec.model, spec.dataset):
        if part.source is Source.HUB and part.location != "somewhere":
            # A repository that is a script is read from the branch that the hub makes of it.
            pinned = len(part.revision or "") == 40 or len(getattr(part, "weights_sha256", None) or "") == 64
            assert pinned or path.stem == "trec", "a hub repository is pinned by its commit, or its weights by a hash"
    about = text.splitlines()[0]
    assert about.startswith("# "), "its first line says what it is: frostline list shows it"


@pytest.mark.slow
@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_a_sweep_composes_with_all_corners_of_its_space(path):
    arguments = [f"+sweep={path.stem}"]
    if path.stem == "models_x_depth":
        arguments.append("sweep.space.model.choices=[minilm,distilbert]")
    with initialize_config_dir(config_dir=str(paths.conf_dir()), version_base="1.3"):
        cfg = compose("config", overrides=arguments, return_hydra_config=True)
        sweep = read(cfg, arguments, lambda overrides: compose("config", overrides=list(overrides)), lambda job: None)
    assert sweep.space.keys
    assert list(sweep.space.grid(coarse=True))
    assert sweep.job.run.digest()
    folder = str(cfg.hydra.sweep.dir)
    assert folder == f"runs/{sweep.plan.name}"
    assert path.read_text(encoding="utf-8").startswith("# @package _global_\n# ")
