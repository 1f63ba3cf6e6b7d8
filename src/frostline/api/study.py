"""Sweeps, from Python: `frostline.sweep`, and the study that comes back."""

from __future__ import annotations

import html
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.api.frames import Figures, frame_of, trial_row
from frostline.api.inputs import Rows, list_of, model_overrides
from frostline.api.runs import Run
from frostline.api.trial_caller import OnTrial, TrialCaller
from frostline.errors import RunFailedError, UserError
from frostline.report import as_text, level_rows, print_answer
from frostline.search import Listener
from frostline.spec import DEPTH_KEY, LR_KEY
from frostline.sweeps.folder import SweepFolder, read_description, run_folder_of
from frostline.sweeps.recorded_report import RecordedReport, recorded_report
from frostline.sweeps.recovery import check_reportable, recover

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from frostline.report import Answer

_PAGE_HEIGHT = 900


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What a sweep answers; prints as the terminal does.

    Attributes:
        standing: `settled`, `at least` (the level is within the margin; whether a cheaper one is, too, is open) or
            `not settled` (the level is the best guess); None where the runs support no decision.
        params: What to take, by key: `{"freeze.depth": 3, "optimizer.lr": 2e-4}`.
        trial: The number of the recommended trial.
        metric: The objective's name.
        value: What to expect of it: its posterior mean.
        low: Lower end of its 95 % interval.
        high: Upper end.
        most_loss: By how much it is worse than the best setting, at most, with 95 % probability.
        p_within: Probability that it is within the margin of the best.
        margin: A level this much below the best one counts as good.
        confidence: Of every statement.
        learnt: Whether anything beats a constant prediction, with 95 % probability; None: not known.
        text: All of it, in a table and sentences.
    """

    standing: str | None
    params: Mapping[str, Any]
    trial: int | None
    metric: str
    value: float | None
    low: float | None
    high: float | None
    most_loss: float | None
    p_within: float | None
    margin: float | None
    confidence: float | None
    learnt: bool | None
    text: str

    @property
    def depth(self) -> int | None:
        """The frozen depth to take; None if none was swept, or nothing is to be frozen."""
        depth: int | None = self.params.get(DEPTH_KEY)
        return depth

    @property
    def lr(self) -> float | None:
        """The learning rate to take; None if none was swept."""
        rate: float | None = self.params.get(LR_KEY)
        return rate

    def __str__(self) -> str:
        return self.text

    __repr__ = __str__


class Study:
    """A sweep, read from its folder.

    Args:
        folder: The sweep's.

    Raises:
        UserError: The folder holds no sweep, or no trial of it has started.
        RunFailedError: Some of its trials can't be read; the sweep's own command trains them again.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).absolute()
        self._description = read_description(self.folder)
        recovery = recover(SweepFolder(self.folder), self._description)
        check_reportable(self.folder, recovery)
        self._records = list(recovery.trials)

    @cached_property
    def _report(self) -> RecordedReport:
        return recorded_report(self.folder, self._description, self._records)

    @property
    def _answer(self) -> Answer:
        return self._report.data.answer

    @property
    def name(self) -> str:
        """The sweep's name."""
        return str(self._description["name"])

    @cached_property
    def answer(self) -> Decision:
        """How deep to freeze, at which learning rate, and how sure that is."""
        answer = self._answer
        chosen, main = answer.recommended, answer.main
        row = None if main is None else main.recommended_row
        decision = None if main is None else main.decision
        standing = None if answer.standing is None else answer.standing.value
        return Decision(
            standing=standing,
            params={} if chosen is None else dict(chosen.params),
            trial=None if chosen is None else chosen.number,
            metric=answer.metric,
            value=row.mean if row is not None else None if chosen is None else chosen.quality,
            low=None if row is None else row.low,
            high=None if row is None else row.high,
            most_loss=None if row is None else row.most_loss,
            p_within=None if row is None else row.p_within,
            margin=None if decision is None else decision.margin,
            confidence=None if decision is None else decision.confidence,
            learnt=answer.learnt,
            text=as_text(lambda console: print_answer(answer, console)),
        )

    @property
    def table(self) -> pd.DataFrame:
        """A row for each level of the axis of cost (a frozen depth, a LoRA rank), from the dearest to the cheapest."""
        return frame_of(level_rows(self._answer))

    @property
    def trials(self) -> pd.DataFrame:
        """A row for each trial, the baseline (number -1) first."""
        return frame_of([trial_row(trial) for trial in self._records])

    @cached_property
    def figures(self) -> dict[str, Figure]:
        """Figures of matplotlib by name, those that the trials can fill.

        `depth`, `rates`, `history`, `quality_vs_cost`, `importances` (of several swept keys), `learning_curve` (of
        several numbers of rows).
        """
        from frostline.report.figures import single_figures

        data = self._report.data
        trials = [trial for trial in data.trials if not trial.is_baseline]
        return Figures(single_figures(trials, data.answer, data.cost))

    @property
    def best(self) -> Run:
        """The run of the recommended trial.

        Raises:
            UserError: No trial was trained to its end.
        """
        folder = self._report.trained
        if folder is None:
            raise UserError(f"{self.folder}: no trial was trained to its end")
        return Run(folder)

    @property
    def command(self) -> str:
        """What trains the recommended run again, on a command line; empty if there is none."""
        return self._report.data.command

    def run(self, trial: int, seed: int | None = None) -> Run:
        """Returns a run of a trial.

        Args:
            trial: The trial's number.
            seed: Of the run; None: the sweep's first.

        Raises:
            UserError: There is none.
        """
        if not isinstance(trial, int):
            raise UserError(f"trial {trial!r}: give its number, for example {self._records[-1].number}")
        return Run(run_folder_of(self.folder, self._description, trial, seed))

    def predict(self, inputs: Iterable[str], **options: Any) -> pd.DataFrame:
        """Asks the recommended run's model. See `Run.predict`."""
        return self.best.predict(inputs, **options)

    def page(self) -> str:
        """Returns the report, one HTML page that needs no other file."""
        from frostline.report.html import page_of

        return page_of(self._report.data)

    def _repr_html_(self) -> str:
        # In a frame of its own: its style is not the notebook's.
        source = html.escape(self.page(), quote=True)
        return f'<iframe srcdoc="{source}" style="width: 100%; height: {_PAGE_HEIGHT}px; border: 0"></iframe>'

    def __str__(self) -> str:
        return self.answer.text

    def __repr__(self) -> str:
        return f"<frostline.Study {self.folder}: {self._report.data.status}>"


