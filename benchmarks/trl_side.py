"""The other side of a comparison: TRL's SFTTrainer with PEFT, in one process or under `accelerate launch`.

Started by `sides.py` with the path of a workload. The trainer runs its own loop; a callback makes it wait between
steps. Its turn is a whole turn of that loop: the next batch, forward, backward, clip, update, schedule.

It is set as fast as it goes on a CPU: the workload's dtype throughout (its default, bfloat16, is ten times slower
without the units for it), no gradient checkpointing, no logging, no saving.
"""

from __future__ import annotations

import os
import sys
from tempfile import TemporaryDirectory
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoTokenizer, BitsAndBytesConfig, TrainerCallback
from trl import SFTConfig, SFTTrainer

from benchmarks.player import Player, play
from benchmarks.workload import LEARNING_RATE, LORA_ALPHA, LORA_R, MAX_GRAD_NORM, Workload
from raylora.train.memory import PeakMemory

CPU = torch.device("cpu")


def main(player: Player) -> None:
    """Build a trainer, then let it go one step a turn."""
    work = Workload.read(sys.argv[1])
    torch.set_num_threads(work.num_threads)
    with TemporaryDirectory() as folder:
        with PeakMemory(CPU) as memory:
            trainer = make_trainer(work, folder)
        trainer.add_callback(Turns(player, trainer, work, memory.peak_bytes))
        trainer.train()


class CountingTrainer(SFTTrainer):
    """Remembers what the steps of a turn were."""

    loss, num_tokens = 0.0, 0

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """As the trainer's own."""
        mask = inputs.get("attention_mask")
        self.num_tokens += int(mask.sum()) if mask is not None else inputs["input_ids"].numel()
        loss = super().training_step(model, inputs, *args, **kwargs)
        self.loss += float(loss)
        return loss


class Turns(TrainerCallback):
    """Waits for a turn before each step and tells what it was after it."""

    def __init__(self, player: Player, trainer: CountingTrainer, work: Workload, load_peak_bytes: int) -> None:
        self._player, self._trainer, self._work = player, trainer, work
        self._load_peak_bytes = load_peak_bytes
        self._memory: PeakMemory | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ready: model, optimizer and whatever shards them are made."""
        accelerator = self._trainer.accelerator
        self._player.tell(
            ran=accelerator.distributed_type.value,
            num_processes=accelerator.num_processes,
            base_bytes=_held_bytes(self._trainer.model_wrapped),
            load_peak_bytes=self._load_peak_bytes,
        )
        self._wait(control)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell, then wait."""
        clock = self._player.stop()
        if self._memory:
            self._memory.__exit__()
        trainer = self._trainer
        self._player.tell(
            **clock,
            loss=trainer.loss,
            num_tokens=trainer.num_tokens,
            peak_bytes=self._memory.peak_bytes if self._memory else None,
        )
        self._wait(control)

    def _wait(self, control: Any) -> None:
        self._trainer.loss, self._trainer.num_tokens = 0.0, 0
        control.should_training_stop = not self._player.wait()
        if self._work.watches_memory:
            self._memory = PeakMemory(CPU)
            self._memory.__enter__()


def make_trainer(work: Workload, folder: str) -> CountingTrainer:
    """The trainer of a workload.

    Args:
        work: `options` may hold ``use_cpu`` (as `SFTConfig`), ``float32_adapters`` (undo its cast of a quantized base's
            adapters to bfloat16) and ``packing`` (its own).
        folder: Where it may write.
    """
    options, dtype = work.options, getattr(torch, work.dtype)
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_storage=dtype if work.num_ranks > 1 else torch.uint8,
    )
    trainer = CountingTrainer(
        model=work.base,
        args=_config(work, folder),
        train_dataset=_dataset(work),
        processing_class=AutoTokenizer.from_pretrained(work.base),
        quantization_config=quantization if work.quantized else None,
        peft_config=LoraConfig(
            r=LORA_R, lora_alpha=LORA_ALPHA, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
    )
    if options.get("float32_adapters"):
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    return trainer


def _config(work: Workload, folder: str) -> SFTConfig:
    use_cpu = work.options.get("use_cpu", True)
    packing = work.options.get("packing", False)
    return SFTConfig(
        output_dir=folder,
        use_cpu=use_cpu,
        # Without a GPU and without use_cpu the backend must be named.
        ddp_backend=None if use_cpu else "gloo",
        bf16=work.dtype == "bfloat16",
        model_init_kwargs={"dtype": work.dtype, "attn_implementation": "sdpa"},
        gradient_checkpointing=False,
        per_device_train_batch_size=work.micro_batch_rows,
        gradient_accumulation_steps=work.accumulation_steps,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        max_grad_norm=MAX_GRAD_NORM,
        max_steps=1_000_000,
        train_sampling_strategy="sequential",
        packing=packing,
        max_length=work.bin_tokens if packing else None,
        dataloader_pin_memory=False,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def _dataset(work: Workload) -> Dataset:
    table = work.table()
    ids, masks = table.column("input_ids").to_pylist(), table.column("is_label").to_pylist()
    labels = [
        [token if counts else -100 for token, counts in zip(*row, strict=True)] for row in zip(ids, masks, strict=True)
    ]
    return Dataset.from_dict({"input_ids": ids, "labels": labels})


def _held_bytes(model: torch.nn.Module) -> int:
    """Bytes of the frozen parameters that this rank holds, and of the 4-bit layers' scales."""
    total = 0
    for parameter in model.parameters():
        if parameter.requires_grad:
            continue
        part = getattr(parameter, "ds_tensor", None)
        if part is None:
            part = parameter.to_local() if hasattr(parameter, "to_local") else parameter
        total += part.numel() * part.element_size()
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            nested = state.state2.absmax if state.nested else torch.empty(0)
            total += sum(scales.numel() * scales.element_size() for scales in (state.absmax, nested))
    return total


if __name__ == "__main__":
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    play(main)
