"""A sweep on a real Ray cluster of several nodes on this machine, which share nothing but the cluster."""

from __future__ import annotations

import gc
import json
import shutil
import signal
import subprocess
import sys
import time
import warnings
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import pytest

from frostline.records.result import RunResult, Status
from frostline.records.trial import TrialState
from frostline.sweeps.folder import SweepFolder
from tests.conftest import sentences
from tests.support import PLUGINS
from tests.support.pictures import save_images, save_model
from tests.support.sweep_tools import RUNG, TRIALS_ALONE, call, mlflow_runs, start, trials_in, wait_for

ray = pytest.importorskip("ray")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

PLUGIN = Path(PLUGINS) / "sweep_plugin.py"
ALONE = ("runtime.engine=ray", "runtime.ray.shared=false", "runtime.threads=1", "runtime.slots=auto")


class Nodes:
    """Nodes of one cluster, each with a home of its own."""

    def __init__(self, folder: Path) -> None:
        from ray.cluster_utils import Cluster

        self._folder = folder
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self.nodes = []

    def add(self, cores: int = 1, **env: str):
        home = self._folder / f"node-{len(self.nodes)}"
        home.mkdir()
        everything = {"FROSTLINE_HOME": str(home), "HF_HUB_OFFLINE": "1", **env}
        self.nodes.append(self.cluster.add_node(num_cpus=cores, env_vars=everything))
        return self.nodes[-1]

    def lose(self, node) -> None:
        self.cluster.remove_node(node, allow_graceful=False)

    def at_work(self) -> list[int]:
        """The processes that train on nodes, known by their current folder."""
        found = []
        for link in Path("/proc").glob("[0-9]*/cwd"):
            with suppress(OSError):
                if str(link.readlink()).startswith(f"{self._folder}/node-"):
                    found.append(int(link.parent.name))
        return found

    @property
    def address(self) -> str:
        return f"runtime.ray.address={self.cluster.address}"


@pytest.fixture
def nodes(tmp_path):
    made = Nodes(tmp_path)
    yield made
    made.cluster.shutdown()
    made.nodes.clear()
    made.cluster = None
    with warnings.catch_warnings():  # Ray leaves files open, which the next test would be warned of
        warnings.simplefilter("ignore")
        gc.collect()


@pytest.fixture
def tiny(tiny_overrides):
    return [
        *(o for o in tiny_overrides if not o.startswith("optimizer.lr=")), "training.epochs=2",
        "dataset.train_rows=64",
    ]  # fmt: skip


def table(folder: Path) -> list:
    return [
        (p.number, p.params, p.state, p.quality, p.rung, {seed: each.by_seed for seed, each in p.replicates.items()})
        for p in SweepFolder(folder).read_trials()
    ]


def test_three_nodes_give_the_table_of_one_slot_here(tmp_path, nodes, tiny):
    for _ in range(3):
        nodes.add()
    shared = ["sweep", "lr_x_depth", *tiny, "sweep.n_trials=6", "sweep.enqueue=coarse", "training.epochs=4"]
    shared += [
        "sweep.sampler=tpe",
        "sweep.promote_fraction=0.25",
        "sweep.rung_epochs=2",
        "sweep.settle=0.5",
    ]  # promotion, race, full fine-tuning
    shared += ["training.batch_size=8", "dataset.train_rows=128"]
    shared += ["sweep.pruner.name=median", "sweep.pruner.startup_trials=2"]
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    here = call(*shared, "runtime.threads=1", "tracking=off", cwd=tmp_path / "here", FROSTLINE_HOME=str(tmp_path / "h"))
    assert here.returncode == 0, here.stderr
    there = call(*shared, *ALONE, nodes.address, "runtime.slots=1", cwd=tmp_path / "there", timeout=400)
    assert there.returncode == 0, there.stderr
    folder = tmp_path / "there" / "runs" / "lr_x_depth"
    assert table(folder) == table(tmp_path / "here" / "runs" / "lr_x_depth")
    assert {trial.rung for trial in trials_in(folder)} == {1, 2}
    assert any(trial.replicates for trial in trials_in(folder))
    for run in [path.parent for path in folder.rglob("result.json")]:
        counterpart = tmp_path / "here" / "runs" / "lr_x_depth" / run.relative_to(folder)
        assert RunResult.read(run).weights_sha256 == RunResult.read(counterpart).weights_sha256
        assert (run / "metrics.jsonl").read_text() == (counterpart / "metrics.jsonl").read_text()
    runs = mlflow_runs(tmp_path / "there")
    assert sorted(run.info.status for run in runs)[:1] == ["FINISHED"]
    assert {run.data.tags["frostline.trial"] for run in runs if "frostline.trial" in run.data.tags} >= {
        str(trial.number) for trial in trials_in(folder)
    }
    assert not [run for run in runs if run.info.status == "RUNNING"]
    assert not list((tmp_path / "node-0" / "cluster").glob("*/0*"))  # nothing of the sweep is left on the nodes
    assert "again: its model" not in there.stderr  # it was brought from the node that trained it
    kept = [path.parent.name for path in folder.glob("0*/model")]
    assert kept == [path.parent.name for path in (tmp_path / "here" / "runs" / "lr_x_depth").glob("0*/model")]


