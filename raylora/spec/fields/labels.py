"""The label of a token without loss. Data writes it, objectives read it, and neither room may import the other."""

IGNORED = -100
"""Label of a position without loss; the default of torch's cross-entropy."""
