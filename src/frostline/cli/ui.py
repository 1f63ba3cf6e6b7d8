"""`frostline ui`: starts MLflow's UI on the store that runs are recorded in."""

from __future__ import annotations

import os
import sys

from frostline import tracking
from frostline.cli.common import compose, override_parser
from frostline.errors import UserError
from frostline.tracking.links import UI_HOST, UI_PORT


def main(arguments: list[str]) -> int:
    """Replaces this process by MLflow's UI; with `--sync` it does not."""
    if "--sync" in arguments:
        from frostline.cli.ui_sync import main as sync

        return sync([word for word in arguments if word != "--sync"])
    parser = override_parser(
        "ui",
        "Serves the MLflow UI on the store of tracking.uri, sqlite:///mlflow.db in this folder by default.",
        "examples:\n"
        "  frostline ui --port 5001\n"
        "  frostline ui --sync [FOLDER ...]     record there what it missed while it was out of reach, and end",
    )
    parser.add_argument("--host", default=UI_HOST, help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=UI_PORT)
    options = parser.parse_args(arguments)
    uri = compose(options).tracking.uri
    path = uri.removeprefix("sqlite:///")
    if path != uri and not os.path.exists(path):  # noqa: PTH110 - a URI's path, taken as it is
        raise UserError(f"tracking.uri={uri}: no runs were recorded there yet: frostline run first, in this folder")
    command = tracking.ui_command(uri, options.host, options.port)
    print(f"MLflow UI on http://{options.host}:{options.port}/ (Ctrl-C ends it)", flush=True)
    os.chdir(sys.prefix)  # uvicorn imports from the current folder before all others, whatever the flags of Python
    return os.execv(command[0], command)
