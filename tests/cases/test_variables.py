"""Each variable that the libraries read from the environment is ignored, recorded, or known to change no number."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections import defaultdict
from pathlib import Path

import pytest

from frostline import variables
from tests.support.sweep_tools import call

LIBRARIES = (
    "torch", "transformers", "accelerate", "datasets", "huggingface_hub", "evaluate", "tokenizers", "safetensors",
    "hydra", "omegaconf", "optuna", "numpy", "scipy", "pyarrow", "fsspec", "filelock",
)  # fmt: skip

_NAME = r"[\"']([A-Z][A-Z0-9_]+)[\"']"
_READ = re.compile(
    rf"(?:environ(?:\.get|\.setdefault|\.pop)?\s*[\(\[]|getenv\(|(?:parse_\w+_from_env|get_int_from_env|str_to_bool)\(\[?"
    rf"|_as_int\(|env_var\(|env_name\w*=)\s*{_NAME}|{_NAME}\s+(?:not )?in os\.environ"
)

SWITCHES = (
    # How much is said, and where progress is drawn.
    r"\w+_VERBOSITY|\w+_DISABLE_PROGRESS_BARS|HF_DEBUG|HF_HUB_DISABLE_\w+|HF_\w+_PROGRESS_BARS|TQDM_POSITION|NO_COLOR|USE_COLOR"
    r"|TRANSFORMERS_NO_ADVISORY_WARNINGS|TF_CPP_MIN_LOG_LEVEL|LOG_AUTOTUNE_RESULTS|LOG_TLPARSE|HYDRA_FULL_ERROR"
    r"|OC_CAUSE|DISABLE_TELEMETRY|DO_NOT_TRACK|HF_UPDATE_DOWNLOAD_COUNTS|PRIMA_DEBUGGING"
    # Reporters of Transformers and Accelerate, none of which frostline switches on.
    r"|(CLEARML|COMET|WANDB|SWANLAB|MLFLOW|TENSORBOARD)_\w+|HF_(DAGSHUB|DVCLIVE|MLFLOW)_\w+|DISABLE_\w+_INTEGRATION"
    # How fast something is fetched, and how long it may take.
    r"|HF_HUB_\w+_TIMEOUT|HF_EVALUATE_OFFLINE|HF_HUB_ENABLE_HF_TRANSFER|HF_XET_HIGH_PERFORMANCE|HF_SCRIPTS_VERSION|EAGER_IMPORT"
    # Other frameworks, which are not there; checks of versions.
    r"|USE_(TF|JAX|TORCH|LIBUV)|JAX_PLATFORMS|TRANSFORMERS_DISABLE_TORCH_CHECK|TRUST_REMOTE_CODE"
    # Traces of what was computed.
    r"|COMPILE_STROBELIGHT_\w+|ENABLE_PYTORCH_EXECUTION_TRACE\w*|KINETO_\w+|CUDA_PROFILE|FR_TRACE_\w+|DUMP_AOTI_MINIFIER"
    r"|(DISABLE|TEARDOWN)_CUPTI\w*|FX_GRAPH_SHOW_\w+|XLA_HLO_DEBUG|NETWORK_DEBUG_REPORT|ASCEND_LAUNCH_BLOCKING|PT2_\w+"
    # Memory and processes of what a run does not use: distributed checkpoints, lazy tensors, compiled extensions.
    r"|DCP_\w+|LTC_MAX_ASYNC_QUEUE|UNSAFE_SKIP_FSDP_MODULE_GUARDS|MAX_JOBS|NUMPY_\w+|NPY_AVAILABLE_MEM|BENCHMARK_USE_DEV_SHM"
    r"|ARROW_PRE_\w+|FAKE_ALLOW_META"
    # The libraries' own tests, and services where they run.
    r"|PYTEST_\w+|RUN_\w+|CI(_\w+)?|GITHUB_ACTIONS|BRANCH|FOO|SKIP_CUDA_DOCTEST|SCIPY_(XSLOW|DEVICE|DEFAULT_DTYPE|AVAILABLE_MEM)"
    r"|SCIPY_HYPOTHESIS_PROFILE|TRANSFORMERS_(IS_CI|TEST_\w+)|RAY_SCOPE|SM_NUM_\w+|SAGEMAKER_JOB_NAME|TRAINING_JOB_ARN|NPROC"
    r"|IS_FBCODE|MAST_HPC_JOB_NAME|DATABRICKS_RUNTIME_VERSION|VSCODE_PID|TORCHEXPORT_EXTENDED_DEBUG_CURRENT_LOC"
)
"""Set to 1 below: the bits stay."""

PLACES = (
    # Folders, addresses and keys: what is read there is compared with its hash, or its hash recorded.
    r"HOME|PATH|TMPDIR|TEMP|TMP|USER|USERNAME|SHELL|XDG_\w+|VIRTUAL_ENV|CONDA_\w+|LD_(LIBRARY_PATH|PRELOAD)|SYSTEMROOT|WINDIR"
    r"|\w+_(HOME|CACHE|DIR|DIRS|PATH|ROOT|ENDPOINT|TOKEN|TOKEN_PATH|URL)|HF_(OIDC|DEVICE_CODE|HUB)_\w+|MLFLOW_TRACKING_URI"
    r"|AWS_\w+|ACTIONS_\w+|OAUTH_\w+|OPENID_\w+|SPACE_\w+|WEBHOOK_SECRET|HUGGINGFACE_CO_STAGING|OPTUNA_STORAGE|VERTEX_PRODUCT"
    r"|ECS_CONTAINER_METADATA_URI|HF_DATASETS_DOWNLOADED_\w+|COMP_LINE|CLAUDE_\w+"
    # Compilers and their flags, for those who build.
    r"|CC|CXX|CUDACXX|CFLAGS|CPPFLAGS|OPT|PKG_CONFIG|(ABSOFT|LAHEY|ACCELERATE|ATLAS_VERSION|NUMERIX|OSTYPE|MSYSTEM|MKLROOT)"
    r"|NPY_\w+|MACOSX_DEPLOYMENT_TARGET|PROCESSOR_ARCHITE\w+|PROGRAMFILES|SOURCE_DATE_EPOCH|SVN_\w+|TCSDS_PATH|VSCMD_\w+"
    r"|DISTUTILS_USE_SDK|HALIDE_\w+|PYTHON_EXEC|PIP_\w+|LEVEL_ZERO_\w+"
    # They stop a program, which says so: no number comes of it.
    r"|HYDRA_(DEPRECATION_WARNINGS_AS_ERRORS|INSTANTIATE_ALLOWLIST_OVERRIDE)|SELF_WARNING_AS_ERROR"
)


def read_by_libraries() -> dict[str, set[str]]:
    """Names of variables, with the libraries in whose sources they are read."""
    found: dict[str, set[str]] = defaultdict(set)
    for library in LIBRARIES:
        spec = importlib.util.find_spec(library)
        assert spec is not None, library
        for place in map(Path, spec.submodule_search_locations or []):
            for path in place.rglob("*.py"):
                if {"testing", "tests", "test"} & set(path.relative_to(place).parts):
                    continue
                for match in _READ.finditer(path.read_text(encoding="utf-8", errors="replace")):
                    found[match[1] or match[2]].add(library)
    return found


@pytest.fixture(scope="module")
def unrecorded():
    """Those that frostline neither ignores nor records."""
    return {
        name: libraries
        for name, libraries in read_by_libraries().items()
        if not variables.ignore({name: "1"}) and not variables.recorded({name: "1"})
    }


@pytest.mark.slow
def test_2_each_variable_that_a_library_reads_is_known(unrecorded):
    assert len(unrecorded) > 200  # else the sources were not found
    known = re.compile(f"{SWITCHES}|{PLACES}")
    assert not {name: libraries for name, libraries in unrecorded.items() if not known.fullmatch(name)}


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_2_no_variable_that_is_not_recorded_changes_a_number(unrecorded, tmp_path, tiny_overrides):
    """All at once; with FROSTLINE_VARIABLES=each one after the other."""
    few = ("training.max_steps=4", "training.epochs=null", "tracking=off")
    switches = [name for name in sorted(unrecorded) if re.fullmatch(SWITCHES, name)]
    assert len(switches) > 80
    each = os.environ.get("FROSTLINE_VARIABLES") == "each"
    sets = [{}, *([{name: "1"} for name in switches] if each else [dict.fromkeys(switches, "1")])]
    for index, given in enumerate(sets):
        run = tmp_path / f"{index}"
        done = call("run", *tiny_overrides, *few, f"hydra.run.dir={run}", cwd=tmp_path, as_users_do=True, **given)
        assert done.returncode == 0, (given, done.stderr)
        assert (run / "metrics.jsonl").read_text() == (tmp_path / "0" / "metrics.jsonl").read_text(), given
        before, after = (json.loads((path / "result.json").read_text()) for path in (tmp_path / "0", run))
        assert after["weights_sha256"] == before["weights_sha256"], given
