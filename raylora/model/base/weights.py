"""The tensors of a base's files, read one at a time, and whether they are those of a model.

A folder of safetensors enters, and the model whose names they are to have; tensors by those names leave, or a
`ModelError`. Called by `load`, `base_weights`, merging and the preflight.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from raylora.errors import ModelError
from raylora.model.base.file_names import file_name, present_names
from raylora.model.base.folder import weight_files
from raylora.model.base.frozen_linear import FrozenLinear
from raylora.model.base.task_class import TWO_SIDES


class Weights:
    """The tensors of a folder's safetensors files by name, read (memory-mapped) one at a time.

    Args:
        folder: Local folder.
        model: Whose names they are to have: those that it was published with before, or without a head, are read as
            its own.

    Raises:
        ModelError: Two of them would be the same one of the model's.
    """

    def __init__(self, folder: Path, model: nn.Module | None = None) -> None:
        opened = [safe_open(path, framework="pt") for path in weight_files(folder)]
        places = {key: file for file in opened for key in [*file.keys()]}
        names = present_names(model, places)
        _refuse_doubled(model, names, folder)
        self._files = {name: (places[key], key) for key, name in names.items()}

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def read(self, name: str) -> Tensor:
        """Return one tensor on the CPU in the dtype of the file."""
        file, key = self._files[name]
        tensor: Tensor = file.get_tensor(key)
        return tensor


def _refuse_doubled(model: nn.Module | None, names: Mapping[str, str], folder: Path) -> None:
    """Which of two was meant, nobody can tell; what the model has no use for is passed over."""
    own = {file_name(name) for name, _ in model.named_parameters()} if model is not None else set()
    keys: dict[str, list[str]] = {}
    for key, name in names.items():
        keys.setdefault(name, []).append(key)
    for name, doubled in keys.items():
        if len(doubled) > 1 and name in own:
            raise ModelError(
                f"base_model: {folder.name} has two tensors for {name!r} of {type(model).__name__}: "
                f"{' and '.join(map(repr, doubled))}. Allowed: one. Take the other out, or save the model "
                "once with transformers' save_pretrained and use that folder"
            )


def check_weights(model: PreTrainedModel, weights: Weights, folder: Path) -> None:
    """Refuse files that are not this model's.

    Args:
        model: From :func:`base_on_meta`.
        weights: Of the folder, with the model's names.
        folder: For the message.

    Raises:
        ModelError: They lack tensors that the model has, or have two different ones for weights that it ties.
    """
    # What takes a gradient beside frozen layers is a head or an adapter, which no file has; else it is the model's own.
    is_frozen = any(isinstance(module, FrozenLinear) for module in model.modules())
    held = [name for name, parameter in model.named_parameters() if not (is_frozen and parameter.requires_grad)]
    missing = [name for name in held if file_name(name) not in weights and not _is_tied(model, name)]
    if missing:
        raise ModelError(
            f"base_model: {folder.name} lacks {len(missing)} of the tensors of {type(model).__name__}, first "
            f"{file_name(missing[0])!r}; save it once with transformers' save_pretrained and use that folder"
        )
    if pair := _two_for_one(model, weights):
        field = "set tie_word_embeddings: false in config.json"
        if model.config.model_type in TWO_SIDES:  # T5's says whether what goes into a head that is tied is scaled
            field = "set scale_decoder_outputs: false in config.json and multiply that tensor by d_model ** -0.5"
        raise ModelError(
            f"base_model: config.json of {folder.name} says that {' and '.join(pair)} are one, and its files have two "
            f"that differ; transformers before 5 drops the latter, newer ones keep it. Take {pair[1]} out of the files "
            f"if it is not meant, or else {field}"
        )


def _two_for_one(model: PreTrainedModel, weights: Weights) -> tuple[str, str] | None:
    """Embedding and output head, where they are tied and the files have two different ones."""
    head = model.get_output_embeddings()
    tied = [
        (f"{path}.weight", module)
        for path, module in model.named_modules()
        if head is not None and getattr(module, "weight", None) is head.weight
    ]
    found = {module is head: name for name, module in reversed(tied) if name in weights}
    if len(found) < 2:
        return None
    embedded, put_out = weights.read(found[False]), weights.read(found[True])
    return None if torch.equal(embedded, put_out.to(embedded.dtype)) else (found[False], found[True])


def _is_tied(model: PreTrainedModel, name: str) -> bool:
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    return head is not None and model.get_parameter(name) is getattr(embedding, "weight", None) is head.weight