def test_a_table_of_images_and_a_local_copy_of_a_hub_data_set_go_to_the_nodes(tmp_path, nodes, tiny):
    nodes.add()
    pictures = tmp_path / "pictures"
    save_images(pictures / "own")
    files = sorted(path.relative_to(pictures).as_posix() for path in pictures.rglob("*.png"))
    (pictures / "table.csv").write_text("image,label\n" + "".join(f"{name},{name.split('/')[1]}\n" for name in files))
    hub = tmp_path / "hubset"
    hub.mkdir()
    for split, seed in (("train", 0), ("test", 1)):
        lines = [json.dumps({"text": text, "label": label}) for text, label in sentences(60, seed)]
        (hub / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    shared = ["sweep.n_trials=1", *TRIALS_ALONE, "training.epochs=1", "sweep.sampler=random", "tracking=off"]
    of_images = [
        "model=path", f"model.location={save_model('vit', tmp_path / 'vit')}", "dataset=csv", "runtime.device=cpu",
        f"dataset.location={pictures / 'table.csv'}", "dataset.image_column=image", "training.batch_size=8",
    ]  # fmt: skip
    of_hub = [word for word in tiny if not word.startswith(("dataset=", "dataset.location="))]
    of_hub += ["dataset=hub", f"dataset.location={hub}", "dataset.eval_from=test", "dataset.train_rows=null"]
    for name, own in (("images", of_images), ("hub", of_hub)):
        results = []
        for where, more in (("here", ["runtime.threads=1"]), ("there", [*ALONE, nodes.address])):
            (tmp_path / name / where).mkdir(parents=True)
            done = call("sweep", "lr_x_depth", *own, *shared, *more, cwd=tmp_path / name / where, timeout=300)
            assert done.returncode == 0, done.stderr
            results.append(RunResult.read(tmp_path / name / where / "runs" / "lr_x_depth" / "000"))
        here, there = results
        assert there.weights_sha256 == here.weights_sha256
        assert there.provenance["data_fingerprint"] == here.provenance["data_fingerprint"]


def test_a_trial_of_two_processes_is_trained_on_one_node(tmp_path, nodes, tiny):
    nodes.add(cores=2)
    shared = ["sweep", "depth_only", *tiny, "sweep.n_trials=2", *TRIALS_ALONE, "optimizer.lr=1e-3", "tracking=off"]
    shared += ["runtime.num_processes=2", "runtime.threads=2", "plugins=[sweep_plugin]", "optimizer.name=slow"]
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        slow(tmp_path / name)
    here = call(*shared, cwd=tmp_path / "here", SLOW_S="0")
    assert here.returncode == 0, here.stderr
    there = call(*shared, *ALONE, "runtime.threads=2", nodes.address, cwd=tmp_path / "there", timeout=400)
    assert there.returncode == 0, there.stderr
    folders = [tmp_path / name / "runs" / "depth_only" for name in ("here", "there")]
    assert table(folders[0]) == table(folders[1])
    for run in [path.parent for path in folders[0].rglob("result.json")]:
        counterpart = folders[1] / run.relative_to(folders[0])
        assert (run / "metrics.jsonl").read_text() == (counterpart / "metrics.jsonl").read_text()


def slow(tmp_path: Path) -> list[str]:
    """A plugin in the current folder, which no node has."""
    shutil.copyfile(PLUGIN, tmp_path / PLUGIN.name)
    return ["plugins=[sweep_plugin]", "optimizer.name=slow"]


def test_a_node_that_dies_costs_no_trial_and_one_that_comes_is_used(tmp_path, nodes, tiny):
    first = nodes.add(SLOW_S="0.4")
    nodes.add(SLOW_S="0.4")
    arguments = ["sweep", "lr_x_depth", *tiny, "sweep.n_trials=5", *TRIALS_ALONE, "sweep.sampler=random", *ALONE]
    process = start(*arguments, *slow(tmp_path), nodes.address, cwd=tmp_path)
    folder = tmp_path / "runs" / "lr_x_depth"
    wait_for(lambda: len([*folder.glob("[0-9]*/metrics.jsonl")]) >= 3, 200, what="three trials")
    nodes.lose(first)
    third = nodes.add(SLOW_S="0.4")
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert " died (" in err
    assert "resumed from its last checkpoint" in err
    found = trials_in(folder)
    assert [trial.number for trial in found] == list(range(5))
    assert {trial.state for trial in found} == {TrialState.COMPLETE}
    assert third is not None
    assert (tmp_path / "node-2" / "cluster" / "inputs").is_dir()  # it was given something to do
    runs = mlflow_runs(tmp_path)
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert sorted(run.data.tags["frostline.trial"] for run in runs if "frostline.trial" in run.data.tags) == [
        str(number) for number in range(5)
    ]


def test_a_trial_of_a_drained_node_resumes_on_another_one(tmp_path, nodes, tiny):
    first = nodes.add(SLOW_S="3")
    arguments = ["sweep", "lr_x_depth", *tiny, "sweep.n_trials=2", *TRIALS_ALONE, "sweep.sampler=random", *ALONE]
    arguments += [*slow(tmp_path), "training.epochs=1", "dataset.train_rows=256"]  # no checkpoint but the signal's
    process = start(*arguments, nodes.address, cwd=tmp_path)
    folder = tmp_path / "runs" / "lr_x_depth"
    wait_for(lambda: any(path.stat().st_size for path in folder.glob("[0-9]*/metrics.jsonl")), 200, what="a step")
    nodes.add(SLOW_S="0")
    subprocess.run(
        [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--address", nodes.cluster.address, "--node-id",
         first.node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "wanted",
         "--deadline-remaining-seconds", "120"],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    assert " is being drained: resumed from its last checkpoint" in err
    found = trials_in(folder)
    assert [trial.state for trial in found] == [TrialState.COMPLETE] * 2
    assert sorted(trial.outcome.resumed for trial in found) == [0, 1]
    runs = mlflow_runs(tmp_path)
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert sorted(run.data.tags["frostline.trial"] for run in runs if "frostline.trial" in run.data.tags) == ["0", "1"]


def test_a_parent_that_dies_leaves_nobody_and_the_same_command_resumes(tmp_path, nodes, tiny):
    for _ in range(2):
        nodes.add(SLOW_S="0.3")
    arguments = ["sweep", "lr_x_depth", *tiny, "sweep.n_trials=4", *RUNG, "sweep.enqueue=coarse", *ALONE]
    arguments += [*slow(tmp_path), nodes.address]
    process = start(*arguments, cwd=tmp_path)
    folder = tmp_path / "runs" / "lr_x_depth"
    wait_for(lambda: len([*folder.glob("[0-9]*/result.json")]) >= 2, 200, what="two trials")
    process.kill()
    process.communicate()
    wait_for(lambda: not nodes.at_work(), 30, what="the end of the workers")
    done = {path: path.stat().st_mtime_ns for path in folder.glob("[0-9]*/result.json")}
    again = call(*arguments, cwd=tmp_path, timeout=400)
    assert again.returncode == 0, again.stderr
    assert len(trials_in(folder)) == 4
    assert {trial.state for trial in trials_in(folder)} <= {TrialState.COMPLETE, TrialState.PRUNED}
    promoted = {trial.number for trial in trials_in(folder) if trial.rung == 2}
    kept = [path for path in done if int(path.parent.name) not in promoted]
    assert all(path.stat().st_mtime_ns == done[path] for path in kept)  # what had ended is not trained again


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["runtime.gpus_per_trial=1", "runtime.device=auto"],
            "no node of the cluster has 1 cores and 1 GPUs for a trial; it has 2 cores",
        ),
        (["runtime.ray.cpus_per_trial=64"], "no node of the cluster has 64 cores"),
        (["runtime.ray.address=127.0.0.1:9"], "runtime.ray.address=127.0.0.1:9: does not answer"),
        (["runtime.ray.cpus_per_trial=0"], "runtime.ray.cpus_per_trial=0: must be 1 to 1024"),
        (["runtime.engine=dask"], "runtime.engine=dask"),
        (["runtime.gpus_per_trial=1.5"], "runtime.gpus_per_trial=1.5: must be a whole number, or a part of one GPU"),
        (["runtime.gpus_per_trial=0.5", "runtime.engine=local"], "runtime.gpus_per_trial=0.5: must be 1 to 1024"),
    ],
)
def test_bad_input_is_one_line(tmp_path, tiny, words, message):
    given = ["runtime.engine=ray", "runtime.ray.address=null", "tracking=off", "sweep.n_trials=2"]
    began = time.monotonic()
    done = call("sweep", "lr_x_depth", *tiny, *given, *words, cwd=tmp_path, RAY_OVERRIDE_RESOURCES='{"CPU": 2}')
    assert done.returncode == 2, done.stderr
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert time.monotonic() - began < 60


