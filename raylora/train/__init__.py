"""The training core: batches in, a trained adapter out. Knows ranks, but neither Ray nor MLflow."""
