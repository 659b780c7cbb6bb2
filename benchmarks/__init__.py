"""What the numbers in docs/benchmarks.md came from; `python -m benchmarks` measures them."""
