"""`frostline show RUN`: a recorded run's numbers and its whole config."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json

from frostline.api.find_run import run_with_model
from frostline.cli.common import OneLineParser
from frostline.errors import visible


def main(arguments: list[str]) -> int:
    """Prints a run, with `--test` its score on test rows, or with `--blocks` a model's parts."""
    for flag in ("test", "blocks"):
        if f"--{flag}" in arguments:
            command = importlib.import_module(f"frostline.cli.show_{flag}")
            return int(command.main([word for word in arguments if word != f"--{flag}"]))
    parser = OneLineParser(
        prog="frostline show",
        description="Shows a recorded run: how it ended, what it cost, and the whole config that it was trained with.",
        epilog="examples:\n  frostline show lr_x_depth          a sweep's recommended run\n"
        "  frostline show runs/lr_x_depth/003\n  frostline run --from runs/lr_x_depth/003 seed=1\n"
        "  frostline show --test lr_x_depth    its score on test rows, computed once\n"
        "  frostline show --blocks model=minilm freeze.depth=3    before anything is trained",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "run", metavar="RUN", help="a run's folder, a sweep (its recommended run), or a run id in MLflow"
    )
    parser.add_argument("--json", action="store_true", help="as JSON: spec and result")
    parser.add_argument("--test", action="store_true", help="its score on test rows: see frostline show --test --help")
    parser.add_argument(
        "--blocks", action="store_true", help="of a config: its model's blocks: see frostline show --blocks --help"
    )
    parser.add_argument("--tracking-uri", metavar="URI", help="where to look a run id up; the config's by default")
    options = parser.parse_args(arguments)
    from frostline.config import spec_to_yaml
    from frostline.config.recorded import read_spec
    from frostline.records.result import RunResult, finite
    from frostline.report import summary

    folder = run_with_model(options.run, options.tracking_uri, None)
    spec, result = read_spec(folder), RunResult.read(folder)
    if options.json:
        data = {"run_dir": str(folder), "spec": spec.to_dict(), "result": finite(dataclasses.asdict(result))}
        print(json.dumps(data, indent=1, ensure_ascii=False, default=str))
        return 0
    print(visible(summary(result, folder)))
    print()
    print(visible(spec_to_yaml(spec)).rstrip())
    return 0
