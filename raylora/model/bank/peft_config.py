"""A ``peft:`` block -> the config of PEFT's own class for its type, or every problem with the block at once.

Called by PEFT's bank and by the trial that the driver makes before anything starts.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner

from raylora.errors import ModelError

OURS = {
    "base_model_name_or_path": "base_model says it",
    "revision": "base_model_revision says it",
    "inference_mode": "it would train nothing",
    "auto_mapping": "PEFT fills it in",
    "peft_version": "PEFT fills it in",
    "runtime_config": "it is of no adapter's file",
}
"""Fields of every config that are no user's, and why."""

REFUSED = {
    "ADALORA": "its ranks are taken away between steps, which PEFT leaves to the trainer; write adapter: adalora",
    "ADAMSS": "how much it trains follows from clusters of the weights' rows, which are known once the base is loaded",
    "GLORA": "it takes layers of the class torch.nn.Linear alone, and those of the frozen base are of one of their own",
    "XLORA": "it mixes adapters that are trained already",
    "POLY": "it asks each row for the number of its task, and rows here have none",
    "LILY": "it averages its router over all tokens of a batch, so a row's loss would depend on those beside it",
    "SHADOW": "it trains a second, smaller model beside the base",
}
"""Types that PEFT's injection alone does not make whole, and why."""

VIRTUAL_TOKENS = (
    "it puts tokens of its own before each row or into its attention, and rows here lie one after the other without "
    "room for any; take a type that adapts layers"
)

FROM_ROWS = ("corda", "eva", "lora_ga")
"""Values of LoRA's `init_lora_weights` with which PEFT starts from rows, by a call of the user's own."""

Range = tuple[Callable[[float], bool], str]
"""Whether a number may be, and what is allowed in words."""

SCALE: Range = (lambda value: 0 < value < math.inf, "a number above 0")
DROPOUT: Range = (lambda value: 0 <= value < 1, "a number of at least 0 and below 1")
RANK: Range = (lambda value: 1 <= value < math.inf and value == int(value), "a whole number of at least 1")


def peft_config(block: Mapping[str, Any]) -> PeftConfig:
    """Make the config that a block asks for.

    Args:
        block: `peft_type` and fields of that type's config class.

    Raises:
        ModelError: All problems at once: an unknown type or one that cannot be trained here, unknown fields, fields
            that are not the user's, a scale, dropout or rank out of its range, and what PEFT says of the values of the
            others.
    """
    name = str(block.get("peft_type"))
    known = {str(kind.value): config_class for kind, config_class in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    if name not in known:
        nearest = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.0)
        raise ModelError(
            f"peft: peft_type: got {name!r}, which this PEFT does not have; nearest: {', '.join(nearest)}. It has "
            f"{', '.join(sorted(known))}"
        )
    if (reason := why_not(name)) is not None:
        raise ModelError(f"peft: peft_type: {name} cannot be trained here: {reason}")
    values = {field: copy.deepcopy(value) for field, value in block.items() if field != "peft_type"}
    return _made(name, known[name], values)


def why_not(name: str) -> str | None:
    """Why a type of PEFT's cannot be trained here, whatever its fields and the base; None where it may.

    Args:
        name: One that PEFT has.
    """
    if name in REFUSED:
        return REFUSED[name]
    tuner = next(each for kind, each in PEFT_TYPE_TO_TUNER_MAPPING.items() if kind.value == name)
    if isinstance(tuner, type) and issubclass(tuner, BaseTuner):
        return None
    return VIRTUAL_TOKENS


def is_held(name: object) -> bool:
    """Whether PEFT's modules of a type can be put into a base here.

    Args:
        name: Of any type, also one that PEFT does not have.
    """
    return name in [kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING] and why_not(str(name)) is None


def _made(name: str, config_class: type[PeftConfig], values: dict[str, Any]) -> PeftConfig:
    fields = {field.name for field in dataclasses.fields(config_class) if field.init} - {"peft_type"}
    problems = list(_misplaced(name, fields, values))
    try:
        config = config_class(**{field: value for field, value in values.items() if field in fields})
    except Exception as error:  # each class of PEFT's checks itself in its own way
        problems.append(f"peft: PEFT refuses these fields of {name} ({type(error).__name__}: {error})")
    if problems:
        raise ModelError("\n".join(problems))
    config.task_type = "CAUSAL_LM"
    return config


def _misplaced(name: str, fields: set[str], values: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the fields by themselves."""
    for field, value in values.items():
        if field in OURS:
            yield f"peft: {field} is not set here, {OURS[field]}; remove it"
        elif field == "task_type" and value != "CAUSAL_LM":
            yield f"peft: task_type: got {value!r}; allowed: CAUSAL_LM, which it is anyway; remove it"
        elif field == "layer_replication" and value:
            yield "peft: layer_replication copies layers of the frozen base, which stays as it is; remove it"
        elif field not in fields:
            nearest = difflib.get_close_matches(field, sorted(fields - OURS.keys()), n=1, cutoff=0.0)
            yield f"peft: {field} is no field of {name}; nearest: {', '.join(nearest)}"
        elif field == "generator_seed" and value is not None:
            yield (
                "peft: generator_seed draws PVERA's noise from a generator of its own, which draws other noise where "
                "activations are computed again and where a run is resumed; remove it: noise follows from seed"
            )
        elif field == "init_lora_weights" and str(value).startswith(FROM_ROWS):
            yield (
                f"peft: init_lora_weights: PEFT starts {value} from rows, by a call that a run does not make; use "
                "raylora's own init_lora_weights: eva without peft, or init_lora_weights: true"
            )
        elif (allowed := _range_of(name, field)) is not None:
            yield from _out_of_range(field, value, *allowed)


def _range_of(name: str, field: str) -> Range | None:
    """What a field's number, or those of its pattern, may be; PEFT takes others, or finds out on the base alone."""
    if field.endswith("dropout"):
        return DROPOUT
    if field in ("alpha", "lora_alpha", "psoft_alpha", "randlora_alpha", "alpha_pattern", "scaling"):
        return SCALE
    # OFT's r may be 0 beside its block size, and OSF's ranks may be fractions.
    return RANK if field in ("r", "rank_pattern") and name not in ("OFT", "OSF") else None


def _out_of_range(field: str, value: object, holds: Callable[[float], bool], words: str) -> Iterator[str]:
    """What is wrong with a number, or with one of a pattern; that nothing is given is the class's affair."""
    if isinstance(value, Mapping):
        for pattern, each in value.items():
            yield from _out_of_range(f"{field}: {pattern}", each, holds, words)
    elif value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not holds(value)):
        yield f"peft: {field}: got {value!r}; allowed: {words}"
