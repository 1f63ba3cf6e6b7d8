"""Help, config errors and completion answer before anything heavy is imported."""

import json
import os
import subprocess
import sys

import pytest

HEAVY = ["torch", "transformers", "mlflow", "datasets", "evaluate", "sklearn", "pandas"]
SCRIPT = """
import json, sys
from frostline.cli.main import main
sys.argv = ["frostline", *{arguments!r}]
try:
    main()
except SystemExit as stop:
    code = stop.code
loaded = [name for name in {heavy!r} if name in sys.modules]
print("\\n" + json.dumps([code, loaded]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], 0),
        (["--help"], 0),
        (["--version"], 0),
        (["nosuch"], 2),
        (["run", "--help"], 0),
        (["run", "--cfg", "job"], 0),
        (["run", "--info", "defaults"], 0),
        (["run", "freeze.depth=9"], 2),
        (["run", "optimizer.learing_rate=1"], 2),
        (["run", "optimizer.name=nosuch"], 2),
        (["run", "training.objective=nosuch"], 2),
        (["run", "model=nosuch"], 2),
        (["run", "dataset=csv", "dataset.location=missing.csv"], 2),
        (["run", "-m", "freeze.depth=0,9"], 2),
        (["fetch", "--help"], 0),
        (["list", "cache"], 0),
        (["list", "models"], 0),
        (["list", "metrics"], 0),
        (["list", "nosuch"], 2),
        (["show", "--help"], 0),
        (["plan", "nosuch"], 2),
        (["run", "runtime.num_processes=3"], 2),
        (["show", "--blocks", "--help"], 0),
        (["show", "--test", "--help"], 0),
        (["predict", "--vectors", "--help"], 0),
        (["predict", "--help"], 0),
        (["ui", "--help"], 0),
        (["ui"], 2),
        (["predict"], 2),
        (["-sc", "query=bash"], 0),
    ],
    ids=str,
)
def test_nothing_heavy_is_imported(arguments, code, tmp_path):
    script = SCRIPT.format(arguments=arguments, heavy=HEAVY)
    environment = {**os.environ, "COMP_LINE": "frostline run model=m"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert json.loads(done.stdout.splitlines()[-1]) == [code, []], done.stderr
    assert "Traceback" not in done.stderr
    if code == 2:
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert done.stderr.startswith("frostline: ")
    assert not list(tmp_path.iterdir())  # no folder is left of a command that did nothing
