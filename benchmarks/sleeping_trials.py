"""A plugin for `benchmarks/scale.py`: the trials of a sweep only sleep. All that its parent does is as it always is."""

from __future__ import annotations

import math
import os
import random
import time

from frostline.records.trial import TrialOutcome, TrialState
from frostline.sweeps import engines
from frostline.sweeps.trial_job import TrialJob, TrialReply
from frostline.workers.worker_main import Channel

engines.RUN_TRIAL = "sleeping_trials:sleep"
engines.TEMPLATE = "sleeping_trials_template"
engines.WARM = None


def sleep(trial: TrialJob, channel: Channel) -> TrialReply:
    """Takes its time and returns a value, better in the middle of the learning rates and at shallow depths."""
    del channel
    time.sleep(float(os.environ["SLEEP_S"]))
    rng = random.Random(trial.number)
    rate = abs(math.log10(float(trial.params["optimizer.lr"])) + 4)
    value = 0.9 - 0.02 * float(trial.params["freeze.depth"]) - 0.1 * rate + rng.gauss(0, 0.01)
    seed = trial.runs[0].job.run.seed
    return TrialReply(outcome=TrialOutcome(state=TrialState.COMPLETE, by_seed={seed: min(0.999, value)}))
