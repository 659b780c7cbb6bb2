"""Files, overrides and recorded runs become a RunSpec, or every problem at once with its line."""
