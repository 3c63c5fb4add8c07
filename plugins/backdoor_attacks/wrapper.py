"""Base class of attacks that wrap another attack."""

from __future__ import annotations

from torch import Generator, Tensor

from benchmark import Attack, AttackerView, Images


class Wrapper(Attack):
    """Base of attacks whose trigger and state are those of `base`; not registered itself."""

    base: Attack

    @property
    def source(self) -> int | None:  # type: ignore[override]
        return self.base.source

    def setup(
        self, view: AttackerView, rng: Generator, state: dict[str, Tensor] | None = None
    ) -> None:
        self.view = view
        self.base.setup(view, rng, state)
        self.state = self.base.state

    def trigger(self, images: Images, rng: Generator) -> Images:
        return self.base.trigger(images, rng)
