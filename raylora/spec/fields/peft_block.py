"""The ``peft:`` block as far as it can be told without PEFT: its shape, and what it does not go with.

A run's fields enter; why they do not fit, or nothing, leaves. Whether PEFT takes the block is asked where the base is
known, by ``model.peft_trial``. Called by `rules`.
"""

from __future__ import annotations

from raylora.spec.fields.adapter import AdapterFields
from raylora.spec.fields.run import RunFields
from raylora.spec.text.show import show

OWN = tuple(name for name in AdapterFields.model_fields if name not in ("peft", "adapter_bank"))
"""Fields of raylora's own adapters."""

DRAW_LAYERS = ("LOHA", "LOKR")
"""Types whose `module_dropout` leaves whole layers out of a pass; that of others leaves out parts of each."""

WHY_NOT_ZERO3 = "whose engine partitions whatever lies in the model, and so PEFT's modules"


def why_no_block(run: RunFields) -> str | None:
    """Say what is wrong with a ``peft:`` block, all of it; None where nothing is or there is none.

    Args:
        run: Its `peft`, the other fields of an adapter, and the strategy.
    """
    if run.peft is None:
        return None
    wrong = [_untyped(run.peft.get("peft_type")), _beside(run)]
    if run.is_under_zero3:
        wrong.append(f"peft does not run under deepspeed stage 3, {WHY_NOT_ZERO3}; use strategy: fsdp or ddp")
    wrong.append(_uneven(run))
    return "; ".join(each for each in wrong if each) or None


def _uneven(run: RunFields) -> str | None:
    """Each worker draws its layers, and DeepSpeed's sums of gradients would not be of the same ones."""
    block, place = run.peft or {}, run.distributed
    drawn = block.get("module_dropout")
    if not drawn or block.get("peft_type") not in DRAW_LAYERS or place.strategy != "deepspeed":
        return None
    return (
        f"got module_dropout: {show(drawn)}, which leaves other layers out on each worker, while deepspeed stage "
        f"{place.zero_stage} sums gradients that all of them have; use strategy: fsdp or ddp, or module_dropout: 0"
    )


def _untyped(peft_type: object) -> str | None:
    if isinstance(peft_type, str) and peft_type:
        return None
    got = "none" if peft_type is None else show(peft_type)
    return (
        f"peft_type: got {got}; allowed: a type of PEFT's, such as {{peft_type: LOHA, r: 8, target_modules: [q_proj]}}"
    )


def _beside(run: AdapterFields) -> str | None:
    """The block has all fields of its adapter; what another field said of it would be passed over in silence."""
    written = [name for name in OWN if getattr(run, name) != AdapterFields.model_fields[name].default]
    if not written:
        return None
    given = ", ".join(f"{name}: {show(getattr(run, name))}" for name in written)
    return (
        f"got {given} beside it, of raylora's own adapters; take it out, and write PEFT's own fields into the block, such "
        "as r and target_modules"
    )
