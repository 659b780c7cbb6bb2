"""Many trials from one space, on packs of slots: the only room that imports ray.tune."""
