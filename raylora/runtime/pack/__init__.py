"""Many runs on one base: the desk that gives out slots, and the workers of a pack."""
