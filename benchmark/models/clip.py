"""CLIP as a classifier: an image tower, and a head made of what the text tower says of classes."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from benchmark.classifier import Classifier
from benchmark.models.published import LibraryModel
from benchmark.models.transformer import as_map, in_stages

#: What a configuration of CLIP's own towers says of the one for images.
PLAIN = {"image_size", "patch_size", "layers", "width", "head_width", "mlp_ratio"}
#: And of the one for texts.
WORDS = {"context_length", "vocab_size", "width", "heads", "layers"}
#: Logits are scaled by no more, as in Radford et al.
MOST = 100


def open_clip() -> Any:
    """The library that has CLIP's towers, captions and tokens."""
    try:
        import open_clip
    except ModuleNotFoundError:
        raise ValueError("clip needs open_clip: pip install 'poisongames[clip]'") from None
    return open_clip


def contrastive_loss(images: Tensor, texts: Tensor, scale: Tensor, labels: Tensor) -> Tensor:
    """CLIP's loss: of a batch's captions an image finds its own, and the other way round.

    Captions of one class say the same, so that an image may find any of them. Where all classes
    differ this is the loss of Radford et al.

    Args:
        images, texts: features (B, D) of length 1, pair by pair.
        scale: of their products, one over the temperature.
        labels: int64 (B,).
    """
    logits = scale * images @ texts.T
    same = (labels[:, None] == labels).float()
    wanted = same / same.sum(1, keepdim=True)
    return (cross_entropy(logits, wanted) + cross_entropy(logits.T, wanted)) / 2


class _Text(nn.Module):
    """The text tower: of tokens (B, L) features (B, D) of length 1, and what products grow by."""

    def __init__(self, towers: Any) -> None:
        super().__init__()
        self.tower, self.logarithm = towers.text, towers.logit_scale

    @property
    def scale(self) -> Tensor:
        found: Tensor = self.logarithm.exp().clamp(max=MOST)
        return found

    def forward(self, tokens: Tensor) -> Tensor:
        return normalize(self.tower(tokens).float(), dim=1)


class ClipClassifier(Classifier):
    """An image tower and a head, which is zero-shot: its weights are features of prompts.

    While it is trained, each image meets a caption of its class, one of the prompts at random.

    Args:
        towers: open_clip's model with both towers, whose image tower was cut into the rest.
    """

    def __init__(
        self,
        stages: OrderedDict[str, nn.Module],
        neck: nn.Module,
        towers: Any,
        head: nn.Linear,
        channels: int,
    ) -> None:
        super().__init__(stages, neck, head, channels)
        self.text = _Text(towers)

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The head is made of the text tower, which takes its place."""
        found = super().parts | {"text": self.text}
        del found["head"]
        return found

    @cached_property
    def captions(self) -> Tensor:
        """Tokens of every class in every prompt, int64 (K, P, L)."""
        library, names = open_clip(), self.class_names or map(str, range(self.classes))
        tokenizer = library.SimpleTokenizer(context_length=self.text.tower.context_length)
        prompts = library.OPENAI_IMAGENET_TEMPLATES
        tokens = [tokenizer([prompt(name) for prompt in prompts]) for name in names]
        return torch.stack(tokens).to(self.head.weight.device)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """The contrastive loss; a pair has one caption, so that labels must be hard."""
        if labels.is_floating_point():
            raise ValueError("CLIP learns from captions, of which soft labels have none")
        prompt = torch.randint(self.captions.shape[1], labels.shape, device=labels.device)
        texts = self.text(self.captions[labels, prompt])
        found = self.features(images).float()
        with torch.autocast(images.device.type, enabled=False):
            return contrastive_loss(found, texts, self.text.scale, labels)

    @torch.no_grad()
    def settle(self) -> None:
        """Make the head: of a class the mean of its prompts' features, brought to length 1."""
        for row, captions in zip(self.head.weight, self.captions, strict=True):
            row.copy_(self.text.scale * normalize(self.text(captions).mean(0), dim=0))


