"""`frostline ui`: prints the last sweeps' pages and serves, MLflow or Optuna's dashboard."""

import importlib.util
import os
import signal
import socket
import urllib.request

import pytest

from tests.support.services import free_port
from tests.support.sweep_tools import TRIALS_ALONE, call, start, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def swept(tiny_overrides, tmp_path_factory):
    """A folder with a sweep that is recorded in MLflow."""
    home = tmp_path_factory.mktemp("work")
    tiny = [word for word in tiny_overrides if not word.startswith("optimizer.lr=")]
    done = call("sweep", "lr_x_depth", *tiny, *TRIALS_ALONE, "sweep.n_trials=2", "training.epochs=1", cwd=home)
    assert done.returncode == 0, done.stderr
    return home, done.stdout


def get(port, path=""):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=5) as answer:
            return answer.read().decode()
    except OSError:
        return None


def test_it_prints_the_page_of_the_last_sweep_on_its_own_port(swept):
    home, shown = swept
    port = free_port()
    process = start("ui", "--port", str(port), cwd=home, as_users_do=True)
    first, second = process.stdout.readline(), process.stdout.readline()
    assert first.startswith(f"lr_x_depth: http://127.0.0.1:{port}/#/experiments/")
    view = first.partition("/#/")[2].strip()
    assert view in shown  # the page that the sweep named when it ended
    assert second == f"starting on http://127.0.0.1:{port}/, which takes some seconds (Ctrl-C ends it)\n"
    wait_for(lambda: get(port) is not None, what="the MLflow UI")
    assert "<title>MLflow" in get(port)
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate()


def test_a_port_that_is_taken_gets_one_line(swept):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = call("ui", "--port", str(port), cwd=swept[0])
    assert done.returncode == 2
    assert done.stderr.startswith(f"frostline: --port {port}: can't be listened on (Address already in use)")


def test_a_dashboard_of_a_sweep_that_is_not_there(swept):
    done = call("ui", "--optuna", "nothing", "--port", str(free_port()), cwd=swept[0])
    assert (done.returncode, "nothing: no sweep of this name" in done.stderr) == (2, True)


def test_optunas_dashboard_on_a_sweep(swept):
    home, _ = swept
    port = free_port()
    if importlib.util.find_spec("optuna_dashboard") is None:
        done = call("ui", "--optuna", "lr_x_depth", "--port", str(port), cwd=home)
        assert (done.returncode, "pip install optuna-dashboard" in done.stderr) == (2, True)
        return
    process = start("ui", "--optuna", "lr_x_depth", "--port", str(port), cwd=home, as_users_do=True)
    wait_for(lambda: get(port, "api/studies") is not None or process.poll() is not None, what="the dashboard")
    assert "lr_x_depth" in (get(port, "api/studies") or process.stderr.read())
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate()
