"""A sweep's answer in sentences, the same on the terminal, in the report and in MLflow."""

from __future__ import annotations

from frostline.advisor import NOTHING_FROZEN, is_mean_over_rows
from frostline.decision import LevelState, Requirement, Standing
from frostline.records.trial import TrialRecord
from frostline.report.answer import Answer, GroupAnswer, LevelRow
from frostline.report.pareto import difference, in_range, is_share
from frostline.report.significance import LEVEL, Comparison
from frostline.spec import DEPTH_KEY, LR_KEY, short_number


def headline(answer: Answer) -> str:
    """Returns what to take, in one sentence."""
    if answer.best is None:
        return "no trial was trained to its end"
    trial = answer.recommended
    assert trial is not None
    what = _what(trial, answer)
    if answer.main is None and answer.num_collapsed:
        return f"nothing was learnt: all {answer.num_collapsed} runs gave one answer for all rows ({what})"
    if answer.main is None:
        return f"{what}: {answer.metric} {trial.quality:.4g}"
    low, mean, high = _interval(answer.main, answer)
    text = f"{what}: {answer.metric} {_number(mean)} (95 %: {_number(low)} to {_number(high)})"
    if answer.learnt is False:
        constant = f"a constant prediction ({_number(_constant_score(answer))})"
        return f"nothing was learnt: {text} does not beat {constant} with {100 * LEVEL:.0f} % probability"
    return text


def label(answer: Answer) -> str:
    """Returns the word before the headline: what kind of advice it is."""
    if answer.standing is Standing.NOT_SETTLED or answer.learnt is False:
        return "best guess"
    return "recommended"


def standing_lines(answer: Answer) -> list[str]:
    """Returns how far the question is answered and why, a sentence each; nothing without an axis of cost."""
    main = answer.main
    if main is None or main.recommended_row is None:
        return []
    decision, row = main.decision, main.recommended_row
    margin = difference(decision.margin, answer.metric)
    name = _named(row, answer)
    if row.p_within is None or row.most_loss is None:
        lone = f"not settled at {margin}: only {name} was tried to the end"
        return [f"{lone}; more trials (sweep.n_trials) tell of the others", *_cautions(main, answer)]
    chance = f"within {margin} of the best {_axis_name(answer)} with probability {row.p_within:.2f}"
    most = f"at most {difference(row.most_loss, answer.metric)} worse than any setting, tried or not"
    most += f" ({100 * LEVEL:.0f} %)"
    open_names = _names([each for each in main.rows if each.state is LevelState.OPEN], answer)
    lines = []
    if decision.standing is Standing.SETTLED:
        lines.append(f"settled at {margin}: {name} is {chance}, {most}; everything cheaper is worse")
    elif decision.standing is Standing.AT_LEAST:
        least = name if row.level == NOTHING_FROZEN else f"{_at_least(answer)} {answer.level_name(row.level)}"
        lines.append(f"{least} at {margin}: it is {chance}, {most}; {_still(main, open_names, answer)}")
    else:
        expected = difference(decision.recommended.expected_loss, answer.metric)
        lines.append(
            f"not settled at {margin}: {name} is the best guess (expected loss {expected}, {most}); open: {open_names}"
        )
    if main.requirement is not None:
        lines.append(_requirement(main.requirement, main, answer))
    lines += _cautions(main, answer)
    return lines


def _still(main: GroupAnswer, open_names: str, answer: Answer) -> str:
    if open_names:
        return f"open: {open_names}"
    lacking = ", ".join(answer.level_name(level.level) for level in main.decision.lacking_seeds)
    return f"fewer than two fresh seeds: {lacking}"


def _requirement(needed: Requirement, main: GroupAnswer, answer: Answer) -> str:
    rows = f", scored on {needed.rows:,} rows" if main.fitted.most_rows and needed.rows != main.fitted.rows else ""
    if needed.seeds is None:
        where = f"on {needed.rows:,} rows" if main.fitted.most_rows else "so"
        if main.fitted.num_folds > 1:
            where = f"on {main.fitted.num_folds} folds"
        chance = f"chance {needed.chance:.0%} with 32 of each"
        missing = [row for row in main.rows if row.trial is None and row.state is LevelState.OPEN]
        untried = [row for row in missing if not row.collapsed]
        other = "take more rows, or a wider margin"
        if untried:
            other = f"try {_names(untried, answer)}, too (sweep.n_trials)"
        elif missing:
            other = f"let {_names(missing, answer)} learn something: other rates, or more training.epochs"
        return f"further seeds can't settle it {where} ({chance}): {other}"
    unit = answer.seconds_per_cost
    seconds = "" if unit is None else f"{_time(needed.cost * unit)} of training here, "
    kind = "fold" if main.fitted.num_folds > 1 else "seed"
    seeds = f"{needed.seeds} more {kind}{'s' if needed.seeds > 1 else ''}"
    return f"it would take about {seeds} of each contender{rows} ({seconds}{_in_ten(needed.chance)} to be settled)"


