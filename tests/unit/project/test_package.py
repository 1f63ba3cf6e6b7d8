"""What an installation brings: every import is declared, and nothing is declared that isn't imported."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

FOR_OTHERS = {
    "cmaes": "Optuna's sampler of that name imports it",
    "accelerate": "Trainer imports it",
}
"""Declared though no module of ours imports them at the top: what we call does."""


def name_of(requirement: str) -> str:
    return re.split(r"[\[><=~; ]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def imported() -> dict[str, set[str]]:
    """Top-level packages that src/ imports, with the files that do, also inside of functions."""
    modules: dict[str, set[str]] = {}
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            for name in names:
                modules.setdefault(name.partition(".")[0], set()).add(path.name)
    return modules


def test_every_import_is_declared():
    known = packages_distributions()
    known |= {"peft": ["peft"], "timm": ["timm"], "ray": ["ray"], "kornia": ["kornia"], "rouge_score": ["rouge-score"]}
    known |= {
        "torchao": ["torchao"],
        "torchvision": ["timm"],
        "wandb": ["wandb"],
        "trackio": ["trackio"],
    }  # timm brings torchvision
    declared = {name_of(each) for each in PROJECT["dependencies"]}
    declared |= {
        name_of(each) for key, extra in PROJECT["optional-dependencies"].items() if key != "dev" for each in extra
    }
    own = {"frostline", "hydra_plugins", "my_metric"}
    missing = {}
    for module, files in imported().items():
        if module in sys.stdlib_module_names or module in own:
            continue
        names = {name.lower().replace("_", "-") for name in known.get(module, [module])}
        if not names & declared:
            missing[module] = files
    assert missing == {}


def test_everything_declared_is_imported():
    known = packages_distributions()
    modules = imported()
    used = {name.lower().replace("_", "-") for module in modules for name in known.get(module, [module])}
    declared = {name_of(each) for each in PROJECT["dependencies"]}
    assert declared - used - set(FOR_OTHERS) == set()


def test_the_classifiers_name_the_pythons_that_are_tested():
    versions = [each.rpartition(" ")[2] for each in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d+$", each)]
    assert versions == ["3.11", "3.12", "3.13", "3.14"]
    assert PROJECT["requires-python"] == ">=3.11"
