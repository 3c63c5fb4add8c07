"""Whether records hold: recomputed from their evidence, and taken whole or not at all."""
