"""A sweep and its berths on as many cores as it has workers."""

from __future__ import annotations

from typing import Any

from transformers import LlamaConfig, PretrainedConfig

from raylora.spec.sweeps.sweep import SweepSpec
from raylora.sweep.planning.berths import Berths
from raylora.sweep.planning.offer import Node, Offer
from raylora.sweep.planning.plan import plan_sweep
from raylora.sweep.steering.trials import SweepTrials

CONFIG = LlamaConfig(
    hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
    vocab_size=256,
)  # fmt: skip
RUN = {"base_model": "base", "datasets": [{"path": "rows.jsonl"}], "dtype": "float32"}
SPACE = {"lora_r": {"choice": [2, 4, 8, 16]}}


def planned(
    num_workers: int, config: PretrainedConfig = CONFIG, num_cores: int | None = None, **fields: Any
) -> tuple[SweepSpec, Berths]:
    """A sweep, and its berths on as many cores as it has workers, where not said otherwise."""
    place = {"strategy": "fsdp", "num_workers": num_workers, "gpus_per_worker": 0}
    asked = {"run": RUN | {"distributed": place}, "space": SPACE, "searcher": "grid"}
    asked |= {"metric": "train_loss", "budget": {"steps": 20}}
    spec = SweepSpec.model_validate(asked | fields)
    berths = Berths(spec, SweepTrials(spec, "sweep"), 128)
    offer = Offer((Node({"CPU": num_cores or num_workers}, 32 * 10**9),))
    berths.take(plan_sweep(spec, offer, lambda run: config, foretells=False))
    return spec, berths
