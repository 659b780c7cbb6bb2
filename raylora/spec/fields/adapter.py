"""Which adapter is trained, where it sits and through which bank."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from raylora.spec.fields.part import (
    Flag,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    Part,
    PositiveFloat,
    PositiveInt,
    Seed,
    Text,
)


class AdapterFields(Part):
    """A low-rank adapter: W stays frozen, W + (lora_alpha / lora_r) B A runs. `adapter: full` needs none of it."""

    adapter: Literal["lora", "vera", "adalora", "full"] = "lora"
    """Kind of adapter: `lora`, of which `use_rslora`, `use_dora`, `loraplus_lr_ratio` and `init_lora_weights` make rsLoRA, DoRA, LoRA+, PiSSA, OLoRA, LoftQ and EVA; `vera`, two trained vectors a layer that scale random matrices which all layers share; or `adalora`, an update B diag(E) A that gives its ranks to the layers where they count most. `full` is no adapter: all weights of the base train, in `dtype`, and a whole model is published. Methods are known by their names, too: `dora`, `rslora`, `loraplus`, `pissa`, `olora`, `eva`, `loftq` and `galore` are read as the fields that make them."""

    adapter_bank: Literal["packed", "peft"] = "packed"
    """What holds the adapter: Low-rank layers of raylora's, or PEFT's own modules."""

    lora_r: PositiveInt = 16
    """Rank of the update; at most the smaller side of each target matrix, unless `adapter: vera`, which trains so few values that 256 is usual. With `adapter: adalora` the rank that every layer starts with."""

    lora_alpha: PositiveFloat = 32.0
    """Scale of the update is `lora_alpha / lora_r`; twice the rank is the usual start. VeRA has no scale."""

    use_rslora: Flag = False
    """Rank-stabilised: the scale is `lora_alpha` over the square root of `lora_r` (rsLoRA)."""

    use_dora: Flag = False
    """Train a magnitude for each row of the weight beside the low-rank update of its direction (DoRA)."""

    loraplus_lr_ratio: PositiveFloat = 1.0
    """Learning rate of B, and of DoRA's magnitudes, as a multiple of that of A (LoRA+); 1 for the same."""

    init_lora_weights: Flag | Text = True
    """How the matrices start: `true` or `gaussian` for A at random and B zero, `pissa` for the principal singular vectors of the weight, `pissa_niter_16` for those found by 16 iterations instead of a whole decomposition, `olora` for its QR decomposition. A start from the weight stands beside a frozen negative one, so that the base stays as it is. `loftq` gives back what quantization took from the weight, as far as the rank goes: LoftQ with one iteration, since more of them would change the base; the adapter belongs to the base as quantized. `eva` takes for A the directions in which the layer's inputs are largest over the rows of the first four steps, and zero for B; all layers keep `lora_r`."""

    projection_prng_key: Seed = 0
    """Seed of the random matrices of `adapter: vera`, as PEFT makes them; they are not stored, adapters with one key share them."""

    d_initial: PositiveFloat = 0.1
    """Where the vector of `adapter: vera` that scales its rank starts; the other one starts at zero."""

    target_r: PositiveInt = 8
    """Ranks that `adapter: adalora` leaves a layer on average; below `lora_r`."""

    tinit: NonNegativeInt | None = None
    """Steps that `adapter: adalora` trains before it takes ranks away; where absent a tenth of all steps."""

    tfinal: NonNegativeInt | None = None
    """Steps that `adapter: adalora` trains at the end with the ranks it has come to; where absent three tenths of all steps."""

    deltaT: PositiveInt = 1
    """Steps from one time that `adapter: adalora` takes ranks away to the next."""

    orth_reg_weight: NonNegativeFloat = 0.5
    """Weight in the loss of `adapter: adalora` of how far its A and B are from being orthogonal; it is told as `train_orth` and is no part of `train_loss`."""

    lora_dropout: Fraction = 0.0
    """Probability of dropping an input of the adapter in training."""

    lora_target_modules: Text | Annotated[tuple[Text, ...], Field(min_length=1)] = "all-linear"
    """Names (or dotted suffixes) of the linear layers that get an adapter, a regular expression for the whole dotted name, or `all-linear` for all but the output head."""

    peft: dict[str, Any] | None = None
    """An adapter of PEFT's own instead: its `peft_type` and the fields of that type's config class, in PEFT's names, such as `{peft_type: LOHA, r: 8, alpha: 16, target_modules: [q_proj, v_proj]}`. Where it is given the other fields of an adapter stay at their defaults, and the adapter lies in PEFT's modules. Which types go where: [methods.md](methods.md)."""

    @property
    def bank(self) -> Literal["packed", "peft"]:
        """What holds the adapter, whether it was asked for or follows from `peft`."""
        return "peft" if self.peft is not None else self.adapter_bank

    @property
    def adapter_title(self) -> str:
        """What trains, in two words."""
        if self.peft is not None:
            return f"peft {self.peft.get('peft_type')}"
        return "all weights" if self.adapter == "full" else f"{self.adapter} r={self.lora_r}"
