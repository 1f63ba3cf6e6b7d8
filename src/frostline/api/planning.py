"""Forecasts of sweeps, from Python: `frostline.plan`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from frostline.api.in_worker import call
from frostline.api.inputs import Rows, list_of, model_overrides
from frostline.api.study import sweep_overrides
from frostline.sweeps.plan import SweepPlan

if TYPE_CHECKING:
    from frostline.workers.worker_main import Channel


def plan(
    name: str = "lr_x_depth",
    *,
    model: Any = None,
    tokenizer: Any = None,
    train: Any = None,
    evaluate: Any = None,
    text: str | None = None,
    pair: str | None = None,
    image: str | None = None,
    label: str | None = None,
    task: str | None = None,
    overrides: Sequence[str] = (),
    config_dir: str | None = None,
    nodes: int = 1,
) -> SweepPlan:
    """Forecasts a sweep: its trials, hours, bytes and wall time. Two depths are measured on a few hundred rows.

    Args:
        name: See `frostline.sweep`, as all that follow.
        model: A model.
        tokenizer: Its tokenizer.
        train: Rows to train on.
        evaluate: Rows to be evaluated on.
        text: Column of the text.
        pair: Column of the second text of a pair.
        image: Column of the image.
        label: Column of the label.
        task: What the label is.
        overrides: As on the command line.
        config_dir: A folder of your own config groups.
        nodes: How many machines like this one work on it.

    Raises:
        UserError: Bad input; one line.
    """
    rows = Rows(train=train, evaluate=evaluate, text=text, pair=pair, image=image, label=label, task=task)
    words = sweep_overrides(name, model_overrides(model, tokenizer), rows, list_of(overrides), config_dir)
    forecast: SweepPlan = call(f"{__name__}:plan_in_worker", words=words, config_dir=config_dir, nodes=nodes)
    return forecast


def plan_in_worker(words: Sequence[str], config_dir: str | None, nodes: int, channel: Channel) -> SweepPlan:
    """Forecasts a sweep; called in a worker."""
    from frostline.config import composed_sweep
    from frostline.sweeps.plan import plan_sweep

    del channel
    with composed_sweep(words, config_dir, lambda _cfg: None) as composed:
        return plan_sweep(composed.cfg, composed.arguments, composed.compose, nodes)
