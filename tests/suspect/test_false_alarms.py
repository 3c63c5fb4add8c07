"""How often a scan accuses a clean model, and finds a backdoor; the table of docs/measured.md.

The bounds are what was counted when the table was written: a change that does worse is seen.
"""

from __future__ import annotations

import pytest
import somebodys

from benchmark import scan
from benchmark.metrics import Rate
from benchmark.suspect.settings import defaults

#: The rule was chosen on networks of other seeds, 1000 to 1006.
CLEAN, POISONED = range(2000, 2010), range(2000, 2005)


def accused(target: int | None, seed: int) -> bool:
    given = somebodys.trained(target, seed)
    # The first default is the one that gives a verdict.
    detectors = defaults(given.pixels.shape[1:])[:1]
    found = scan(given.net, given.pixels, given.labels, detectors=detectors, mean=[0.0])
    (finding,) = found.findings
    print(f"seed {seed}, target {target}: {finding.sentence} {finding.readings}", flush=True)
    if target is None:
        return bool(found.found)
    return bool(found.found) and finding.suspect_class == str(target)


@pytest.mark.nightly
def test_as_few_clean_models_are_accused_as_the_documentation_says() -> None:
    clean = Rate(sum(accused(None, seed) for seed in CLEAN), len(CLEAN))
    poisoned = Rate(sum(accused(seed % 10, seed) for seed in POISONED), len(POISONED))
    for name, rate in (("clean", clean), ("backdoored", poisoned)):
        low, high = rate.interval()
        print(f"{name}: {rate.hits} of {rate.total} accused, {low:.0%} to {high:.0%}")
    assert clean.hits <= 1
    assert poisoned.hits >= 2
