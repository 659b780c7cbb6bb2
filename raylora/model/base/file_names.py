"""Names of tensors in a model and in its files: packed ones, wrapped ones, and those of models published before.

The first BERTs have others for the values of a norm, and vision transformers for their layers; what transformers calls
them today is its own to say. Called by `weights` and by merging.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, apply_renamings

WRAPPED = (".base_layer.", ".original_module.")
"""What PEFT's modules call the module of the base whose place they have taken."""


def file_name(name: str) -> str:
    """The checkpoint's name of a parameter: a packed row stands for the layer's weight, what PEFT wraps for itself.

    Args:
        name: In the model.
    """
    for wrapped in WRAPPED:
        name = name.replace(wrapped, ".")
    return name.removesuffix("packed") + "weight" if name.endswith(".packed") else name


def present_names(model: nn.Module | None, names: Iterable[str]) -> dict[str, str]:
    """What a model calls the tensors of its files, by their names there.

    Args:
        model: Its parameters may be on the meta device. Names that it was published with before, or without a head,
            become its own. Without a model, or where it is none of transformers', names stay.
        names: In the files; all of them.
    """
    name_of = _present_name_of(model)
    found = {name: name_of(name) for name in names}
    trunk = getattr(model, "base_model_prefix", "")
    # Where encoder and decoder stand side by side, nothing is under that name.
    if hasattr(model, trunk) and not any(present.startswith(f"{trunk}.") for present in found.values()):
        return {name: f"{trunk}.{present}" for name, present in found.items()}
    return found


def _present_name_of(model: nn.Module | None) -> Callable[[str], str]:
    """What gives the present name of a tensor; one that the model has is left as it is."""
    if not isinstance(model, PreTrainedModel):
        return lambda name: name
    own = {file_name(name) for name, _ in model.named_parameters()}
    renamings = [each for each in get_model_conversion_mapping(model) if isinstance(each, WeightRenaming)]
    return lambda name: name if name in own else apply_renamings(name, renamings)
