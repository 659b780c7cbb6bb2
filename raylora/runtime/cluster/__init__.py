"""Ray, the workers' processes and their failures, and the lines to them."""
