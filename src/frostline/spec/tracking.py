"""The config group `tracking`."""

from __future__ import annotations

from dataclasses import dataclass

from frostline.errors import SpecError


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
        recorders: Names of further recorders, of frostline or of a plugin.
        register: A name in MLflow's model registry: of a sweep the recommended model becomes a version of it, with the
            alias `recommended`, of a run outside of a sweep its model. None: nothing is registered.
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
    recorders: tuple[str, ...] = ()
    register: str | None = None

    def __post_init__(self) -> None:
        if self.enabled and not self.uri.strip():
            raise SpecError("tracking.uri is empty: give an MLflow tracking URI, or tracking=off")
        if self.enabled and not self.experiment.strip():
            raise SpecError("tracking.experiment is empty: give the name of an MLflow experiment")
        if self.enabled and len(self.experiment) > 500:
            raise SpecError("tracking.experiment: MLflow takes names of up to 500 characters")
        if self.register is None:
            return
        if not self.register.strip() or {"/", ":"} & set(self.register):
            raise SpecError(f"tracking.register={self.register}: MLflow takes a name without / and :")
        if not self.enabled:
            raise SpecError("tracking.register: nothing is registered with tracking=off; leave one of them out")