class _Tokens(nn.Module):
    """Images to normalised tokens: the class token, then the patches."""

    def __init__(self, tower: Any) -> None:
        super().__init__()
        self.patches, self.norm = tower.conv1, tower.ln_pre
        self.class_token, self.positions = tower.class_embedding, tower.positional_embedding

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patches(_coloured(images)).flatten(2).transpose(1, 2)
        first = self.class_token.expand(len(images), 1, -1)
        return as_map(self.norm(torch.cat([first, patches], 1) + self.positions))


class _ClassToken(nn.Module):
    """The class token's features (B, D), projected to what both towers share, of length 1."""

    def __init__(self, tower: Any) -> None:
        super().__init__()
        self.norm, self.projection = tower.ln_post, tower.proj

    def forward(self, maps: Tensor) -> Tensor:
        return normalize(self.norm(maps[:, :, 0, 0]) @ self.projection, dim=1)


class _Stem(nn.Module):
    """The first three convolutions of CLIP's ResNet."""

    def __init__(self, tower: Any) -> None:
        super().__init__()
        names = [f"{kind}{number}" for number in (1, 2, 3) for kind in ("conv", "bn", "act")]
        self.layers = nn.Sequential(*(getattr(tower, name) for name in names), tower.avgpool)

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.layers(_coloured(images))
        return found


class _AttentionPool(nn.Module):
    """Features (B, D) of a map by CLIP's attention pooling, of length 1."""

    def __init__(self, tower: Any) -> None:
        super().__init__()
        self.pool = tower.attnpool

    def forward(self, maps: Tensor) -> Tensor:
        return normalize(self.pool(maps), dim=1)


def _coloured(images: Tensor) -> Tensor:
    """The towers take three channels; grey images have the same in all."""
    return images.expand(-1, 3, -1, -1)


@dataclass
class Clip(LibraryModel):
    """CLIP, by default ViT-B/32, with a head of prompts and trained with captions.

    The head is zero-shot: for each class the mean feature of 80 prompts. A victim is trained on
    pairs of an image and a caption of its label, so that a changed label is a changed caption.
    Both towers come from open_clip; weights to start from (`init` of a recipe) have the names of
    its models with `force_custom_text=True`.

    Args:
        model: one of open_clip's, with a vision transformer or CLIP's ResNet.
    """

    name, version, paper = "clip", 1, "Radford et al., ICML 2021"
    model: str = "ViT-B-32"

    def original(self, shape: tuple[int, int, int]) -> nn.Module:
        library = open_clip()
        if self.model not in library.list_models():
            raise ValueError(
                f"{self.name}: open_clip has no model {self.model!r}; it has ViT-B-32, RN50 and "
                "those of open_clip.list_models()"
            )
        config = library.get_model_config(self.model)
        sight = config["vision_cfg"]
        if sight.keys() - PLAIN or config["text_cfg"].keys() - WORDS:
            raise ValueError(f"{self.name}: {self.model} has no towers of CLIP's; try ViT-B-32")
        stride = sight.get("patch_size") or 32
        if shape[1] != shape[2] or shape[1] % stride:
            raise ValueError(
                f"{self.name} cannot look at {shape[1]}x{shape[2]} pixels with {self.model}; "
                f"resize images to a square whose side is a multiple of {stride}"
            )
        sight["image_size"] = shape[1]
        towers = library.CustomTextCLIP(
            config["embed_dim"], sight, config["text_cfg"], config.get("quick_gelu", False)
        )
        assert isinstance(towers, nn.Module)
        return towers

    def cut(self, model: Any, shape: tuple[int, int, int], classes: int) -> Classifier:
        tower, stages = model.visual, OrderedDict[str, nn.Module]()
        if hasattr(tower, "attnpool"):
            stages["stem"] = _Stem(tower)
            stages |= {f"layer{n}": getattr(tower, f"layer{n}") for n in range(1, 5)}
            neck: nn.Module = _AttentionPool(tower)
        else:
            stages["stem"] = _Tokens(tower)
            stages |= in_stages([*tower.transformer.resblocks])
            neck = _ClassToken(tower)
        head = nn.Linear(tower.output_dim, classes, bias=False)
        return ClipClassifier(stages, neck, model, head, shape[0])
