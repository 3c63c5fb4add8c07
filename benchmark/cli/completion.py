"""Names that a shell completes; found without importing a plugin, which would take seconds."""

from __future__ import annotations


def protocol_names(incomplete: str) -> list[str]:
    """Released protocols that begin so."""
    from benchmark.protocol import released

    return [name for name in released() if name.startswith(incomplete)]


def plugin_names(incomplete: str) -> list[str]:
    """Entry points of plugins that begin so, in a pipeline after the last ``+``.

    They are called as their modules' main plugin; what else a module registers is not known
    before it is imported.
    """
    from benchmark.hooks import GROUP, points

    before, plus, last = incomplete.rpartition("+")
    names = {point.name for point in points(GROUP) if point.name.startswith(last)}
    return [f"{before}{plus}{name}" for name in sorted(names)]
