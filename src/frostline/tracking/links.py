"""A saved view of a sweep's runs in the MLflow UI, and the link to it.

MLflow keeps shared views in tags of the experiment, `mlflow.sharedViewState.<key>`, which `?viewStateShareKey=<key>`
opens: an internal format, read from its page's source (3.17; `ExperimentPageUIState.tsx`, `runs-charts.types.ts`). If
another version doesn't understand it, the page opens without the view; nothing else depends on it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlflow import MlflowClient

_TAG = "mlflow.sharedViewState."

RECOMMENDED_TAG = "frostline.recommended"
"""Of the run that its sweep recommends."""

_LOG_LR = "optimizer.log10_lr"  # charts draw rates on a linear axis


@dataclass(frozen=True, kw_only=True)
class RunListView:
    """What the page of a sweep shows.

    Attributes:
        parent: Run id of the sweep; its trials are the rows.
        metric: Of the objective, `best/accuracy`.
        maximize: Whether more of it is better: the best come first.
        keys: The swept keys, as params.
    """

    parent: str
    metric: str
    maximize: bool
    keys: Sequence[str]


def publish(store: MlflowClient, experiment_id: str, view: RunListView) -> str:
    """Keeps a view in the experiment; returns the part of its address behind the server's.

    Args:
        store: A client.
        experiment_id: Where the sweep is.
        view: What it shows. The view of a sweep has the same key each time.
    """
    store.set_experiment_tag(experiment_id, f"{_TAG}{_key(view.parent)}", _packed(state_of(view)))
    return address_of(experiment_id, view.parent)


def address_of(experiment_id: str, parent: str) -> str:
    """Returns the part of a sweep's address behind the server's, of the view that `publish` keeps.

    Args:
        experiment_id: Where the sweep is.
        parent: Run id of the sweep.
    """
    # Without the first part the page shows itself as one for generative AI.
    mode = "workflowType=machine_learning&compareRunsMode=TABLE"
    return f"/#/experiments/{experiment_id}/runs?{mode}&viewStateShareKey={quote(_key(parent))}"


def _key(parent: str) -> str:
    return hashlib.sha256(f"frostline {parent}".encode()).hexdigest()


def state_of(view: RunListView) -> dict[str, Any]:
    """Returns the page's state: rows, columns, their order, charts."""
    axes = [_LOG_LR if key == "optimizer.lr" else key for key in view.keys]
    return {
        **_rows(view),
        "selectedColumns": [
            *(f"params.`{key}`" for key in view.keys),
            f"metrics.`{view.metric}`",
            "metrics.`cost/train_s`",
            f"tags.`{RECOMMENDED_TAG}`",
            "tags.`frostline.status`",
        ],
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsVisibilityMap": {},
        "runsHiddenMode": "SHOW_ALL",
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": True,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "autoRefreshEnabled": True,
        "compareRunSections": [
            {"uuid": "frostline", "name": "The sweep", "display": True, "isReordered": True, "deleted": False}
        ],
        "compareRunCharts": _charts(view, axes),
    }


def _rows(view: RunListView) -> dict[str, Any]:
    return {
        "searchFilter": f"tags.`mlflow.parentRunId` = '{view.parent}'",
        "orderByKey": f"metrics.`{view.metric}`",
        "orderByAsc": not view.maximize,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
    }


def _charts(view: RunListView, axes: Sequence[str]) -> list[dict[str, Any]]:
    metric = _axis(view.metric, "METRIC")
    name = view.metric.rpartition("/")[2]
    charts = [_chart("SCATTER", f"{name} by {_short(axis)}", xaxis=_axis(axis), yaxis=metric) for axis in axes[:2]]
    if len(axes) > 1:
        title = f"{name} by {_short(axes[0])} and {_short(axes[1])}"
        charts.append(_chart("CONTOUR", title, xaxis=_axis(axes[0]), yaxis=_axis(axes[1]), zaxis=metric))
    cost = _axis("cost/train_s", "METRIC")
    charts += [
        _chart("PARALLEL", "all at once", selectedParams=list(axes), selectedMetrics=[view.metric], showAllRuns=True),
        _chart("SCATTER", f"{name} by training time (s)", xaxis=cost, yaxis=metric),
        _chart("BAR", f"{name} of each trial", metricKey=view.metric),
    ]
    return [{**chart, "uuid": f"frostline-{index}"} for index, chart in enumerate(charts)]


def _short(axis: str) -> str:
    return {"freeze.depth": "depth", _LOG_LR: "log10 lr"}.get(axis, axis.rpartition(".")[2])


def _chart(kind: str, title: str, **settings: Any) -> dict[str, Any]:
    place = {"metricSectionId": "frostline", "runsCountToCompare": 100}
    return {"type": kind, "displayName": title, **place, "deleted": False, "isGenerated": False, **settings}


def _axis(key: str, kind: str = "PARAM") -> dict[str, str]:
    return {"key": key, "type": kind}


def _packed(state: Mapping[str, Any]) -> str:
    """Returns the state as the page's own links hold it: a tag has 5,000 characters at most."""
    data = zlib.compress(json.dumps(state, separators=(",", ":")).encode())
    return f"deflate;{base64.b64encode(data).decode()}"


UI_HOST, UI_PORT = "127.0.0.1", 5000


UI_ADDRESS = f"http://{UI_HOST}:{UI_PORT}"
"""Where `frostline ui` serves by default."""
