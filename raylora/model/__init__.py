"""The frozen, quantized base model, its adapters, and what they weigh."""
