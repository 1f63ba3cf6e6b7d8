"""The one door to Hydra: composed configs and recorded ones as typed specs."""

from frostline.config.compose import Job, check_multirun, decode_job, without_hydra
from frostline.config.outside_hydra import SweepConfig, compose_job, compose_run, compose_with_folder, composed_sweep
from frostline.config.own_files import is_file, own_folder, with_files
from frostline.config.recorded import spec_from_json, spec_from_text, spec_to_yaml, value_from_text

__all__ = [
    "Job",
    "SweepConfig",
    "check_multirun",
    "compose_job",
    "compose_run",
    "compose_with_folder",
    "composed_sweep",
    "decode_job",
    "is_file",
    "own_folder",
    "spec_from_json",
    "spec_from_text",
    "spec_to_yaml",
    "value_from_text",
    "with_files",
    "without_hydra",
]
