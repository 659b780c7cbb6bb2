"""Which layers get an adapter: a spec's words -> dotted module names, with PEFT's meaning of the words.

A model (its parameters may be on the meta device) and a spec enter; names, or every problem at once, leave.
Called by the builder of a run, the estimate and `inspect`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import cast

import regex
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from raylora.errors import ModelError
from raylora.model.adapter.rank_limit import rank_too_large
from raylora.model.base.head_seat import HeadSeat, head_values
from raylora.spec.fields.adapter import AdapterFields
from raylora.spec.fields.run import RunFields
from raylora.spec.text.pattern import matching

ALL_LINEAR = "all-linear"

REGEX_TIMEOUT_S = 2.0
"""Longest search over all names. They are short: only a pattern that backtracks without end takes longer."""


def match_targets(model: PreTrainedModel, spec: RunFields) -> list[str]:
    """Name the linear layers that get an adapter; where the base itself trains all but the head, GPT-2's Conv1D too.

    Args:
        model: The base; its parameters may be on the meta device, its linear layers quantized.
        spec: `lora_target_modules` and `lora_r` count, or `galore_rank`.

    Returns:
        Dotted names in the model's order.

    Raises:
        ModelError: All problems at once: words that match nothing, layers that cannot be adapted, a rank too large.
    """
    names, problems = find_targets(model, spec)
    refuse(problems)
    return names


def find_targets(model: PreTrainedModel, spec: RunFields) -> tuple[list[str], list[str]]:
    """As `match_targets`, but what is wrong is handed back beside what was matched.

    Args:
        model: The base.
        spec: `lora_target_modules` and `lora_r` count, or `galore_rank`.

    Returns:
        Dotted names of linear layers, and the problems, a sentence each; nothing of an adapter of PEFT's own, whose
        `target_modules` PEFT matches itself.
    """
    if spec.peft is not None:
        return [], []
    if spec.adapter == "full":
        names = _all_linear(model)
        too_large = _projection_too_large(model, names, spec.galore_rank) if spec.optimizer == "galore_adamw" else None
        return names, [too_large] if too_large else []
    asked = spec.lora_target_modules
    is_regex = isinstance(asked, str)
    modules = {name: module for name, module in model.named_modules() if name}
    matched: set[str] = set()
    problems: list[str] = []
    for entry in (asked,) if isinstance(asked, str) else asked:
        try:
            found = {name: modules[name] for name in _found(entry, model, modules, is_regex)}
        except (regex.error, TimeoutError) as error:
            problems.append(f"lora_target_modules: {entry!r} cannot be matched ({error}). Write a list of names.")
            continue
        problem = _unadaptable(entry, found, model) if found else _no_match(entry, model, is_regex)
        problems += [f"lora_target_modules: {problem}"] if problem else []
        matched |= found.keys()
    layers = {name: m for name, m in modules.items() if name in matched and isinstance(m, nn.Linear)}
    shapes = {name: (layer.out_features, layer.in_features) for name, layer in layers.items()}
    ranks = {} if spec.adapter == "vera" else dict.fromkeys(layers, spec.lora_r)
    too_large = rank_too_large("lora_r", ranks, shapes)
    return list(layers), problems + ([too_large] if too_large else [])


def refuse(problems: Sequence[str]) -> None:
    """Refuse targets with problems.

    Args:
        problems: What `find_targets` hands back.

    Raises:
        ModelError: There are any.
    """
    if problems:
        raise ModelError("\n".join(problems))


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """All linear layers of a model by dotted name, its output head included."""
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}


def _found(entry: str, model: PreTrainedModel, modules: Mapping[str, nn.Module], is_regex: bool) -> list[str]:
    """Names that one entry means; Source: PEFT's `check_target_module_exists`."""
    if is_regex and entry == ALL_LINEAR:
        return _all_linear(model)
    if is_regex:
        return matching(entry, modules, REGEX_TIMEOUT_S)
    return [name for name in modules if name == entry or name.endswith(f".{entry}")]


def _all_linear(model: PreTrainedModel) -> list[str]:
    """All linear layers, also those stored transposed, but the output head."""
    head = model.get_output_embeddings()
    return [name for name, m in model.named_modules() if isinstance(m, (nn.Linear, Conv1D)) and m is not head]


