"""`tracking.register`: the model that a sweep recommends, in MLflow's registry."""

import pytest

from tests.support.sweep_tools import TRIALS_ALONE, call


@pytest.mark.slow
def test_a_runs_model_is_a_version_once(tiny_overrides, tmp_path):
    """In processes of their own: MLflow keeps the address of a registry for a whole process."""
    from mlflow import MlflowClient

    for _ in range(2):
        done = call("run", *tiny_overrides, "tracking.register=moods", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    store = MlflowClient(uri, registry_uri=uri)
    versions = store.search_model_versions("name='moods'")
    assert sorted(int(version.version) for version in versions) == [1, 2]
    assert store.get_registered_model("moods").aliases == {}


@pytest.mark.slow
def test_what_an_outage_kept_is_registered_by_sync(tiny_overrides, tmp_path):
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    words = ["hydra.run.dir=it", "tracking.register=moods"]
    done = call("run", *tiny_overrides, *words, "tracking.uri=http://127.0.0.1:9", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = call("ui", "--sync", "it", f"tracking.uri={uri}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(MlflowClient(uri, registry_uri=uri).search_model_versions("name='moods'")) == 1


@pytest.mark.parametrize("word", ["tracking=off", "tracking.log_model=false"])
def test_a_name_without_a_model_in_mlflow_is_refused(frostline, tiny_overrides, in_tmp, word):
    code, _, err = frostline("run", *tiny_overrides, word, "tracking.register=moods")
    assert code == 2
    assert "tracking.register: " in err
    assert not list(in_tmp.glob("runs/**/spec.json"))


@pytest.mark.slow
def test_the_alias_follows_what_is_recommended(tiny_overrides, tmp_path):
    from mlflow import MlflowClient

    tiny = [word for word in tiny_overrides if not word.startswith("optimizer.lr=")]
    words = [*TRIALS_ALONE, "training.epochs=1", "tracking.register=moods", "sweep.keep_models=all"]
    for trials in (2, 5):
        done = call("sweep", "lr_x_depth", *tiny, *words, f"sweep.n_trials={trials}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert "registered in MLflow: models:/moods@recommended" in done.stdout
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    store = MlflowClient(uri, registry_uri=uri)
    version = store.get_model_version_by_alias("moods", "recommended")
    run = store.get_run(version.run_id)
    assert run.data.tags["frostline.recommended"] == "recommended"
    starred = [each for each in store.search_runs([run.info.experiment_id]) if each.info.run_name.startswith("\u2605 ")]
    assert [each.info.run_id for each in starred] == [version.run_id]
    assert "error" not in done.stderr.lower()
    cards = [path for path in tmp_path.glob("runs/**/model/README.md") if "Why this depth" in path.read_text()]
    assert [str(card.parents[1]) for card in cards] == [run.data.tags["frostline.run_dir"]]