def sweep(
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
    on_trial: OnTrial | None = None,
) -> Study:
    """Searches over frozen depth and learning rate, or resumes the search, as `frostline sweep` does.

    The same call resumes a sweep that was interrupted, also by another process: its trials lie in `runs/NAME`. Trials
    run in processes of their own. Progress is printed to standard error.

    Args:
        name: Of a sweep: `lr_x_depth`, or one of your own in `config_dir`.
        model: See `frostline.run`.
        tokenizer: See `frostline.run`.
        train: See `frostline.run`.
        evaluate: See `frostline.run`.
        text: See `frostline.run`.
        pair: See `frostline.run`.
        image: See `frostline.run`.
        label: See `frostline.run`.
        task: See `frostline.run`.
        overrides: As on the command line: `["sweep.n_trials=20", "training.epochs=2"]`.
        config_dir: A folder of your own config groups.
        on_trial: Called in this process when a trial ends; what it raises ends the sweep, which can be resumed.

    Returns:
        The study.

    Raises:
        UserError: Bad input; one line.
        RunFailedError: No trial was trained to its end.
        KeyboardInterrupt: A signal ended it, after a step; the same call resumes it.
    """
    from frostline.config import composed_sweep
    from frostline.sweeps.read_config import SweepView
    from frostline.sweeps.run_sweep import run_sweep

    words = sweep_overrides(
        name, model_overrides(model, tokenizer),
        Rows(train=train, evaluate=evaluate, text=text, pair=pair, image=image, label=label, task=task),
        list_of(overrides), config_dir,
    )  # fmt: skip
    if on_trial is not None and not callable(on_trial):
        raise UserError("on_trial: give a function of one argument")
    caller = None if on_trial is None else TrialCaller(on_trial)
    listeners: tuple[Listener, ...] = () if caller is None else (caller,)
    command = command_of(name, words[1:], config_dir)
    with composed_sweep(words, config_dir, lambda _cfg: None) as composed:
        if not getattr(composed.launcher, "warm_workers", False):
            raise UserError("hydra/launcher: from Python, trials run in frostline's own workers or on Ray")
        try:
            folder, code = run_sweep(
                composed.cfg, composed.arguments, composed.compose, composed.launcher, command,
                SweepView(listeners=listeners, prints_answer=False),
            )  # fmt: skip
        except RunFailedError as error:
            if caller is not None and caller.is_calling and error.__cause__ is not None:
                raise error.__cause__ from None
            raise
    if code:
        raise KeyboardInterrupt(f"{folder}: stopped; the same call resumes it")
    return Study(folder)


def sweep_overrides(
    name: str, model: Sequence[str], rows: Rows, overrides: Sequence[str], config_dir: str | None
) -> list[str]:
    """Returns the overrides that compose a sweep, its name first.

    Raises:
        UserError: There is no such sweep, or the rows can't be used.
    """
    from frostline.config import own_folder
    from frostline.sweeps.names import check_name, spaced

    check_name(name, has_own=config_dir is not None or own_folder() is not None)
    return [f"+sweep={name}", *model, *rows.overrides(overrides), *spaced(overrides)]


def command_of(name: str, words: Sequence[str], config_dir: str | None) -> str:
    """Returns the command line that runs the same sweep."""
    own = [] if config_dir is None else [f"--config-dir={config_dir}"]
    return shlex.join(["frostline", "sweep", name, *own, *words])
