"""The first page of the documentation, line by line, on the real model and the real sentences."""

from __future__ import annotations

import re
import shlex

import pytest

from tests.conftest import sentences, write_csv
from tests.support.sweep_tools import call
from tests.unit.project.test_docs import BLOCKS


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_quickstart_does_what_it_says(real_home, tmp_path):
    text = "\n".join(block.text for block in BLOCKS if block.page == "index.md")
    lines = [line for line in text.splitlines() if line.startswith("frostline ")]
    assert len(lines) == 6
    write_csv(tmp_path / "reviews.csv", sentences(60), header=("review", "mood"))
    said = []
    for line in lines:
        done = call(*shlex.split(line)[1:], cwd=tmp_path, timeout=300, FROSTLINE_HOME=str(real_home))
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        said.append(done.stdout)
    assert "unchanged (hashes compared)" in said[1]
    for answer in said[2:4]:
        assert re.search(
            r"^(recommended|best guess): (nothing was learnt: )?(freeze|train everything) ", answer, re.MULTILINE
        )
    assert said[4].startswith(("positive\t", "negative\t"))
    assert "FINISHED" in said[5]
    assert (tmp_path / "runs" / "first" / "report" / "report.html").is_file()