def test_slots_that_do_not_start_end_the_sweep_with_one_line(tmp_path, nodes, tiny):
    (tmp_path / "no-folder").write_text("")
    nodes.add(FROSTLINE_HOME=str(tmp_path / "no-folder"))
    done = call("sweep", "lr_x_depth", *tiny, *ALONE, nodes.address, "tracking=off", "sweep.n_trials=2", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "runtime.engine=ray: no slot starts on the nodes" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_node_with_another_version_is_refused_by_name(tmp_path, nodes, tiny):
    other = tmp_path / "old" / "transformers-4.0.0.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: transformers\nVersion: 4.0.0\n")
    nodes.add(PYTHONPATH=str(other.parent))
    done = call("sweep", "lr_x_depth", *tiny, *ALONE, nodes.address, "tracking=off", "sweep.n_trials=2", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert f"has transformers 4.0.0 (here {version('transformers')})" in done.stderr.splitlines()[-1]
    assert "not be comparable" in done.stderr.splitlines()[-1]


def test_without_ray_it_says_what_to_install(tmp_path, tiny):
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "ray.py").write_text("raise ImportError('not here')")
    done = call("sweep", "lr_x_depth", *tiny, "runtime.engine=ray", "tracking=off", cwd=tmp_path,
                PYTHONPATH=str(tmp_path / "hidden"))  # fmt: skip
    assert (done.returncode, "pip install 'frostline[ray]'" in done.stderr) == (2, True), done.stderr


