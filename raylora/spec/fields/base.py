"""Which base model, and how its frozen weights are held."""

from __future__ import annotations

from typing import Literal

from raylora.spec.fields.part import Address, Flag, Part


class BaseFields(Part):
    """The frozen model that adapters are trained on."""

    base_model: Address
    """Hub id, local folder, `.gguf` file, `package:<package>/<file>` inside an installed Python package, or `s3://` folder; the model is a decoder-only text model, or, for a `task_type` with a head, an encoder, or, for `seq_2_seq_lm`, a T5."""

    base_model_revision: str | None = None
    """Commit, tag or branch of a hub id; pin a commit to make runs repeatable."""

    load_in_4bit: Flag = False
    """Hold the linear layers of the base in 4 bits (QLoRA)."""

    load_in_8bit: Flag = False
    """Hold the linear layers of the base in 8 bits, one scale per row."""

    bnb_4bit_quant_type: Literal["nf4", "fp4"] = "nf4"
    """Code of the 4-bit values: NormalFloat (`nf4`) or a 4-bit float (`fp4`)."""

    bnb_4bit_use_double_quant: Flag = True
    """Quantize the scales of the 4-bit blocks too; saves about 0.37 bit a parameter."""

    bnb_4bit_quant_storage: Literal["auto", "float32", "bfloat16", "float16", "uint8"] = "auto"
    """Dtype under which the packed bytes are stored. `auto` takes the compute dtype, which every strategy can shard; `uint8` is refused where the base is sharded."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute dtype and dtype of what is not quantized. `auto`: bfloat16 where the device has units for it, float32 otherwise."""

    gradient_checkpointing: Flag = False
    """Recompute each block's activations in the backward pass instead of keeping them."""

    @property
    def quantization(self) -> Literal["none", "int8", "nf4", "fp4"]:
        """The one word for how the base is held."""
        if self.load_in_4bit:
            return self.bnb_4bit_quant_type
        return "int8" if self.load_in_8bit else "none"
