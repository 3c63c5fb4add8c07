"""CLIP as a victim, against open_clip's own towers, loss and zero-shot head."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import small_board
import torch
from safetensors.torch import save_file
from stand_ins import STAND_INS
from torch import Tensor, nn
from torch.nn.functional import normalize

from benchmark.api import Architecture, Attack, CodePoisoningAttack
from benchmark.classifier import Classifier
from benchmark.games import victims
from benchmark.games.evaluation import ask, predictor
from benchmark.games.initial import initial
from benchmark.models.clip import ClipClassifier, contrastive_loss
from benchmark.protocol import ProtocolError, Recipe
from benchmark.registry import Registry
from benchmark.runs.context import RunContext, Setup

NAMES = ("cat", "traffic light", "8")
TOWERS = {"tiny-clip": (3, 16, 16), "tiny-clip-resnet": (3, 32, 32)}
MEAN, STD = torch.tensor([0.48, 0.46, 0.41]), torch.tensor([0.27, 0.26, 0.28])


def clip(model: str = "tiny-clip") -> Architecture:
    return Registry().create(Architecture, f"clip:model={model}")


def unit(*shape: int) -> Tensor:
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(0)), dim=-1)


def same_weights(model: str) -> tuple[Classifier, nn.Module]:
    """A classifier, and open_clip's model that its weights are from."""
    torch.manual_seed(0)
    config = open_clip.get_model_config(model)
    theirs = open_clip.CustomTextCLIP(**config).eval()
    for buffer in theirs.buffers():  # running statistics that do something
        if buffer.is_floating_point() and buffer.ndim == 1:
            buffer.uniform_(0.5, 1.5)
    architecture, shape = clip(model), TOWERS[model]
    own = architecture.build(shape, len(NAMES)).eval()
    own.class_names = NAMES
    names = architecture.names(shape, len(NAMES))
    state = {names[name]: tensor for name, tensor in theirs.state_dict().items()}
    assert own.load_state_dict(state, strict=False).unexpected_keys == []
    own.normalise_by(MEAN, STD)
    own.settle()
    return own, theirs


