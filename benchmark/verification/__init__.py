"""Whether records hold: read with suspicion, recomputed from evidence, taken whole or not at all."""
