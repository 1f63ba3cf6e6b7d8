"""Logs a run's `model/` as an MLflow model.

The format is MLflow's own for Transformers: weights in safetensors, the rest in JSON, nothing pickled and no code. The
folder is uploaded as it lies there: `mlflow.transformers.save_model` would copy it first, and import torch.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from frostline import scratch
from frostline.files import refuse_links
from frostline.records.result import RunResult
from frostline.records.run_folder import MODEL_FOLDER, SPEC_FILE, check_files
from frostline.spec import TASKS
from frostline.tracking.names import MAX_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run
    from mlflow.models import ModelSignature
    from mlflow.types import TensorSpec

_TOKENIZER_FOLDER = "components/tokenizer"  # where MLflow looks for it
_REQUIREMENTS = ("torch", "transformers", "tokenizers", "safetensors", "accelerate")
_EXAMPLE = "A sentence to classify."  # of no data set: its rows may be confidential


def log_model(store: MlflowClient, run_id: str, folder: Path) -> None:
    """Makes the model of a run's folder one that MLflow's pages list and `mlflow.pyfunc.load_model` loads.

    Its name is `model`, so `runs:/RUN_ID/model` finds it. A server that knows no logged models (MLflow before 3) gets
    it as files of the run; a model of images, or of words, is kept so everywhere. Nothing is done if the run has its
    model already.

    Args:
        store: Of the store.
        run_id: Of the run that it belongs to.
        folder: The run's, with `model/`, its spec and its result.

    Raises:
        DamagedError: A file is not as the run left it.
        UserError: One is a link.
    """
    result = RunResult.read(folder)
    model_folder = folder / MODEL_FOLDER
    refuse_links([model_folder, *model_folder.rglob("*"), folder / SPEC_FILE])
    check_files(folder, result, SPEC_FILE, MODEL_FOLDER)
    spec = json.loads((folder / SPEC_FILE).read_text(encoding="utf-8"))
    if spec["dataset"].get("image_column") is not None or TASKS.get(spec["dataset"]["task"]).pipeline is None:
        # MLflow's own loading of an image pipeline wants torchvision.
        _as_artifact(store, run_id, folder)
        return
    is_pair = spec["dataset"].get("pair_column") is not None
    example = {"text": _EXAMPLE, "text_pair": _EXAMPLE} if is_pair else [_EXAMPLE]
    run = store.get_run(run_id)
    from mlflow.exceptions import MlflowException

    try:
        model, is_whole = _entity(store, run, result.step or 0)
    except MlflowException as error:
        if error.error_code != "ENDPOINT_NOT_FOUND":
            raise
        _as_artifact(store, run_id, folder)
        return
    if is_whole:
        return
    with scratch.folder("model") as name:
        _describe(name, folder, model, result, spec, run.data.params.get("model.name"))
        _write_example(name, example)
        store.log_model_artifacts(model.model_id, str(name))
    store.log_model_artifacts(model.model_id, str(folder / MODEL_FOLDER), MODEL_FOLDER)
    load = f'model = mlflow.pyfunc.load_model("models:/{model.model_id}")\nmodel.predict({json.dumps(example)})'
    note = f"{run.data.tags.get('mlflow.note.content', '')}\nLoad it with\n\n```python\nimport mlflow\n\n{load}\n```\n"
    store.set_logged_model_tags(model.model_id, {"mlflow.note.content": note[:MAX_TAG]})
    _send_metrics(store, run, model.model_id, result)
    store.finalize_logged_model(model.model_id, "READY")  # last: a model that is ready is not changed again


RECOMMENDED = "recommended"
"""Alias in the model registry of the model that a sweep recommends."""


def register_model(store: MlflowClient, run_id: str, name: str, alias: str | None = None) -> None:
    """Makes the model of a run a version of a registered model, once.

    Args:
        store: Of the store.
        run_id: Of the run, whose model was logged.
        name: Of the registered model; made if it isn't there.
        alias: Points at this version from now on.
    """
    from mlflow.exceptions import MlflowException

    try:
        store.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    versions = [each for each in store.search_model_versions(f"name='{name}'") if each.run_id == run_id]
    if not versions:
        model_id = model_id_of(store.get_run(run_id))
        source = f"runs:/{run_id}/{MODEL_FOLDER}" if model_id is None else f"models:/{model_id}"
        versions = [store.create_model_version(name, source, run_id, model_id=model_id)]
    if alias is not None:
        store.set_registered_model_alias(name, alias, versions[0].version)


def _as_artifact(store: MlflowClient, run_id: str, folder: Path) -> None:
    """Uploads the model as files of the run, once."""
    if MODEL_FOLDER not in {item.path for item in store.list_artifacts(run_id)}:
        store.log_artifacts(run_id, str(folder / MODEL_FOLDER), MODEL_FOLDER)


def model_id_of(run: Run) -> str | None:
    """Returns the id of a run's model in MLflow, None if it has none."""
    outputs = getattr(run.outputs, "model_outputs", None) or ()
    return next((str(output.model_id) for output in outputs), None)


def download_model(store: MlflowClient, uri: str, model_id: str, target: Path) -> None:
    """Downloads what `frostline predict` needs of a model in MLflow, to `model/` below a folder.

    Args:
        store: Of the store.
        uri: Its tracking URI.
        model_id: The model's id in MLflow.
        target: An existing folder.
    """
    from mlflow import artifacts

    # By its place: in `models:/ID/model` MLflow takes the ID for a registered model's name.
    location = store.get_logged_model(model_id).artifact_location
    artifacts.download_artifacts(f"{location}/{MODEL_FOLDER}", dst_path=str(target), tracking_uri=uri)


