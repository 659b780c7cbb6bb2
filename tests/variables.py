"""Variables that each test, and each process it starts, begins with."""

from __future__ import annotations

import os

VARIABLES = {
    "OMP_NUM_THREADS": "1",  # processes share few cores: spinning threads of one slow all the others
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",  # no test reaches outside this machine
    "HF_DATASETS_OFFLINE": "1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_CONFIG_FILE": os.devnull,
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def set_variables() -> None:
    """Set them before torch or Ray is imported; a value from outside wins."""
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
