"""Benchmarks for a CUDA device, without Ray and without a download."""
