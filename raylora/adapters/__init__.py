"""After training: stored adapters are read, merged, combined, served and talked to, in one process, without Ray.

What all of it needs lies here, in the order of reading: `stored` (an adapter's folder), `delta` and `layers` (what it
does to each layer), `projected` (VeRA), `base` and `one_base` (what it was trained on), `trained_over` (how that was
held), `rerank` (other ranks), `slots` (as a bank takes it) and `new_folder` (where something is written). Each package
is a command's: `merging`, `combining`, `serving` (``export``) and `talking` (``generate`` and ``chat``).
"""
