"""GaLore's library's optimizer for a model of transformers. A model enters, what makes the optimizer leaves."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tests.reference.naive_lora import Optimizer
from tests.servers.lacking import needs

GALORE = {"optimizer": "galore_adamw", "galore_rank": 8, "galore_update_proj_gap": 8, "galore_scale": 0.5}
"""What a run asks for to have the same."""
needs_galore = needs("galore_torch")


def galore(model: PreTrainedModel, rate: float = 0.0) -> Optimizer:
    """The library's optimizer as transformers' trainer makes it, over the linear layers of the blocks."""
    from galore_torch import GaLoreAdamW

    layers = [module.weight for module in model.base_model.modules() if isinstance(module, (nn.Linear, Conv1D))]
    of_layers = {id(weight) for weight in layers}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in of_layers]
    projection = {"rank": 8, "update_proj_gap": 8, "scale": 0.5, "proj_type": "std"}
    groups = [{"params": rest}, {"params": layers, **projection}]
    return lambda _: GaLoreAdamW(groups, lr=rate, eps=1e-8, weight_decay=0.05, no_deprecation_warning=True)
