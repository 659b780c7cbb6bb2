"""What trains over a base: ours, PEFT's own modules, the base's own weights, heads."""
