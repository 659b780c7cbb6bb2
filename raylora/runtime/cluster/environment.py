"""Which environment variables a run hands to its workers: an explicit list, and nothing else.

The workers of a cluster know nothing of the driver's environment and get what is listed. Those of a Ray that this
driver started have inherited all of it, and forget what is neither listed nor the system's own. Values travel in the
memory of the run's mailbox, never in a spec, a log line or Ray's job records.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ray

NAMES = frozenset(
    {
        "RAYLORA_HOME",
        "RAYLORA_SIGNING_KEY",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_PROFILE",
        "AWS_DEFAULT_PROFILE",
        "AWS_CONFIG_FILE",
        "AWS_SHARED_CREDENTIALS_FILE",
        "AWS_ROLE_ARN",
        "AWS_ROLE_SESSION_NAME",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_S3",
        "AWS_CA_BUNDLE",
        "AWS_REQUEST_CHECKSUM_CALCULATION",
        "AWS_RESPONSE_CHECKSUM_VALIDATION",
        "AWS_USE_FIPS_ENDPOINT",
        "AWS_USE_DUALSTACK_ENDPOINT",
        "HF_TOKEN",
        "HF_HOME",
        "HF_HUB_CACHE",
        "HF_DATASETS_CACHE",
        "HF_ENDPOINT",
        "HF_HUB_OFFLINE",
        "HF_DATASETS_OFFLINE",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
        "http_proxy",
        "https_proxy",
        "no_proxy",
        "SSL_CERT_FILE",
        "REQUESTS_CA_BUNDLE",
    }
)
"""Where things are kept and how to reach them. A file that one of them names must be on every node."""

SYSTEMS = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "PWD", "HOSTNAME", "TERM", "LANG", "LANGUAGE", "TZ"),
        *("TMPDIR", "TEMP", "TMP", "VIRTUAL_ENV"),
        *("CC", "CXX", "CFLAGS", "CXXFLAGS", "LDFLAGS", "CPATH", "LIBRARY_PATH", "MAX_JOBS"),
        *("ALL_PROXY", "all_proxy", "SSL_CERT_DIR", "CURL_CA_BUNDLE"),
        # Ray Train sets a worker's own.
        *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"),
    }
)
"""What a process of this machine needs to run, to compile and to be one of a group."""

BEGINNINGS = (
    *("LC_", "LD_", "XDG_", "CONDA_", "PYTHON", "RAY_", "TUNE_", "GRPC_", "MALLOC_"),
    *("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "NUMEXPR_", "ONEDNN_", "DNNL_", "ATEN_"),
    *("TORCH", "PYTORCH_", "TRITON_", "NCCL_", "GLOO_", "UCX_", "FI_", "IBV_"),
    *("CUDA_", "CUDNN_", "CUBLAS_", "NVIDIA_", "HIP_", "ROCR_", "ROCM_", "HSA_"),
    *("DS_", "BNB_", "ACCELERATE_", "TRANSFORMERS_", "TOKENIZERS_", "SAFETENSORS_", "HF_", "TQDM_"),
    # How botocore asks, and the credentials that a container is given: they hold on this machine alone.
    *("AWS_CONTAINER_", "AWS_EC2_METADATA_", "AWS_METADATA_", "AWS_MAX_ATTEMPTS", "AWS_RETRY_MODE"),
    *("AWS_ENDPOINT_URL_", "AWS_STS_", "FSSPEC_"),
)
"""Of the names that the system and the numerical libraries read."""

Environment = dict[str, str | None]
"""Variables by name; ``None`` where there must be none."""


def forwarded(extra: Sequence[str]) -> Environment:
    """The driver's variables that workers get, and those that they must forget.

    Args:
        extra: Further names from ``ray.forward_env``.
    """
    handed: Environment = {name: os.environ[name] for name in sorted(NAMES | set(extra)) if name in os.environ}
    return handed | dict.fromkeys(withheld(os.environ, extra)) if _has_started_ray() else handed


def withheld(names: Iterable[str], extra: Sequence[str]) -> list[str]:
    """Of the driver's variables those that no worker is to read. Pure.

    Args:
        names: The driver's.
        extra: Further names from ``ray.forward_env``.
    """
    known = NAMES | SYSTEMS | set(extra)
    return sorted(name for name in names if name not in known and not name.startswith(BEGINNINGS))


def put_on(environment: Mapping[str, str | None]) -> None:
    """Let this process have the variables, before anything that reads them is imported."""
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _has_started_ray() -> bool:
    """Whether the connected Ray is this driver's own, so that its processes inherited the driver's variables."""
    node: Any = ray._private.worker._global_node
    return node is not None and bool(node.head)
