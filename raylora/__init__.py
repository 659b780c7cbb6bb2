"""raylora: fine-tune language models with LoRA adapters on Ray."""

__version__ = "0.1.0"
