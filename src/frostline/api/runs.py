"""Runs, from Python: `frostline.run`, and the run that comes back."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.api.find_run import trained_spec
from frostline.api.in_worker import Logged, call
from frostline.api.inputs import Rows, list_of, model_overrides
from frostline.config.recorded import read_spec
from frostline.console import import_progress_bars
from frostline.errors import RunFailedError, UserError, visible
from frostline.records.result import RunResult, Status
from frostline.records.run_folder import MODEL_FOLDER, metrics_up_to
from frostline.report import number, summary

if TYPE_CHECKING:
    import pandas as pd

    from frostline.config import Job
    from frostline.inference.generate import Writer
    from frostline.inference.predict import Predictor
    from frostline.records.recorder import RunStart
    from frostline.spec import RunSpec
    from frostline.workers.worker_main import Channel

OnMetrics = Callable[[int, Mapping[str, float]], None]
"""Called while a run trains: the optimizer step, and numbers by name (`train/loss`, `eval/accuracy`)."""


def _label(label: str | None) -> dict[str, str]:
    return {} if label is None else {"label": label}  # a regression has none


class Run:
    """A recorded run, read from its folder.

    Args:
        folder: The run's.

    Raises:
        UserError: The folder holds no run.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).absolute()
        self.result: RunResult = RunResult.read(self.folder)

    @cached_property
    def spec(self) -> RunSpec:
        """What was trained."""
        return read_spec(self.folder)

    @property
    def status(self) -> str:
        """FINISHED, FAILED, PRUNED or KILLED."""
        return self.result.status.value

    @property
    def metrics(self) -> dict[str, float]:
        """The numbers of the kept weights, by name: `eval/accuracy`."""
        return dict(self.result.metrics)

    @property
    def params(self) -> dict[str, Any]:
        """The whole config, by dotted key: `freeze.depth`."""
        return dict(self.spec.flat())

    @cached_property
    def history(self) -> pd.DataFrame:
        """The numbers of each step that were recorded: a row a step, a column a metric."""
        import pandas as pd

        rows: dict[int, dict[str, Any]] = {}
        for step, values in metrics_up_to(self.folder, sys.maxsize):
            rows.setdefault(step, {"step": step}).update(values)
        return pd.DataFrame(list(rows.values())).set_index("step") if rows else pd.DataFrame()

    def model(self) -> tuple[Any, Any]:
        """Returns the trained model of transformers, on the CPU in eval mode, and its tokenizer or image processor.

        Raises:
            UserError: The run has no model, or a file of it has changed since.
        """
        loaded = self._loaded()
        return loaded.model.cpu(), loaded.processor

    def _loaded(self) -> Predictor | Writer:
        spec = trained_spec(self.folder)
        import_progress_bars()
        from frostline.inference.load import load_model

        return load_model(self.folder / MODEL_FOLDER, spec)

    def predict(
        self,
        inputs: Iterable[str],
        *,
        pairs: Iterable[str] | None = None,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> pd.DataFrame:
        """Asks the model of texts, or of images by their paths.

        Args:
            inputs: Texts, or paths of images.
            pairs: The second texts, of a model of text pairs.
            max_new_tokens: Of a model that writes: tokens to write at most.
            temperature: Of a model that writes: 0 takes the likeliest token.
            seed: Of a model that writes: of the tokens that are drawn.

        Returns:
            A row for each input: `text`, `label`, `score` and the score of each class; of a model that writes `text`
            and `written`.

        Raises:
            UserError: The run has no model, an image can't be read, or a number is out of range.
        """
        import pandas as pd

        import_progress_bars()
        from frostline.inference.generate import Generation
        from frostline.inference.predict import Predictor

        texts, spec = _texts(inputs, "predict"), trained_spec(self.folder)
        if (spec.dataset.pair_column is None) != (pairs is None):
            what = "pairs of texts: give pairs=" if pairs is None else "single texts: leave pairs out"
            raise UserError(f"predict: {self.folder} was trained on {what}")
        seconds = [None] * len(texts) if pairs is None else _texts(pairs, "pairs")
        if len(seconds) != len(texts):
            raise UserError(f"predict: {len(texts)} texts and {len(seconds)} second ones")
        loaded = self._loaded()
        if not isinstance(loaded, Predictor):
            how = Generation(max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
            return pd.DataFrame(loaded.write(iter(texts), how), columns=["text", "written"])
        rows = [
            {"text": each.text, **_label(each.label), "score": each.score, **each.scores}
            for each in loaded.predict(zip(texts, seconds, strict=True))
        ]
        return pd.DataFrame(rows, columns=None if rows else ["text", "label", "score"])

    def __str__(self) -> str:
        return visible(summary(self.result, self.folder))

    def __repr__(self) -> str:
        return f"<frostline.Run {self.folder}: {self.status}>"


def _texts(values: Iterable[Any], argument: str) -> list[str]:
    """Returns texts, or paths, as a list.

    Raises:
        UserError: They are no list of texts: a text alone, a data frame, or something else among them.
    """
    if isinstance(values, str) or hasattr(values, "columns") or isinstance(values, Mapping):
        raise UserError(f"{argument}: give a list of texts, for example [text] or df['text']")
    texts = list(values)
    other = next((index for index, each in enumerate(texts) if not isinstance(each, (str, os.PathLike))), None)
    if other is not None:
        raise UserError(f"{argument}: number {other + 1} is no text but {texts[other]!r}")
    return [str(each) for each in texts]


def run(
    overrides: Sequence[str] = (),
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
    like: Run | str | Path | None = None,
    folder: str | Path | None = None,
    config_dir: str | None = None,
    on_metrics: OnMetrics | None = None,
    progress: bool = True,
) -> Run:
    """Trains one model, in a process of its own, and records it as `frostline run` does.

    Args:
        overrides: As on the command line: `["freeze.depth=3", "optimizer.lr=1e-4"]`.
        model: The name of a ready-made one (`"minilm"`), a folder, `"OWNER/NAME"` on the hub, or a model of
            transformers.
        tokenizer: Of a model of transformers, its tokenizer or image processor; None: that of where it came from.
        train: Rows to train on: a pandas or polars data frame, a `datasets.Dataset`, a list of dicts, the path of a
            file or of a folder of images, or the name of a ready-made data set. None: as the overrides say.
        evaluate: Rows to be evaluated on, likewise; None: a part of `train` is held out.
        text: Column of the text.
        pair: Column of the second text of a pair.
        image: Column of the image.
        label: Column of the label.
        task: What the label is: `classification`, `multi_label`, `regression`, `token_classification`, `causal_lm`,
            `seq2seq`. None: as the config says, which is classification.
        like: A run, or what names one: its recorded config is taken, and changed by what else is given. None: the
            defaults are.
        folder: Where the run is recorded; None: a new one in `runs/single`.
        config_dir: A folder of your own config groups.
        on_metrics: Called with each step that is recorded, in this process.
        progress: Whether evaluations are printed to standard error.

    Returns:
        The run, FINISHED.

    Raises:
        UserError: Bad input; one line.
        RunFailedError: It FAILED, for example since it diverged; its record is in its folder.
        KeyboardInterrupt: It was stopped by a signal, after a step; `overrides=["resume=FOLDER"]` resumes it.
    """
    from frostline.api.from_run import job_from
    from frostline.config import compose_with_folder
    from frostline.preflight import check_folder, preflight

    rows = Rows(train=train, evaluate=evaluate, text=text, pair=pair, image=image, label=label, task=task)
    more = list_of(overrides)
    words = [*model_overrides(model, tokenizer), *rows.overrides(more), *more]
    if on_metrics is not None and not callable(on_metrics):
        raise UserError("on_metrics: give a function of a step and of numbers by name")
    if like is None:
        job, own_folder = compose_with_folder(words, config_dir)
    else:
        job, own_folder = job_from(str(like.folder if isinstance(like, Run) else like), words, config_dir)
    target = own_folder if folder is None else Path(folder)
    preflight(job)
    check_folder(target)

    def on_logged(logged: Logged) -> None:
        if progress:
            _print_evaluation(logged)
        if on_metrics is not None:
            on_metrics(logged.step, logged.metrics)

    try:
        call(f"{__name__}:train_in_worker", on_logged, job=job, folder=target, overrides=words)
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(f"{stop}; resume it with overrides=[..., 'resume={target}']") from None
    trained = Run(target)
    if trained.result.status is not Status.FINISHED:
        raise RunFailedError(f"{trained.result.name}: {trained.result.reason} ({target})")
    return trained


def _print_evaluation(logged: Logged) -> None:
    values = {name: value for name, value in logged.metrics.items() if name.startswith("eval/")}
    if values:
        shown = ", ".join(f"{name} {number(value)}" for name, value in values.items())
        print(f"step {logged.step}: {shown}", file=sys.stderr, flush=True)


class _Sender:
    """A recorder that sends numbers to the caller."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def start(self, run: RunStart) -> None:
        """See `Recorder`."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """See `Recorder`."""
        self._channel.send(Logged(step=step, metrics=dict(metrics)))

    def finish(self, result: RunResult) -> None:
        """See `Recorder`."""


def train_in_worker(job: Job, folder: Path, overrides: Sequence[str], channel: Channel) -> None:
    """Trains a job; called in a worker.

    Raises:
        UserError: Bad input.
        Interrupted: A signal stopped it.
    """
    from frostline.api.execute import execute
    from frostline.provenance import redact
    from frostline.registry import import_plugins
    from frostline.signals import Interrupted

    import_plugins(job.plugins)
    result, code = execute(job, folder, [redact(word) for word in overrides], _Sender(channel))
    if code and result.status is not Status.FINISHED:
        raise Interrupted(code - 128)
