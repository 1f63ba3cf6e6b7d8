"""`frostline demo`: fetches a real model and real data, searches, prints the answer."""

from __future__ import annotations

from frostline.cli import fetch, sweep


def main(arguments: list[str]) -> int:
    """Fetches, then sweeps.

    Args:
        arguments: Overrides of the sweep, as `tracking=off`.

    Returns:
        The exit code.
    """
    if {"-h", "--help"} & set(arguments):
        print(
            "usage: frostline demo [KEY=VALUE ...]\n\n"
            "Fetches MiniLM and 10,605 sentences of film reviews, some 100 MB, and searches over frozen depth and\n"
            "learning rate: five minutes on two cores. The same as frostline fetch model=minilm\n"
            "dataset=movie_reviews, then frostline sweep demo."
        )
        return 0
    code = fetch.main(["model=minilm", "dataset=movie_reviews"])
    return code or sweep.main(["demo", *arguments])
