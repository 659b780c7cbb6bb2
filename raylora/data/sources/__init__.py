"""Files, buckets and the hub become raw rows, and those examples."""
