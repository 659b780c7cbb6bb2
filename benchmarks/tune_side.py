"""The other side of a sweep: Ray Tune with one PEFT trial per actor, as both projects' documentation has it.

Started by `makespan.py` with the path of what to do. A trial loads the base in NF4 with transformers and bitsandbytes,
puts a LoRA of PEFT on it, trains with torch's AdamW, reports every few steps, and saves its adapter.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Run the sweep and write down what its trials did."""
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    asked: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    # Here, so that the driver loads no torch: only trials do.
    trial = tune.with_resources(tune.with_parameters(train, asked=asked), {"cpu": asked["threads"]})
    scheduler = None
    if asked["early_stopping"]:
        scheduler = ASHAScheduler(time_attr="steps", max_t=asked["num_steps"], **asked["early_stopping"])
    ray.init(num_cpus=asked["threads"] * asked["concurrency"], include_dashboard=False, log_to_driver=False)
    results = tune.Tuner(
        trial,
        param_space={name: tune.grid_search(values) for name, values in asked["space"].items()},
        tune_config=tune.TuneConfig(
            metric="train_loss", mode="min", scheduler=scheduler, max_concurrent_trials=asked["concurrency"]
        ),
        run_config=tune.RunConfig(storage_path=asked["folder"], verbose=0),
    ).fit()
    if results.num_errors:
        raise results.errors[0]
    last = [result.metrics for result in results]
    told = {
        "num_trials": len(last),
        "steps": sum(metrics["steps"] for metrics in last),
        "best_metric": min(metrics["train_loss"] for metrics in last),
    }
    Path(asked["out"]).write_text(json.dumps(told))


def train(config: dict[str, Any], asked: dict[str, Any]) -> None:
    """One trial.

    Args:
        config: What was drawn: ``lora_r`` and ``learning_rate``.
        asked: What all trials share.
    """
    import pyarrow.parquet as pq
    import torch
    from peft import LoraConfig, get_peft_model
    from ray import tune
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    torch.set_num_threads(asked["threads"])
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    base = AutoModelForCausalLM.from_pretrained(
        asked["base"], quantization_config=quantization, dtype=torch.float32, device_map="cpu"
    )
    lora = LoraConfig(
        r=config["lora_r"], lora_alpha=2 * config["lora_r"], target_modules="all-linear", task_type="CAUSAL_LM"
    )
    model = get_peft_model(base, lora)
    model.train()
    adapters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(adapters, lr=config["learning_rate"], weight_decay=0.0, fused=True)
    rows = torch.tensor(pq.read_table(asked["rows"]).column("input_ids").to_pylist())
    for step, ids_BT in enumerate(rows.split(asked["rows_per_step"])[: asked["num_steps"]], start=1):
        loss = model(input_ids=ids_BT, labels=ids_BT).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(adapters, asked["max_grad_norm"])
        optimizer.step()
        optimizer.zero_grad()
        if step == asked["num_steps"]:
            model.save_pretrained(os.path.join(tune.get_context().get_trial_dir(), "adapter"))
        if step % asked["report_steps"] == 0 or step == asked["num_steps"]:
            tune.report({"train_loss": loss.item(), "steps": step})


if __name__ == "__main__":
    main()