def _projection_too_large(model: PreTrainedModel, names: Sequence[str], rank: int) -> str | None:
    """GaLore would keep all of a weight's moments, and what projects them beside."""
    shapes: dict[str, tuple[int, int]] = {}
    for name in names:
        layer = model.get_submodule(name)
        weight = cast(Tensor, layer.weight)
        outputs, inputs = weight.shape if isinstance(layer, nn.Linear) else reversed(weight.shape)
        shapes[name] = (outputs, inputs)
    return rank_too_large("galore_rank", dict.fromkeys(names, rank), shapes, else_do="")


def _unadaptable(entry: str, found: Mapping[str, nn.Module], model: PreTrainedModel) -> str | None:
    """Why what an entry matched cannot be adapted; ``None`` where it can."""
    head = model.get_output_embeddings()
    for name, module in found.items():
        if module is head:
            return (
                f"{entry!r} matches the output head {name}, which gets no adapter: its logits are computed in pieces "
                f"and it often shares its weight with the embedding. Leave it out; {ALL_LINEAR} does."
            )
        if isinstance(module, Conv1D):
            return (
                f"{entry!r} matches {name} of {type(model).__name__}, a Conv1D (a linear layer stored transposed, "
                "as in GPT-2). Allowed: nn.Linear. Use a model built of nn.Linear, such as GPT-NeoX or Llama."
            )
    if not any(isinstance(module, nn.Linear) for module in found.values()):
        name, module = next(iter(found.items()))
        if isinstance(module, HeadSeat):
            return f"{entry!r} matches the head {name}, which is trained whole. Leave it out; {ALL_LINEAR} does."
        return (
            f"{entry!r} matches no linear layer, only {name} ({type(module).__name__}). Allowed: names of linear "
            "layers; run raylora inspect"
        )
    return None


def _no_match(entry: str, model: PreTrainedModel, is_regex: bool) -> str:
    name, layers = type(model).__name__, list(linear_layers(model))
    if is_regex and entry == ALL_LINEAR:
        return f"{name} has no linear layers beside its head; run raylora inspect"
    candidates = layers if "." in entry and not is_regex else list(dict.fromkeys(n.rpartition(".")[2] for n in layers))
    nearest = difflib.get_close_matches(entry, candidates, n=1, cutoff=0.0)
    text = f"{entry!r} matches no module of {name}; nearest: {', '.join(nearest)}; run raylora inspect"
    if is_regex:
        text += f". A text is a regular expression for the whole dotted name; for names write a list, [{nearest[0]}]"
    return text


def adapter_values(model: PreTrainedModel, spec: RunFields) -> int:
    """Values that a run trains.

    Args:
        model: The base, filled or on the meta device.
        spec: Its rank, targets and kind count.

    Raises:
        ModelError: The targets match nothing, or PEFT cannot put its adapter on this base.
    """
    if spec.peft is not None:
        from raylora.model.bank.peft_trial import peft_trial  # seconds of import that only PEFT's own adapters need

        return peft_trial(model, spec.peft).num_values
    if spec.adapter == "full":
        return sum(parameter.numel() for parameter in model.parameters())
    layers = [cast(nn.Linear, model.get_submodule(name)) for name in match_targets(model, spec)]
    of_layers = sum(layer_values(spec, layer.out_features, layer.in_features) for layer in layers)
    return of_layers + head_values(model)


def layer_values(spec: AdapterFields, num_outputs: int, num_inputs: int) -> int:
    """Values that a run's adapter trains on one linear layer: both matrices, and DoRA's magnitude for each output.

    Of VeRA they are one for each rank and each output; AdaLoRA has one for each rank beside the matrices.

    Args:
        spec: `adapter`, `lora_r` and `use_dora` count.
        num_outputs: Output features of the layer.
        num_inputs: Its input features.
    """
    if spec.adapter == "vera":
        return spec.lora_r + num_outputs
    if spec.adapter == "adalora":
        return spec.lora_r * (num_outputs + num_inputs + 1)
    return spec.lora_r * (num_outputs + num_inputs) + (num_outputs if spec.use_dora else 0)
