"""Several adapters become one: a `recipe`, whether they `fit`, `combine`, `evaluation` of all, `publish` the result."""
