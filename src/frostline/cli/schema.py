"""`frostline schema`: a JSON Schema of the config, by which editors complete YAML."""

from __future__ import annotations

import argparse
import json

from frostline.cli.common import OneLineParser


def main(arguments: list[str]) -> int:
    """Prints the schema."""
    parser = OneLineParser(
        prog="frostline schema",
        description="Prints a JSON Schema of the config, made from what reads it: editors complete YAML by it.",
        epilog="examples:\n"
        "  frostline schema > frostline.schema.json\n"
        "then, below the line '# @package _global_' of a sweep's or an experiment's file\n"
        "  # yaml-language-server: $schema=frostline.schema.json\n"
        "and at the top of a dataset's file\n"
        "  # yaml-language-server: $schema=frostline.schema.json#/$defs/dataset",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args(arguments)
    from frostline.config.json_schema import json_schema

    print(json.dumps(json_schema(), indent=1, ensure_ascii=False))
    return 0