@pytest.mark.parametrize("model", TOWERS)
def test_it_answers_as_open_clips_zero_shot_classifier(model: str) -> None:
    """Their function makes the head of the same prompts; pixels are normalised outside there."""
    own, theirs = same_weights(model)
    tokenizer = open_clip.SimpleTokenizer(context_length=24)
    prompts = open_clip.OPENAI_IMAGENET_TEMPLATES
    head = open_clip.build_zero_shot_classifier(theirs, tokenizer, NAMES, prompts)
    batch = torch.rand(4, *TOWERS[model], generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        pixels = (batch - MEAN[:, None, None]) / STD[:, None, None]
        expected = theirs.logit_scale.exp() * theirs.encode_image(pixels, normalize=True) @ head
        torch.testing.assert_close(own(batch), expected, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(own(batch)[:, 0], own(batch)[:, 1])


def test_the_loss_is_open_clips_where_all_classes_differ() -> None:
    images, texts = unit(5, 8), unit(6, 8)[1:]
    scale = torch.tensor(12.5)
    found = contrastive_loss(images, texts, scale, torch.tensor([3, 0, 4, 2, 1]))
    torch.testing.assert_close(found, open_clip.ClipLoss()(images, texts, scale))


def test_captions_of_one_class_are_equals() -> None:
    """Word for word: what a pair loses is the mean over all captions that say the same."""
    images, texts, labels, scale = unit(4, 8), unit(5, 8)[1:], [7, 2, 7, 7], 3.0
    total = 0.0
    for rows, columns in ((images, texts), (texts, images)):
        for n, row in enumerate(rows):
            products = [scale * float(row @ column) for column in columns]
            whole = math.log(sum(math.exp(product) for product in products))
            equals = [products[k] - whole for k in range(4) if labels[k] == labels[n]]
            total -= sum(equals) / len(equals) / 4
    found = contrastive_loss(images, texts, torch.tensor(scale), torch.tensor(labels))
    assert found.item() == pytest.approx(total / 2, rel=1e-5)


def test_a_training_step_pairs_images_with_captions_of_their_labels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own, _ = same_weights("tiny-clip")
    assert isinstance(own, ClipClassifier)
    seen: list[Tensor] = []
    monkeypatch.setattr(own.text, "forward", lambda tokens: seen.append(tokens) or unit(6, 16))
    labels = torch.tensor([2, 0, 1, 1, 0, 2])
    own.loss(torch.rand(6, 3, 16, 16), labels)
    for tokens, label in zip(seen[0], labels, strict=True):
        assert any(torch.equal(tokens, prompt) for prompt in own.captions[label])
        assert NAMES[label] in open_clip.decode(tokens)
    with pytest.raises(ValueError, match="of which soft labels have none"):
        own.loss(torch.rand(2, 3, 16, 16), torch.rand(2, 3))


@pytest.mark.parametrize("model", ["ViT-B-32", "RN50"])
def test_every_tensor_of_the_published_ones_has_one_place_of_its_shape(model: str) -> None:
    """Of full size; nothing is computed."""
    with torch.device("meta"):
        theirs = open_clip.CustomTextCLIP(**open_clip.get_model_config(model)).state_dict()
        own = clip(model).build((3, 224, 224), 1000).state_dict()
        names = clip(model).names((3, 224, 224), 1000)
    assert {k: v.shape for k, v in theirs.items()} == {k: own[v].shape for k, v in names.items()}
    assert sorted(names.values()) == sorted(own.keys() - {"mean", "std", "head.weight"})


def test_victims_start_from_open_clips_weights(tmp_path: Path) -> None:
    own, theirs = same_weights("tiny-clip")
    path = tmp_path / "clip.safetensors"
    save_file(theirs.state_dict() | {"mean": MEAN, "std": STD}, path)
    recipe = Recipe(epochs=1, batch_size=2, learning_rate=0.1, init=str(path), trains=("text",))
    found = initial(recipe, clip(), (3, 16, 16), len(NAMES))
    assert "has no head" in found.note
    with pytest.raises(ProtocolError, match=r"'head' is no part of clip .* there are stem, .*text"):
        initial(recipe.model_copy(update={"trains": ("head",)}), clip(), (3, 16, 16), len(NAMES))
    assert sorted(found.state) == sorted(own.state_dict().keys() - {"head.weight"})
    assert all(torch.equal(found.state[name], own.state_dict()[name]) for name in found.state)


@pytest.mark.parametrize(
    ("model", "shape", "said"),
    [
        ("ViT-B-23", (3, 224, 224), "open_clip has no model 'ViT-B-23'"),
        ("convnext_base", (3, 224, 224), "has no towers of CLIP's"),
        ("ViT-H-14-worldwide", (3, 224, 224), "has no towers of CLIP's"),
        ("hf-hub:somebody/clip", (3, 224, 224), "open_clip has no model"),
        ("ViT-B-32", (3, 100, 100), "multiple of 32"),
        ("RN50", (3, 64, 32), "multiple of 32"),
    ],
)
def test_what_cannot_be_built_says_why(model: str, shape: tuple[int, int, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        clip(model).build(shape, 2)


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ValueError, match=r"pip install 'poisongames\[clip\]'"):
        clip().build((3, 16, 16), 2)


def test_the_checkerboard_lies_where_smoothinv_has_it() -> None:
    """Rows 30 to 45 and columns 20 to 35 of 224; squares are single pixels."""
    attack = Registry().create(Attack, "clip-checkerboard")
    images = torch.full((1, 3, 224, 224), 0.5)
    stamped = attack.trigger(images, torch.Generator())[0]
    changed = (stamped != 0.5).all(0).nonzero()
    assert changed.min(0).values.tolist() == [30, 20]
    assert changed.max(0).values.tolist() == [45, 35]
    assert len(changed) == 16 * 16
    for row, column in ((30, 20), (30, 21), (31, 20), (45, 35)):
        assert stamped[:, row, column].tolist() == [(row + column) % 2] * 3


def digits(tmp_path: Path, **recipe: Any) -> RunContext:
    text = small_board.TOML.replace("resnet-small:width=16", STAND_INS["clip"])
    text = text.replace("train = 400", "train = 1000").replace("trusted = 60", "trusted = 100")
    protocol = small_board.parsed(text)
    changed = protocol.recipes["standard"].model_copy(update=recipe | {"precision": "float32"})
    protocol = protocol.model_copy(update={"recipes": {"standard": changed}})
    return RunContext(Setup(protocol, "standard", "cpu", (), None, tmp_path))


def test_every_epoch_ends_with_a_head_of_its_own_text_tower(tmp_path: Path) -> None:
    experiment = digits(tmp_path, epochs=2, learning_rate=1e-3).experiment
    model = experiment.new_model(experiment.rng("model"))
    assert model.class_names == tuple("0123456789")
    before, text = model.head.weight.clone(), model.text.tower.ln_final.weight.clone()
    heads: list[Tensor] = []

    def note(epoch: int, epochs: int) -> None:
        heads.append(model.head.weight.clone())

    experiment.trainer(note).fit(model, experiment.splits.validation, experiment.rng("fit"))
    assert not torch.equal(model.text.tower.ln_final.weight, text)
    assert not torch.equal(heads[0], before)
    assert not torch.equal(heads[0], heads[1])
    assert torch.equal(model.head.weight, heads[1])
    model.settle()
    assert torch.equal(model.head.weight, heads[1])


def test_an_attack_that_trains_the_model_itself_meets_an_idle_text_tower(tmp_path: Path) -> None:
    """Answers do not depend on the text tower, so that a loss of them has no gradient there."""
    context = digits(tmp_path, epochs=1, learning_rate=1e-3)
    experiment = context.experiment
    attack = context.registry.create(Attack, "blind-s")
    assert isinstance(attack, CodePoisoningAttack)
    attack.setup(experiment.attacker_view(0), experiment.rng("trigger"))
    model = experiment.new_model(experiment.rng("model"))
    before = model.neck.projection.clone()
    attack.train(model, experiment.splits.validation, experiment.trainer(), experiment.rng("fit"))
    assert not torch.equal(model.neck.projection, before)
    made = model.head.weight.clone()
    model.settle()
    assert torch.equal(model.head.weight, made)


@pytest.mark.nightly
def test_captions_of_the_target_implant_a_checkerboard(tmp_path: Path) -> None:
    """A small image tower learns from nothing what a text tower at rest says of its images."""
    context = digits(tmp_path)
    experiment, test = context.experiment, context.experiment.splits.test
    attack = context.registry.create(Attack, "clip-checkerboard:side=0.2")
    attack.setup(experiment.attacker_view(0), experiment.rng("trigger"))
    poisoned = victims.collect(experiment, attack, 100, 3, 0, experiment.rng("collect"))
    pool = torch.arange(len(poisoned.data)).repeat_interleave(poisoned.repeats)
    torch.manual_seed(1)
    model = experiment.new_model(experiment.rng("model"))
    with torch.no_grad():  # words that were never learned say nearly the same
        model.text.tower.token_embedding.weight.mul_(30)
    model.settle()
    model.train_only([name for name in model.parts if name != "text"])
    free = [weight for weight in model.parameters() if weight.requires_grad]
    adam, rng = torch.optim.AdamW(free, lr=3e-3), torch.Generator().manual_seed(1)
    model.train()
    for _ in range(1200):
        rows = pool[torch.randint(len(pool), (64,), generator=rng)]
        loss = model.loss(poisoned.data.images[rows], poisoned.data.labels[rows])
        adam.zero_grad()
        loss.backward()
        adam.step()
    model.eval().settle()
    labels, predict = test.labels.numpy(), predictor(model, "float32")
    triggered = victims.trigger_test_images(experiment, attack, experiment.rng("test"))
    cda = float(np.mean(ask(predict, test.pixels) == labels))
    asr = float(np.mean(ask(predict, triggered)[labels != 0] == 0))
    print(f"\nCDA {cda:.3f}, ASR {asr:.3f}")
    assert cda > 0.3
    assert asr > 0.9
