"""What the server of forked.py imports: all that commands import when they get to it."""

import gc

import accelerate.commands.launch  # noqa: F401
import mlflow
import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
import optuna
import optuna.storages.journal  # noqa: F401
import peft  # noqa: F401
import torch.distributed.run  # noqa: F401
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertTokenizerFast, Trainer  # noqa: F401
from transformers.models.bert import modeling_bert  # noqa: F401

import frostline.cli.main
import frostline.cli.run
import frostline.cli.sweep
import frostline.launch.processes
import frostline.metrics.offline
import frostline.sweeps.worker_template
import frostline.train
from tests.support.forked import WarmPython

frostline.launch.processes.Popen = WarmPython

gc.collect()
gc.freeze()
