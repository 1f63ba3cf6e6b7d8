"""`frostline push RUN OWNER/NAME`: uploads a trained model with its card to the Hugging Face hub."""

from __future__ import annotations

import argparse
import re

from frostline.api.find_run import run_with_model, trained_spec
from frostline.cli.common import OneLineParser
from frostline.errors import UserError, as_user_error, first_line
from frostline.records.run_folder import MODEL_FOLDER


def main(arguments: list[str]) -> int:
    """Uploads `model/` of a run, checked against the run's record."""
    parser = OneLineParser(
        prog="frostline push",
        description="Uploads a trained run's model to the Hugging Face hub: weights, tokenizer, label names, and a\n"
        "card with what the sweep says, the data's fingerprint and how to train it again. Log in with `hf auth\n"
        "login`, or set HF_TOKEN.",
        epilog="example: frostline push lr_x_depth me/minilm-moods --private",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", help="a run's folder, a sweep (its recommended run), or a run id")
    parser.add_argument("repository", metavar="OWNER/NAME")
    parser.add_argument("--private", action="store_true", help="if the repository is new, only you see it")
    parser.add_argument("--tracking-uri", metavar="URI", help="where to look a run id up; the config's by default")
    options = parser.parse_args(arguments)
    repository: str = options.repository
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise UserError(f"{repository}: give a repository as OWNER/NAME")
    folder = run_with_model(options.run, options.tracking_uri, None)
    trained_spec(folder)
    from huggingface_hub import HfApi

    def refused(error: BaseException) -> UserError:
        return UserError(f"{repository}: can't be pushed to ({type(error).__name__}: {first_line(error)})")

    with as_user_error(refused):
        hub = HfApi()
        hub.create_repo(repository, private=options.private, exist_ok=True)
        hub.upload_folder(
            repo_id=repository, folder_path=folder / MODEL_FOLDER, commit_message=f"frostline: {folder.name}"
        )
    print(f"pushed: {folder / MODEL_FOLDER} to {repository}")
    return 0
