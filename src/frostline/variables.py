"""Environment variables of other libraries: which are ignored, which are recorded.

What a run computes is decided by its config. torch, Accelerate and Transformers read some hundred variables besides,
left in a shell by a launcher or a batch script; those that would change precision, devices or processes are taken out
of the environment before anything is imported that reads them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, MutableMapping

_IGNORED = re.compile(
    # Accelerate's launcher and its plugins. Trainer takes precision, device, FSDP, DeepSpeed and compilation from them.
    r"(ACCELERATE|FSDP|DEEPSPEED|MEGATRON_LM|PARALLELISM_CONFIG)_\w+"
    # torchrun, MPI and SageMaker: how many processes there are, and which one this is. frostline starts its own.
    r"|RANK|WORLD_SIZE|LOCAL_RANK|LOCAL_WORLD_SIZE|NODE_RANK|GROUP_RANK|GROUP_WORLD_SIZE|ROLE_(RANK|NAME|WORLD_SIZE)"
    r"|MASTER_(ADDR|PORT)|TORCHELASTIC_\w+|FORK_LAUNCHED"
    r"|(PMI|OMPI_COMM_WORLD|MV2_COMM_WORLD|MPI)_(LOCAL_)?(RANK|SIZE)|MPI_LOCALN?RANK(S|ID)"
    r"|SM_HP_MP_PARAMETERS|SM_FRAMEWORK_(PARAMS|MODULE)|SMDATAPARALLEL_\w+"
    # Other devices and dtypes.
    r"|XLA_(USE|DOWNCAST)_BF16|USE_TORCH_XLA|PJRT_DEVICE|TPU_NAME|PT_HPU_LAZY_MODE|TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"
    # With a level in small letters torch.distributed can't be imported.
    r"|LOGLEVEL"
    # Other kernels than those of the installed versions.
    r"|USE_HUB_KERNELS|TRANSFORMERS_(SDPA_FORCE_GQA|DISABLE_DEEPGEMM_LINEAR)"
)
"""Taken out of the environment."""

_ELSEWHERE = r"(?!\w*(_HOME|_DIR|_PATH|_CACHE|_NUM_THREADS|_DEBUG|_VERBOSE|_LOGS?|_LOG_LEVEL)$)"
_KERNELS = (
    # Kernels that torch.compile chooses, those of other makers' devices, array rules of NumPy and SciPy.
    r"(AOT|AOTI|AOTINDUCTOR|INDUCTOR|PARTITIONER|CUTLASS|CUTEDSL|QUACK|TVM|HALIDE)_\w+|ENABLE_\w*TMA_\w+"
    r"|TENSORIFY_PYTHON_SCALARS|FX_PATCH_GETITEM"
    r"|NPU_FA2_SPARSE_MODE|HCCL_DETERMINISTIC|NPY_PROMOTION_STATE|SCIPY_ARRAY_API"
)
_ARITHMETIC = re.compile(
    rf"{_ELSEWHERE}(OMP|MKL|OPENBLAS|KMP|GOTO|ATEN|DNNL|ONEDNN|CUBLASLT|CUDNN|NCCL|GLOO|TORCH|TORCHDYNAMO|TORCHINDUCTOR"
    r"|TRITON)_(?!WAIT_POLICY|PROC_BIND|PLACES|BLOCKTIME)\w+"
    r"|NVIDIA_TF32_OVERRIDE|FLASH_ATTENTION_DETERMINISTIC|PYTORCH_(JIT|MIOPEN_\w+|TUNABLEOP_\w+|ENABLE_MPS_FALLBACK)"
    rf"|{_ELSEWHERE}({_KERNELS})"
)
"""Recorded with a run's result and compared by `reproduce`. Threads are: of them `runtime.threads` is the record."""

_RECORDED = re.compile(
    r"(OMP|MKL|OPENBLAS|KMP|GOTO|ATEN|DNNL|ONEDNN|CUBLAS|CUBLASLT|CUDNN|NCCL|GLOO|TORCH|TORCHDYNAMO|TORCHINDUCTOR|TRITON)_\w+"
    r"|PYTORCH_\w+|CUDA_(VISIBLE_DEVICES|LAUNCH_BLOCKING|DEVICE_ORDER|MODULE_LOADING)|NVIDIA_TF32_OVERRIDE"
    r"|FLASH_ATTENTION_DETERMINISTIC|PYTHONHASHSEED|TOKENIZERS_PARALLELISM|HF_HUB_OFFLINE|TRANSFORMERS_OFFLINE"
    r"|HF_DATASETS_(OFFLINE|IN_MEMORY_MAX_SIZE)|LANG|LC_ALL|TZ"
    r"|(HIP|ROCR)_VISIBLE_DEVICES|ZE_(AFFINITY_MASK|FLAT_DEVICE_HIERARCHY)"
    rf"|{_KERNELS}"
)
"""Recorded in `environment.json`: what may matter for numbers, threads or text. No secrets have such names."""


_KEPT = "FROSTLINE_IGNORED_VARIABLES"
"""What was taken out, for the records of processes that this one starts."""


def ignore(environment: MutableMapping[str, str]) -> dict[str, str]:
    """Takes the variables out that would change what the config decides.

    Args:
        environment: `os.environ`, before anything is imported that reads it.

    Returns:
        What was taken out.
    """
    removed = {name: environment.pop(name) for name in sorted(environment) if _IGNORED.fullmatch(name)}
    if removed:
        environment[_KEPT] = json.dumps({**ignored(environment), **removed})
    return removed


def ignored(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns what was taken out of the environment, here or in the process that started this one."""
    return json.loads(environment.get(_KEPT, "{}"))  # type: ignore[no-any-return]


def recorded(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the variables for `environment.json`."""
    return {name: value for name, value in sorted(environment.items()) if _RECORDED.fullmatch(name)}


def arithmetic(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the variables that can change a number, for a run's result."""
    return {name: value for name, value in sorted(environment.items()) if _ARITHMETIC.fullmatch(name)}
