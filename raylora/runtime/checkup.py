"""What of this machine works for a run, found by trying; ``raylora doctor`` prints it.

Each check is one small function: nothing enters, a finding leaves, and no check stops the others. Nothing is left
behind, and what cannot be tried without a configuration says so.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import ray
import torch
import torch.distributed as dist

from raylora.model.base.dtype import cpu_has_bf16
from raylora.runtime.cluster.cluster import knock
from raylora.spec.fields.place import TrackingSpec
from raylora.spec.text.secrets import without_secret
from raylora.store.blob import open_store
from raylora.store.home import default_store_uri
from raylora.store.s3 import bucket_names, credential_source
from raylora.tracking.address import sqlite_file, tracking_uri
from raylora.tracking.start import check_answers

State = Literal["ok", "limited", "missing"]

NF4_ERROR = 0.1
"""Of weights drawn from a normal distribution NF4 misses 0.07 on average."""


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Args:
        part: What was tried.
        state: ``ok``, ``limited`` (a run goes without it, or it was not tried) or ``missing`` (a run that asks for it
            fails).
        text: What was seen.
    """

    part: str
    state: State
    text: str


def checkup() -> list[Finding]:
    """Try every part in turn."""
    return [tried(part) for part in CHECKS]


def tried(part: str) -> Finding:
    """Try one part.

    Args:
        part: One of ``CHECKS``.
    """
    try:
        state, text = CHECKS[part]()
    except Exception as error:  # of whichever library was tried
        state, text = "missing", f"{type(error).__name__}: {error}".splitlines()[0]
    return Finding(part, state, text)


def _machine() -> tuple[State, str]:
    return "ok", f"Python {platform.python_version()}, {os.cpu_count()} cores, torch {torch.__version__}"


def _gpu() -> tuple[State, str]:
    if not torch.cuda.is_available():
        return "limited", "no CUDA device: runs go on the CPU with gloo"
    names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    return "ok", f"{names}; nccl"


def _bf16() -> tuple[State, str]:
    if torch.cuda.is_available() and torch.cuda.is_bf16_supported():
        return "ok", "the GPU computes in bfloat16"
    if cpu_has_bf16():
        return "ok", "the CPU has bfloat16 units"
    return "limited", "no bfloat16 units: dtype auto means float32"


def _bitsandbytes() -> tuple[State, str]:
    from raylora.model.base.quant import QuantFormat  # here, so that the other checks do without bitsandbytes

    device = "cuda" if torch.cuda.is_available() else "cpu"
    form, weight = QuantFormat("nf4", True, torch.float32), torch.randn(64, 64, device=device)
    error = float((form.unpack(form.pack(weight), (64, 64), torch.float32) - weight).abs().mean())
    version = importlib.metadata.version("bitsandbytes")
    found = f"{version}: NF4 on {device}, mean error {error:.3f} of a normal weight"
    if not error < NF4_ERROR:
        return "missing", f"{found}, where 0.07 is due"
    pages = "" if device == "cuda" else "; paged optimizers need CUDA, torch's AdamW runs instead"
    return "ok", f"{found}{pages}"


def _deepspeed() -> tuple[State, str]:
    from raylora.strategy.deepspeed import Zero3  # it says which device before it imports deepspeed

    device = "cuda" if torch.cuda.is_available() else "cpu"
    version = importlib.metadata.version("deepspeed")
    with _group_of_one(device):
        block, strategy = torch.nn.Linear(64, 64, bias=False, device=device), Zero3()
        (parameter,) = block.parameters()
        weight = parameter.detach().clone()
        strategy.place_block(block)
        if parameter.numel() or not torch.equal(strategy.full(parameter), weight):
            return "missing", f"{version}: ZeRO-3 does not give back the weights that it partitioned on {device}"
    return "ok", f"{version}: ZeRO-3 partitions weights on {device} and gathers them again"


@contextmanager
def _group_of_one(device: str) -> Iterator[None]:
    """A process group of this process alone, without a port."""
    store = dist.HashStore()  # type: ignore[attr-defined]
    dist.init_process_group("nccl" if device == "cuda" else "gloo", store=store, rank=0, world_size=1)
    os.environ["LOCAL_RANK"] = "0"  # DeepSpeed looks it up
    try:
        yield
    finally:
        del os.environ["LOCAL_RANK"]
        dist.destroy_process_group()


def _ray() -> tuple[State, str]:
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        return "ok", f"{ray.__version__}: imported; starts on this machine for each run"
    if not knock(address):
        return (
            "limited",
            f"{ray.__version__}: imported; RAY_ADDRESS={address} names no host and port, and was not tried",
        )
    return "ok", f"{ray.__version__}: imported; something listens at RAY_ADDRESS={address}"


def _storage() -> tuple[State, str]:
    uri = default_store_uri()
    open_store(uri).check_writable()
    return "ok", f"{uri} can be written"


def _s3() -> tuple[State, str]:
    version = importlib.metadata.version("s3fs")
    source = credential_source()
    if source is None:
        return "limited", f"s3fs {version}; no credentials: no AWS_ACCESS_KEY_ID, no profile in a file, no role"
    names = bucket_names()
    endpoint = without_secret(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "AWS")
    found = f"s3fs {version}; {endpoint} takes the credentials ({source})"
    if names is None:
        return "limited", f"{found}, and does not let them list buckets: `raylora validate` tries a run's bucket"
    return "ok", f"{found} and lists {len(names)} bucket(s)"


def _mlflow() -> tuple[State, str]:
    uri, version = tracking_uri(TrackingSpec()), importlib.metadata.version("mlflow")
    database = sqlite_file(uri)
    if database is not None and not database.exists():
        tempfile.TemporaryFile(dir=next(folder for folder in database.parents if folder.exists())).close()
        return "ok", f"{version}; the first run makes {without_secret(uri)}, where files can be written"
    check_answers(uri)
    return "ok", f"{version}; {without_secret(uri)} answers"


CHECKS: dict[str, Callable[[], tuple[State, str]]] = {
    "machine": _machine,
    "GPU": _gpu,
    "bfloat16": _bf16,
    "bitsandbytes": _bitsandbytes,
    "DeepSpeed": _deepspeed,
    "Ray": _ray,
    "storage": _storage,
    "S3": _s3,
    "MLflow": _mlflow,
}