def test_every_way_to_fail_is_recorded_where_all_nodes_see_one_file_system(tmp_path, nodes, tiny):
    for _ in range(2):
        nodes.add()
    done = call(
        "sweep", "depth_only", *tiny, "sweep.sampler=grid", "sweep.n_trials=5", *TRIALS_ALONE, "runtime.engine=ray",
        "runtime.slots=auto", nodes.address, "plugins=[sweep_plugin]", "optimizer.name=breaking", "freeze.depth=2",
        "optimizer.weight_decay=0.0,0.001,0.003,0.004,0.008", "optimizer.lr=1e-3", "sweep.trial_timeout_s=10",
        cwd=_with_plugin(tmp_path), timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = {round(1000 * p.params["optimizer.weight_decay"]): p for p in trials_in(tmp_path / "runs" / "depth_only")}
    assert {what: trial.state for what, trial in found.items()} == {
        0: TrialState.COMPLETE, 1: TrialState.FAILED, 3: TrialState.FAILED, 4: TrialState.FAILED,
        8: TrialState.COMPLETE,
    }  # fmt: skip
    assert "ValueError: no such thing" in found[1].outcome.reason
    assert "killed by signal 9" in found[3].outcome.reason
    assert "no heartbeat for 10 s" in found[4].outcome.reason
    assert "half the batch" in found[8].outcome.note
    assert not list(tmp_path.glob("node-*/cluster/*"))
    runs = mlflow_runs(tmp_path)
    assert {run.info.status for run in runs} <= {"FINISHED", "FAILED"}
    assert sum(run.info.status == "FINISHED" for run in runs) == 3


def test_a_signal_checkpoints_what_runs_and_the_same_command_resumes(tmp_path, nodes, tiny):
    nodes.add(SLOW_S="0.3")
    arguments = ["sweep", "lr_x_depth", *tiny, "sweep.n_trials=3", "sweep.sampler=random", *TRIALS_ALONE, *ALONE]
    arguments += [*slow(tmp_path), nodes.address]
    process = start(*arguments, cwd=tmp_path, as_users_do=True)
    folder = tmp_path / "runs" / "lr_x_depth"
    wait_for(lambda: any(path.stat().st_size for path in folder.glob("[0-9]*/metrics.jsonl")), 200, what="a step")
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 143, err
    assert "resume with: frostline sweep" in err
    (stopped,) = [path.parent for path in folder.glob("[0-9]*/result.json")]
    assert RunResult.read(stopped).status is Status.KILLED
    assert list((stopped / "checkpoints").glob("step-*"))  # it came back
    again = call(*arguments, cwd=tmp_path, timeout=400)
    assert again.returncode == 0, again.stderr
    assert [trial.state for trial in trials_in(folder)] == [TrialState.COMPLETE] * 3
    assert trials_in(folder)[int(stopped.name)].outcome.resumed == 1


def test_no_module_of_the_current_folder_is_run(tmp_path, tiny):
    for name in ("evaluate.py", "datasets.py", "platformdirs.py", "filelock.py"):
        (tmp_path / name).write_text("raise SystemExit('the user's own script was run')")
    given = ["runtime.engine=ray", "tracking=off", "sweep.n_trials=1", "runtime.ray.shared=false", *TRIALS_ALONE]
    done = call(
        "sweep", "lr_x_depth", *tiny, *given, cwd=tmp_path, as_users_do=True, RAY_OVERRIDE_RESOURCES='{"CPU": 1}'
    )
    assert done.returncode == 0, done.stderr


def _with_plugin(folder: Path) -> Path:
    slow(folder)
    (folder / "hungry.txt").write_text("")
    return folder
