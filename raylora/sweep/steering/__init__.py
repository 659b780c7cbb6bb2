"""Ray Tune over leases instead of actors: space, searcher, scheduler, state."""
