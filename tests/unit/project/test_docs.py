"""What the documentation shows: the site builds, Python runs and prints what stands there, commands compose."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from frostline import paths
from frostline.cli.main import _COMMANDS
from frostline.cli.sweep import names as sweep_names
from frostline.config import check_multirun, compose_job, value_from_text
from frostline.spec import flat_entries, parse_dimension

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_UNKNOWN = re.compile(r"\.\.\.|<[^>]+>|\b(?:NAME|STUDY|FOLDER|FILE|KEY|RUN|URI|ANOTHER|HOST)\b|joblib|submitit|=ray\b")
"""Commands with something to fill in, or with a launcher that isn't installed, are not composed."""


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    text: str

    def __str__(self):
        return f"{self.page}:{self.line}"


def blocks():
    found = []
    for page in PAGES:
        lines, start = page.read_text(encoding="utf-8").splitlines(), None
        for number, line in enumerate(lines, 1):
            if not line.strip().startswith("```"):
                continue
            if start is None:
                start, language = number, line.strip()[3:]
            else:
                text = "\n".join(lines[start : number - 1])
                found.append(Block(page.name, start + 1, language, text))
                start = None
        assert start is None, f"{page.name}: a block that doesn't end"
    return found


BLOCKS = blocks()


def commands():
    found = []
    for block in BLOCKS:
        text = block.text.replace("\\\n", " ")
        found += [
            (f"{block}", re.sub(r"\s{2,}# .*", "", line).strip())
            for line in text.splitlines()
            if line.startswith("frostline ") and not re.match(r"frostline: ", line)
        ]
    for page in PAGES:  # in running text and tables
        text = page.read_text(encoding="utf-8")
        found += [(page.name, line) for line in re.findall(r"`(frostline (?:run|sweep) [^`]+)`", text)]
    return found


COMMANDS = commands()


def test_there_is_something_to_test():
    assert len([block for block in BLOCKS if block.language == "python"]) >= 2
    assert len(COMMANDS) >= 80
    assert len([command for _, command in COMMANDS if not _UNKNOWN.search(command)]) >= 60


@pytest.mark.slow
@pytest.mark.parametrize(("where", "command"), COMMANDS, ids=[f"{where} {line[:50]}" for where, line in COMMANDS])
def test_every_command_is_one_and_its_config_is_valid(where, command):
    words = shlex.split(command)
    assert words[1] in _COMMANDS
    if _UNKNOWN.search(command) or words[1] not in {"run", "sweep", "show", "fetch"} or "--help" in words:
        return
    overrides = [word for word in words[2:] if re.match(r"[+~]?[\w./@]+=", word)]
    overrides = [word for word in overrides if not word.startswith(("hydra.", "hydra/", "resume="))]
    if words[1] in {"sweep", "plan"}:
        name = next(word for word in words[2:] if "=" not in word and not word.startswith("-"))
        if name not in sweep_names():  # a sweep of one's own, shown elsewhere
            return
        overrides = [f"+sweep={name}", *(word for word in overrides if "choice(" not in word)]
    if "-m" in words:
        from hydra import initialize_config_dir

        with initialize_config_dir(config_dir=str(paths.conf_dir()), version_base="1.3"):
            check_multirun([*overrides, "model.num_blocks=null"], "config", lambda job: None)
        return
    stubs = {"plugins": "plugins=[]", "optimizer.name": "optimizer.name=sgd"}
    overrides = [stubs.get(word.partition("=")[0], word) for word in overrides]
    assert compose_job(overrides).run.digest()


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "python"], ids=str)
@pytest.mark.slow
def test_python_runs_and_prints_what_stands_there(block, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", block.text], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    after = BLOCKS[BLOCKS.index(block) + 1] if block is not BLOCKS[-1] else None
    if "print(" in block.text:
        assert after is not None
        assert done.stdout.strip() == after.text.strip()


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "yaml"], ids=str)
def test_yaml_is_valid(block):
    data = value_from_text(re.sub(r"'\$\{model\.num_blocks\}'", "6", block.text))  # reads 1e-5 as Hydra does
    assert isinstance(data, dict)
    for key, entry in flat_entries(data.get("sweep", {}).get("space", {})).items():
        parse_dimension(key, entry)


def test_every_link_within_the_documentation_leads_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_page_has_its_place_on_the_site():
    reported = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    text = yaml.dump(reported)
    for page in (ROOT / "docs").rglob("*.md"):
        assert str(page.relative_to(ROOT / "docs")) in text


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_site_builds_without_a_warning(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path / "site")], cwd=ROOT,
        capture_output=True, text=True, check=False, timeout=170, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "reference" / "library" / "index.html").read_text(encoding="utf-8")
    assert "frostline.report.significance.compare" in page
    assert "Satterthwaite" in page
