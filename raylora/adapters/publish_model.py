"""A base that was trained becomes a model's folder in the run's store, as `save_pretrained` would lay it out.

A trainee enters, and the folder of what it was loaded from; the URI leaves. Weights are gathered one by one and written
file by file: no rank holds more than a file of them beside its own part. Called by the runtime, on every rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from raylora.adapters.model_files import copy_model_files
from raylora.adapters.shards import write_shards
from raylora.errors import RunFailedError
from raylora.store.contract import Store
from raylora.store.files import kind_of
from raylora.store.manifest import publish
from raylora.train.trainee import Trainee

FOLDER = "model"

MAX_SHARD_BYTES = 2 * 10**9
"""Of a weight file, which is in memory as a whole while it is written."""


def publish_model(
    store: Store, trainee: Trainee, base: Path, about: Mapping[str, Any], chat_template: str | None = None
) -> str:
    """Write a trained base into a run's store; a collective call.

    Args:
        store: The run's own store.
        trainee: Whose base trained.
        base: Folder of what it was loaded from, for config and tokenizer.
        about: Lineage, kept in the manifest.
        chat_template: Jinja text in place of the base's own.

    Returns:
        The URI of the model's folder, on every rank.

    Raises:
        RunFailedError: A weight is not finite; on every rank.
        UnusableStoreError: A disk or the store takes no more; on every rank.
        StoreError: It could not be written; on every rank.
    """
    held = _held(trainee.model)
    gathered = (_whole(trainee, tensor) for tensor in held.values())
    if trainee.slot_ranks.rank != 0:
        for _ in gathered:
            pass

    def write() -> str:
        try:
            with TemporaryDirectory(prefix="raylora-model-") as name:
                _write(Path(name), held, gathered, trainee.strategy.whole_bytes)
                copy_model_files(base, Path(name), _word(trainee.model.dtype), chat_template)
                return publish(store, FOLDER, {path.name: path for path in sorted(Path(name).iterdir())}, about)
        except (OSError, SafetensorError) as error:
            raise kind_of(error)(
                f"{store.uri_of(FOLDER)}: the model could not be written ({error}). It is laid out in this machine's "
                "folder for temporary files first: make room there or set TMPDIR, then resume the run"
            ) from error
        finally:
            for _ in gathered:  # the other ranks gather all of it, whatever went wrong here
                pass

    return trainee.slot_ranks.store(write)


def _held(model: nn.Module) -> dict[str, Tensor]:
    """What a model's files hold: each parameter once, and the buffers that are saved."""
    parameters = dict(model.named_parameters())
    tied = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    saved = {name: tensor for name, tensor in model.state_dict().items() if name not in tied}
    return {**parameters, **saved}


def _whole(trainee: Trainee, tensor: Tensor) -> Tensor:
    whole = trainee.strategy.full(tensor) if isinstance(tensor, nn.Parameter) else tensor
    return whole.detach()


def _write(folder: Path, held: Mapping[str, Tensor], gathered: Iterator[Tensor], whole_bytes: Any) -> None:
    sizes = {
        name: whole_bytes(tensor) if isinstance(tensor, nn.Parameter) else tensor.nbytes
        for name, tensor in held.items()
    }

    def read(name: str) -> Tensor:
        whole = next(gathered).to("cpu", copy=True).contiguous()  # a file's tensors may not share memory
        if not bool(torch.isfinite(whole).all()):
            raise RunFailedError(
                f"model: {name} has values that are not finite; it was not kept. Lower learning_rate, or set "
                "max_grad_norm"
            )
        return whole

    write_shards(folder, sizes, MAX_SHARD_BYTES, read)


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
