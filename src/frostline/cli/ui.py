"""`frostline ui`: starts MLflow's UI on the store that runs are recorded in, at the last sweep."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path

from frostline import tracking
from frostline.api.find_run import RUNS, sweep_folder
from frostline.cli.common import compose, override_parser
from frostline.errors import UserError, visible
from frostline.sweeps.folder import JOURNAL_FILE, SWEEP_FILE, read_description
from frostline.tracking.links import UI_HOST, UI_PORT

_MOST_VIEWS = 5

_OPEN_WHEN_IT_SERVES = """
import socket, sys, time, webbrowser
host, port, address = sys.argv[1], int(sys.argv[2]), sys.argv[3]
for _ in range(240):
    with socket.socket() as client:
        if client.connect_ex((host, port)) == 0:
            webbrowser.open(address)
            break
    time.sleep(0.5)
"""


def main(arguments: list[str]) -> int:
    """Replaces this process by MLflow's UI, or by Optuna's; with `--sync` it does not."""
    if "--sync" in arguments:
        from frostline.cli.ui_sync import main as sync

        return sync([word for word in arguments if word != "--sync"])
    parser = override_parser(
        "ui",
        "Serves the MLflow UI on the store of tracking.uri, sqlite:///mlflow.db in this folder by default, prints the\n"
        "pages of the last sweeps and opens that of the last one.",
        "examples:\n"
        "  frostline ui --port 5001\n"
        "  frostline ui --optuna lr_x_depth     Optuna's dashboard on a sweep (pip install optuna-dashboard)\n"
        "  frostline ui --sync [FOLDER ...]     record there what it missed while it was out of reach, and end",
    )
    parser.add_argument("--host", default=UI_HOST, help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=UI_PORT)
    parser.add_argument("--no-browser", action="store_true", help="only print the addresses")
    parser.add_argument("--optuna", metavar="SWEEP", help="Optuna's dashboard on a sweep instead")
    options = parser.parse_args(arguments)
    _check_port(options.host, options.port)
    address = f"http://{options.host}:{options.port}"
    if options.optuna is not None:
        command, page = _optuna_command(options.optuna, options.host, options.port), f"{address}/"
    else:
        uri = compose(options).tracking.uri
        path = uri.removeprefix("sqlite:///")
        if path != uri and not os.path.exists(path):  # noqa: PTH110 - a URI's path, taken as it is
            raise UserError(f"tracking.uri={uri}: no runs were recorded there yet: frostline run first, in this folder")
        command = tracking.ui_command(uri, options.host, options.port)
        page = _print_views(uri, address)
    print(f"starting on {address}/, which takes some seconds (Ctrl-C ends it)", flush=True)
    if not options.no_browser and sys.stdout.isatty():
        words = [sys.executable, "-c", _OPEN_WHEN_IT_SERVES, options.host, str(options.port), page]
        subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    os.chdir(sys.prefix)  # uvicorn imports from the current folder before all others, whatever the flags of Python
    return os.execv(command[0], command)


def _check_port(host: str, port: int) -> None:
    """Refuses a port that something listens on: MLflow would say it in a traceback.

    Raises:
        UserError: It is taken, or this user may not listen there.
    """
    try:
        with socket.socket() as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind((host, port))
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"--port {port}: can't be listened on ({why}); give another, for example --port 5001"
        ) from error


def _print_views(uri: str, address: str) -> str:
    """Prints the pages of the last sweeps of this folder; returns that of the last one, or the whole UI's."""
    sweeps = sorted((path.parent for path in RUNS.glob(f"*/{SWEEP_FILE}")), key=lambda path: path.stat().st_mtime)
    views = tracking.views_of(uri, sweeps[-_MOST_VIEWS:])
    page = f"{address}/"
    for folder, view in views.items():
        page = f"{address}{view}"
        print(visible(f"{folder.name}: {page}"), flush=True)
    return page


def _optuna_command(name: str, host: str, port: int) -> list[str]:
    """Returns what serves Optuna's dashboard on a sweep's storage.

    Raises:
        UserError: There is no such sweep, or the dashboard is not installed.
    """
    folder = sweep_folder(name)
    storage = read_description(folder).get("storage")
    place = storage if storage else str(Path(folder / JOURNAL_FILE).absolute())
    if importlib.util.find_spec("optuna_dashboard") is None:
        raise UserError("--optuna: Optuna's dashboard is not installed: pip install optuna-dashboard")
    code = "from optuna_dashboard._cli import main; main()"
    return [sys.executable, "-P", "-c", code, place, "--host", host, "--port", str(port)]
