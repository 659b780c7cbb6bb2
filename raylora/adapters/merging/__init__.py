"""Base and adapter become one model: `plan` what is written, `merge` it, `check` what it computes."""