def _cautions(main: GroupAnswer, answer: Answer) -> list[str]:
    lines = []
    decision = main.decision
    if answer.baseline_failed is not None:
        lines.append(f"full fine-tuning has no row: it failed ({answer.baseline_failed})")
    if decision.collapsed:
        counts = ", ".join(f"{row.collapsed} of {_named(row, answer)}" for row in main.rows if row.collapsed)
        lines.append(
            f"{len(decision.collapsed)} of {decision.num_runs} runs learnt nothing (one answer for all rows) and are "
            f"left out{': ' if counts else ''}{counts}"
        )
    guessed = "(their numbers are guesses from the others)"
    if untried := [row for row in main.rows if row.trial is None and not row.collapsed]:
        lines.append(f"not tried to the end: {_names(untried, answer)} {guessed}")
    if nothing := [row for row in main.rows if row.trial is None and row.collapsed]:
        lines.append(f"all runs learnt nothing: {_names(nothing, answer)} {guessed}")
    if left_out := main.fitted.num_left_out:
        lines.append(
            f"made without {left_out:,} of so many trials: as many at each {_axis_name(answer)} are in it as at the "
            "others, chosen without a look at their values"
        )
    if main.failed_seeds:
        counts = ", ".join(f"{number} of {answer.level_name(level)}" for level, number in main.failed_seeds.items())
        lines.append(f"further seeds failed: {counts}")
    if not decision.knows_rows:
        lines.append(f"of these held-out rows alone: {answer.metric} is known by seed only, not row by row")
    elif not is_mean_over_rows(answer.metric):
        lines.append(f"how far the rows decide is a bootstrap over them: {answer.metric} is no mean over rows")
    return lines


def cache_line(answer: Answer) -> str:
    """Returns what the prefix cache saved, in a sentence; empty if no trial used it.

    Both times are measured: filling by its own clock, what was saved as the passes that were not run through the frozen
    blocks, each at the time that it took while filling.
    """
    if not answer.num_cached:
        return ""
    return (
        f"{answer.num_cached} of {answer.num_trials} trials used the prefix cache: {_time(answer.filled_s)} to fill "
        f"it, {_time(answer.saved_s)} of forward passes saved"
    )


def legend(answer: Answer) -> str:
    """Returns what the columns of the table over levels mean."""
    main = answer.main
    if main is None or not main.rows:
        return ""
    margin = difference(main.decision.margin, answer.metric)
    constant, axis = main.fitted.constant_score, _axis_name(answer)
    own = "" if main.rows[0].operations is not None else " that learnt something"
    num_learnt = main.decision.num_runs - len(main.decision.collapsed)
    parts = [
        f"{answer.metric}: posterior mean of all {num_learnt} runs together, with its 95 % interval",
        "at most worse: than the best setting, rates that nobody tried included, with 95 % probability",
        f"good: within {margin} of the best {axis} with probability {main.decision.confidence:g}; out: another {axis} "
        "is better by more than half of that, as surely; open: not known",
        f"operations: of training, as recorded, without the prefix cache, beside the dearest {axis}'s{own}",
        f"train time: measured, median over the {axis}'s runs",
    ]
    if constant is not None:
        parts.append(f"a constant prediction scores {_number(constant)}")
    return "; ".join(parts)


def against_words(comparison: Comparison, metric: str) -> str:
    """Returns a comparison in words: `0.8 points worse, 95 % interval -0.4 to 2.0, p 0.11`."""
    scale = 100.0 if is_share(metric) else 1.0
    unit = " points" if is_share(metric) else ""
    size = difference(abs(comparison.loss), metric)
    word = "worse" if comparison.loss >= 0 else "better"
    shown = [f"{scale * value:.1f}" if unit else f"{value:.3g}" for value in (comparison.low, comparison.high)]
    return f"{size} {word}, {100 * LEVEL:.0f} % interval {shown[0]} to {shown[1]}{unit} worse, p {comparison.p:.2g}"


def _what(trial: TrialRecord, answer: Answer) -> str:
    params = dict(trial.params)
    parts = []
    if trial.is_baseline:
        params.pop(DEPTH_KEY)
        parts.append("train everything (freeze=none)")
    elif answer.axis_key == DEPTH_KEY and trial.depth is not None:
        params.pop(DEPTH_KEY)
        of = f" of {answer.num_blocks}" if answer.num_blocks is not None else ""
        parts.append(f"freeze {trial.depth}{of} blocks" if trial.depth else "freeze no block, the embeddings alone")
    elif answer.axis_key in params:
        parts.append(f"{answer.axis_key}={_shown(params.pop(answer.axis_key))}")
    if parts and trial.lr is not None:
        params.pop(LR_KEY)
        parts.append(f"lr {short_number(trial.lr)}")
    parts += [f"{key}={_shown(value)}" for key, value in params.items()]
    return ", ".join(parts)


def _interval(main: GroupAnswer, answer: Answer) -> tuple[float, float, float]:
    level = main.decision.recommended
    values = (level.low, level.mean, level.high)
    if not answer.maximize:
        values = (-level.high, -level.mean, -level.low)
    low, mean, high = (in_range(value, answer.metric) for value in values)
    return low, mean, high


def _constant_score(answer: Answer) -> float:
    assert answer.main is not None
    assert answer.main.fitted.constant_score is not None
    return answer.main.fitted.constant_score


def _axis_name(answer: Answer) -> str:
    return "depth" if answer.axis_key == DEPTH_KEY else (answer.axis_key or "").rpartition(".")[2]


def _at_least(answer: Answer) -> str:
    return "at least" if answer.axis_key == DEPTH_KEY else "as cheap as"


def _named(row: LevelRow, answer: Answer) -> str:
    return "full fine-tuning" if row.level == NOTHING_FROZEN else f"{_axis_name(answer)} {answer.level_name(row.level)}"


def _names(rows: list[LevelRow], answer: Answer) -> str:
    names = ("full fine-tuning" if row.level == NOTHING_FROZEN else answer.level_name(row.level) for row in rows)
    return ", ".join(names)


def _in_ten(chance: float) -> str:
    return f"{round(10 * chance)} in 10"


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.4g}"


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _shown(value: object) -> str:
    return short_number(value) if isinstance(value, float) and 0 < abs(value) < 1e-2 else str(value)
