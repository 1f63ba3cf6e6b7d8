"""`frostline show --blocks`: counts a model's parts and lists its newly initialized tensors."""

from __future__ import annotations

import json

from frostline.api.inspection import examine, print_facts
from frostline.cli.common import compose, override_parser
from frostline.report import make_console


def main(arguments: list[str]) -> int:
    """Prints blocks, parameter names, shapes and counts of a model, and what each frozen depth leaves to train."""
    parser = override_parser(
        "show --blocks",
        "Shows a model's blocks, parameter names, shapes and counts, and what is frozen and trained at each depth.\n"
        "Its weights are read to say which tensors they lack: those are drawn with the run's seed.",
        "example: frostline show --blocks model=minilm freeze=blocks freeze.blocks=[0-3]",
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--params", action="store_true", help="list every parameter tensor, too")
    options = parser.parse_args(arguments)
    facts = examine(compose(options).run)
    if options.json:
        print(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        print_facts(facts, make_console(), params=options.params)
    return 0
