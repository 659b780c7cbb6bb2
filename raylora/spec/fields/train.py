"""How what trains is optimised, evaluated and saved."""

from __future__ import annotations

from typing import Literal

from raylora.spec.fields.part import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    Part,
    PositiveFloat,
    PositiveInt,
    Seed,
    Text,
)


class TrainFields(Part):
    """Objective, steps, optimizer, schedule, evaluation and checkpoints."""

    rl: Literal["dpo", "ipo", "orpo", "kto", "reward"] | None = None
    """What is learned from pairs of answers (datasets of type `preference`): `dpo` and `ipo` against the base without the adapter, `orpo` without a reference, `reward` a number for each text that is higher for the better one (with `task_type: seq_cls`); or with `kto` from single answers that are desirable or not (`unpaired_preference`), against the base too; supervised fine-tuning where absent."""

    rl_beta: PositiveFloat = 0.1
    """How much a preference counts; under `dpo`, `ipo` and `kto` the larger, the closer to the base."""

    kto_desirable_weight: PositiveFloat = 1.0
    """`kto`: what a desirable answer's loss weighs; all of them are best 1 to 4/3 of all undesirable ones."""

    kto_undesirable_weight: PositiveFloat = 1.0
    """`kto`: what an undesirable answer's loss weighs."""

    micro_batch_size: PositiveInt = 1
    """Rows (or bins) per worker in one forward pass."""

    gradient_accumulation_steps: PositiveInt = 1
    """Forward passes per optimizer step."""

    num_epochs: PositiveInt = 1
    """Passes over the training rows; `max_steps` ends earlier."""

    max_steps: PositiveInt | None = None
    """Optimizer steps after which training ends, whatever `num_epochs` says; more than the epochs hold starts further epochs."""

    learning_rate: PositiveFloat = 2e-4
    """Peak learning rate."""

    lr_scheduler: Literal["linear", "cosine", "constant", "warmup_stable_decay"] = "cosine"
    """Shape of the learning rate after warm-up."""

    warmup_steps: NonNegativeInt | None = None
    """Optimizer steps of linear warm-up; `warmup_ratio` of all steps where absent."""

    warmup_ratio: Fraction = 0.0
    """Fraction of all steps spent in linear warm-up."""

    decay_ratio: Fraction = 0.1
    """Fraction of all steps spent in the final decay of `warmup_stable_decay`."""

    optimizer: Literal["adamw_torch", "adamw_bnb_8bit", "paged_adamw_32bit", "paged_adamw_8bit", "galore_adamw"] = (
        "adamw_torch"
    )
    """AdamW of torch (fused where it exists), of bitsandbytes (8-bit; paged on CUDA alone, elsewhere a warning says that torch's runs instead), or GaLore's, which under `adapter: full` keeps the moments of each linear layer at rank `galore_rank`; the extra `galore` installs it."""

    galore_rank: PositiveInt = 128
    """Rank to which `optimizer: galore_adamw` projects the gradient of each linear layer but the output head, at most the smaller side of each; all else that trains keeps whole moments."""

    galore_update_proj_gap: PositiveInt = 200
    """Steps after which `optimizer: galore_adamw` takes the projection anew, from a singular value decomposition of the gradient."""

    galore_scale: PositiveFloat = 0.25
    """What `optimizer: galore_adamw` multiplies a projected update by."""

    adam_beta1: Fraction = 0.9
    """Decay of AdamW's mean of gradients."""

    adam_beta2: Fraction = 0.999
    """Decay of AdamW's mean of squared gradients."""

    adam_epsilon: PositiveFloat = 1e-8
    """Term that keeps AdamW's division finite."""

    weight_decay: NonNegativeFloat = 0.0
    """Decoupled weight decay."""

    max_grad_norm: NonNegativeFloat = 1.0
    """Largest norm of the whole gradient; 0 for no clipping."""

    seed: Seed = 42
    """Seed of the adapter's start, the order of rows, the split and dropout."""

    logging_steps: PositiveInt = 1
    """Optimizer steps between reports of the training loss."""

    eval_steps: PositiveInt | None = None
    """Optimizer steps between evaluations; at the start and the end only where absent."""

    early_stopping_patience: PositiveInt | None = None
    """Evaluations without a better validation loss after which training stops."""

    save_steps: PositiveInt | None = None
    """Optimizer steps between checkpoints; at the end only where absent."""

    sample_prompts: tuple[Text, ...] = ()
    """Questions answered before and after training, shown side by side."""

    sample_max_new_tokens: PositiveInt = 32
    """Longest answer to a sample prompt in tokens."""