def _entity(store: MlflowClient, run: Run, step: int) -> tuple[LoggedModel, bool]:
    """Returns MLflow's entity of the run's model, and whether it is already complete."""
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    model_id = model_id_of(run)
    if model_id is not None:
        earlier = store.get_logged_model(model_id)
        return earlier, earlier.status == LoggedModelStatus.READY
    tags = {key: value for key, value in run.data.tags.items() if key.startswith("frostline.")}
    model = store.create_logged_model(
        run.info.experiment_id,
        name=MODEL_FOLDER,
        source_run_id=run.info.run_id,
        tags=tags,
        params=run.data.params,
        model_type="classifier",
    )
    store.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, step=step)])
    return model, False


def _describe(
    target: Path, folder: Path, model: LoggedModel, result: RunResult, spec: Mapping[str, Any], name: str | None
) -> None:
    """Writes what MLflow needs to know beside the weights: `MLmodel`, example, requirements, tokenizer."""
    from mlflow.models import Model

    versions = result.provenance.get("versions", {})
    is_pair = spec["dataset"].get("pair_column") is not None
    description = Model(
        artifact_path=model.artifact_location,
        model_uuid=model.model_id,
        run_id=model.source_run_id,
        model_id=model.model_id,
        signature=_signature(is_pair=is_pair),
    )
    description.add_flavor(
        "transformers",
        transformers_version=versions.get("transformers"),
        code=None,
        task="text-classification",
        instance_type="TextClassificationPipeline",
        pipeline_model_type=_architecture(folder / MODEL_FOLDER),
        model_binary=MODEL_FOLDER,
        framework="pt",
        components=["tokenizer"],
        tokenizer_type="AutoTokenizer",
        source_model_name=name,
    )
    # As the model was trained and as `frostline predict` asks it: longer texts are cut.
    settings = {"truncation": True, "max_length": spec["training"]["max_tokens"]}
    settings |= TASKS.get(spec["dataset"]["task"]).pipeline or {}
    # What `pyfunc.add_to_model` would write: its module takes a second to import, and warns.
    description.add_flavor(
        "python_function",
        loader_module="mlflow.transformers",
        python_version=versions.get("python"),
        env={"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
        config=settings,
    )
    description.saved_input_example_info = {
        "artifact_path": "input_example.json",
        "serving_input_path": "serving_input_example.json",
        "type": "json_object",
    }
    _write_requirements(target, versions)
    tokenizer = target / _TOKENIZER_FOLDER
    tokenizer.mkdir(parents=True)
    for path in (folder / MODEL_FOLDER).iterdir():
        if path.is_file() and "safetensors" not in path.name and path.name not in {"config.json"}:
            shutil.copyfile(path, tokenizer / path.name)
    description.save(str(target / "MLmodel"))


def _signature(*, is_pair: bool) -> ModelSignature:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    names = ("text", "text_pair") if is_pair else (None,)
    inputs: list[ColSpec | TensorSpec] = [ColSpec("string", name) for name in names]
    return ModelSignature(
        inputs=Schema(inputs), outputs=Schema([ColSpec("string", "label"), ColSpec("double", "score")])
    )


def _architecture(model: Path) -> str:
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    return str((config.get("architectures") or ["AutoModelForSequenceClassification"])[0])


def _write_example(target: Path, example: Any) -> None:
    (target / "input_example.json").write_text(json.dumps(example), encoding="utf-8")
    (target / "serving_input_example.json").write_text(json.dumps({"inputs": example}), encoding="utf-8")


def _write_requirements(target: Path, versions: dict[str, str]) -> None:
    """Writes the packages that the model was made with, in the three forms that MLflow reads."""
    from mlflow.version import VERSION

    known = {"mlflow": VERSION, **{name: versions[name] for name in _REQUIREMENTS if name in versions}}
    lines = [f"{name}=={version.partition('+')[0]}" for name, version in known.items()]  # no index has `2.13.0+cpu`
    (target / "requirements.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    python = {"python": versions["python"]} if "python" in versions else {}
    virtual = {**python, "build_dependencies": [], "dependencies": ["-r requirements.txt"]}
    (target / "python_env.yaml").write_text(yaml.safe_dump(virtual, sort_keys=False), encoding="utf-8")
    base = [f"python={versions['python']}"] if python else ["python"]
    conda = {"name": "mlflow-env", "channels": ["conda-forge"], "dependencies": [*base, "pip", {"pip": lines}]}
    (target / "conda.yaml").write_text(yaml.safe_dump(conda, sort_keys=False), encoding="utf-8")


def _send_metrics(store: MlflowClient, run: Run, model_id: str, result: RunResult) -> None:
    """Makes the numbers of the kept weights the model's, too: its page and the list of models show those alone."""
    from mlflow.entities import Metric

    keys = [key for key in run.data.metrics if key.startswith(("best/", "cost/")) or key in result.metrics]
    run_id = run.info.run_id
    # The data set of a metric makes the model's page name it.
    inputs = run.inputs.dataset_inputs if run.inputs is not None else ()
    data = next(({"dataset_name": i.dataset.name, "dataset_digest": i.dataset.digest} for i in inputs), {})
    metrics = []
    for key in keys:
        rows = store.get_metric_history(run_id, key)
        row = next((row for row in reversed(rows) if row.step == result.step or key not in result.metrics), None)
        if row is not None:  # the very same trial, or it would stand in the run twice
            rows_of = data if key.startswith(("eval/", "best/")) else {}
            metrics.append(Metric(key, row.value, row.timestamp, row.step, model_id=model_id, run_id=run_id, **rows_of))
    if metrics:
        store.log_batch(run_id, metrics=metrics)
