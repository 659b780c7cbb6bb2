"""What a worker does for one run: inputs, the loop's hooks, what is published."""
