"""The local launcher passes Hydra's own suite for launchers, and the plugins are what Hydra expects of plugins."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.test_utils.launcher_common_tests import BatchedSweeperTestSuite, LauncherTestSuite
from hydra.version import VersionBase

from hydra_plugins.frostline_local_launcher import FrostlineLocalLauncher
from hydra_plugins.frostline_optuna_sweeper import FrostlineOptunaSweeper


@pytest.mark.parametrize(
    ("kind", "plugin"),
    [(Launcher, FrostlineLocalLauncher), (Sweeper, FrostlineOptunaSweeper)],
    ids=["launcher", "sweeper"],
)
def test_hydra_finds_the_plugins(kind, plugin):
    """By name: each scan runs the plugins' modules again, and Hydra's own tests make it scan."""
    assert (plugin.__module__, plugin.__name__) in {
        (e.__module__, e.__name__) for e in Plugins.instance().discover(kind)
    }


def test_the_plugins_cost_other_hydra_apps_nothing():
    code = (
        "import sys\nfrom hydra.core.plugins import Plugins\nPlugins.instance()\n"
        "heavy = {'torch', 'optuna', 'mlflow', 'frostline.search', 'cloudpickle', 'multiprocessing.context'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip().endswith("[]"), done.stdout + done.stderr


@pytest.fixture
def no_version_base():
    """Hydra's suite is written for an app that names no version; another test of this process may have named one."""
    kept = Singleton._instances.pop(VersionBase, None)
    yield
    Singleton._instances.pop(VersionBase, None)
    if kept is not None:
        Singleton._instances[VersionBase] = kept


@pytest.mark.slow
@pytest.mark.usefixtures("no_version_base")
@pytest.mark.parametrize(("launcher_name", "overrides"), [("frostline_local", ["hydra.launcher.slots=2"])])
class TestFrostlineLocalLauncher(LauncherTestSuite):
    """Hydra's own tests."""


@pytest.mark.slow
@pytest.mark.usefixtures("no_version_base")
@pytest.mark.parametrize(("launcher_name", "overrides"), [("frostline_local", ["hydra.sweeper.max_batch_size=2"])])
class TestFrostlineLocalLauncherBatches(BatchedSweeperTestSuite):
    """Hydra's own tests."""
