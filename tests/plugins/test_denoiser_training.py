"""Training small denoisers, keeping and finding them again, and the command for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Generator, Tensor
from typer.testing import CliRunner

from backdoor_defenses.smoothinv import denoiser, training
from backdoor_defenses.smoothinv.denoiser import Denoiser, DenoiserError, time_step
from benchmark import data
from benchmark.api import Dataset, Source
from benchmark.cli import app
from benchmark.images import ImageSet
from benchmark.registry import Registry


def draw(*shape: int) -> tuple[Tensor, Tensor]:
    rng = Generator().manual_seed(0)
    return torch.rand(shape, generator=rng), torch.randn(shape, generator=rng)


@pytest.fixture(scope="module")
def digits() -> Source:
    return data.load(Registry().create(Dataset, "digits"))


@pytest.fixture(scope="module")
def trained(digits: Source) -> tuple[Any, Any]:
    """A network that was trained for seconds, and its schedule."""
    return training.train(digits.train, steps=150, seed=3, width=8)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


# Training.


def test_training_lowers_the_loss_and_denoises(digits: Source, trained: tuple[Any, Any]) -> None:
    raw = training.train(digits.train, steps=1, seed=3, width=8)
    noisy, before = training.errors(Denoiser(*raw), digits.train, 0.25, 0)
    again, after = training.errors(Denoiser(*trained), digits.train, 0.25, 0)
    assert noisy == again == pytest.approx(0.25**2, rel=0.01)
    assert after < 0.5 * noisy
    assert after < 0.5 * before


def test_training_follows_its_seed_alone(digits: Source) -> None:
    def sha(seed: int) -> str:
        return Denoiser(*training.train(digits.train, steps=2, seed=seed, width=8)).sha256

    torch.manual_seed(11)
    first, state = sha(1), torch.get_rng_state()
    torch.manual_seed(12)
    assert sha(1) == first != sha(2)
    torch.manual_seed(11)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_schedule_is_the_start_of_the_published_one(trained: tuple[Any, Any]) -> None:
    abar = trained[1].alphas_cumprod
    published = diffusers.DDPMScheduler(1000, beta_start=1e-4, beta_end=0.02).alphas_cumprod
    torch.testing.assert_close(abar, published[: len(abar)], atol=1e-6, rtol=1e-5)
    assert [time_step(s, abar) for s in (0.12, 0.25, 0.5, 1)] == [70, 145, 259, 396]
    with pytest.raises(DenoiserError, match="choose sigma from 0 to 1"):
        time_step(2, abar)


@pytest.mark.parametrize(("side", "levels"), [(12, 3), (10, 2), (9, 1)])
def test_there_are_as_many_levels_as_the_images_allow(side: int, levels: int) -> None:
    pixels = torch.randint(256, (20, 3, side, side), dtype=torch.uint8)
    images = ImageSet(pixels, torch.zeros(20, dtype=torch.int64))
    made = Denoiser(*training.train(images, steps=1, width=8))
    assert len(made.unet.config["block_out_channels"]) == levels
    assert made(*draw(2, 3, side, side), 0.25).shape == (2, 3, side, side)


def test_images_are_held_out(digits: Source) -> None:
    train, others = training.hold_out(digits.train, None, 0)
    assert len(train) + len(others) == len(digits.train)
    assert len(others) == len(digits.train) // 10
    both = torch.cat([train.pixels, others.pixels]).flatten(1).long()
    assert torch.equal(both.sum(0), digits.train.pixels.flatten(1).long().sum(0))
    train, others = training.hold_out(others, digits.train, 0)
    assert (len(train), len(others)) == (179, 500)


# Files.


def test_what_is_saved_is_loaded_by_folder_and_by_name(
    digits: Source, trained: tuple[Any, Any], tmp_path: Path
) -> None:
    images, noise = draw(2, 1, 16, 16)
    made = Denoiser(*trained)
    # In the cache a new one takes the place of the old.
    old = training.train(digits.train, steps=1, width=8)
    training.save(*old, denoiser.folder_of("shirts"))
    assert denoiser.load("shirts").sha256 == Denoiser(*old).sha256 != made.sha256
    for name in (tmp_path / "mine", "shirts"):
        folder = name if isinstance(name, Path) else denoiser.folder_of(name)
        training.save(*trained, folder)
        found = denoiser.load(str(name))
        assert found.sha256 == made.sha256
        assert torch.equal(found(images, noise, 0.5), made(images, noise, 0.5))
        assert [path.name for path in folder.parent.iterdir() if "part" in path.name] == []
    assert not [*tmp_path.rglob("*.bin")]
    assert (tmp_path / "cache/poisongames/denoisers/shirts/model_index.json").is_file()


def test_a_folder_that_is_in_use_is_left_alone(trained: tuple[Any, Any], tmp_path: Path) -> None:
    letters = tmp_path / "letters"
    letters.mkdir()
    training.check_folder(letters)
    (letters / "first").write_text("dear")
    for folder in (letters, letters / "first"):
        with pytest.raises(DenoiserError, match="is there already; remove it or choose another"):
            training.save(*trained, folder)
    with pytest.raises(DenoiserError, match="cannot be written to"):
        training.save(*trained, letters / "first" / "second")
    assert [path.name for path in letters.iterdir()] == ["first"]
    assert (letters / "first").read_text() == "dear"


def test_what_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("shirts", str(tmp_path / "nowhere"), str(tmp_path / "empty"), "./mine", ""):
        with pytest.raises(DenoiserError, match="train it with poisongames denoiser train") as said:
            denoiser.load(name)
        assert "model_index.json" in str(said.value)


def test_a_damaged_denoiser_is_one_sentence(trained: tuple[Any, Any], tmp_path: Path) -> None:
    training.save(*trained, tmp_path / "mine")
    (weights,) = tmp_path.rglob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(DenoiserError, match=f"could not be read from {tmp_path / 'mine'}") as said:
        denoiser.load(str(tmp_path / "mine"))
    assert "\n" not in str(said.value)


def test_pickled_weights_are_never_read(trained: tuple[Any, Any], tmp_path: Path) -> None:
    training.save(*trained, tmp_path / "mine")
    (weights,) = tmp_path.rglob("*.safetensors")
    weights.unlink()
    torch.save(trained[0].state_dict(), weights.with_suffix(".bin"))
    with pytest.raises(DenoiserError, match="could not be read from"):
        denoiser.load(str(tmp_path / "mine"))


def test_the_hub_out_of_reach_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DenoiserError, match=r"could not be fetched from the Hugging Face") as said:
        denoiser.load(f"google/no-such-denoiser@{'0' * 40}")
    assert "\n" not in str(said.value)
    assert "name a folder that holds it" in str(said.value)


@pytest.mark.parametrize("commit", ["", "@", "@main", "@v1.0", "@0123abc", f"@{'A' * 40}"])
def test_a_name_on_the_hub_needs_the_commit_that_is_meant(commit: str) -> None:
    with pytest.raises(DenoiserError, match=r"; write some/denoiser@COMMIT with the 40 digits"):
        denoiser.load(f"some/denoiser{commit}")


def test_a_commit_on_the_hub_is_what_is_loaded(
    digits: Source, trained: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two commits of one name, as the hub's own client keeps them, without a network."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for module in (huggingface_hub.constants, diffusers.pipelines.pipeline_utils):
        monkeypatch.setattr(module, "HF_HUB_CACHE", str(tmp_path), raising=False)
    networks = [trained, training.train(digits.train, steps=1, seed=4, width=8)]
    kept = tmp_path / "models--some--denoiser"
    for digit, network in enumerate(networks):
        training.save(*network, kept / "snapshots" / (str(digit) * 40))
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("1" * 40)
    found = [denoiser.load(f"some/denoiser@{str(digit) * 40}").sha256 for digit in range(2)]
    assert found == [Denoiser(*network).sha256 for network in networks]
    assert found[0] != found[1]


# The command.


def test_the_command_trains_and_says_where(tmp_path: Path) -> None:
    words = ["denoiser", "train", "--dataset", "digits", "--steps", "2", "--device", "cpu"]
    result = CliRunner().invoke(app, words, env={"COLUMNS": "250"})
    assert result.exit_code == 0, result.output
    folder = tmp_path / "cache/poisongames/denoisers/digits"
    assert f"saved to {folder}" in result.output
    assert "on 179 held-out images at sigma 0.25 the mean squared error is 0.06" in result.output
    assert denoiser.load("digits").channels == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset", "digit"], "did you mean 'digits'?"),
        (["--dataset", "digits", "--device", "tpu"], "'tpu' is not one of"),
        (["--dataset", "fashion_mnist", "--data-dir", "nowhere"], "nowhere is no folder"),
        (["--dataset", "folder:path=a"], "folder:path=a has settings, and the cache knows"),
        (["--dataset", "digits", "--out", str(Path(__file__).parent)], "is there already; remove"),
    ],
)
def test_the_commands_errors_are_one_sentence(words: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["denoiser", "train", *words], env={"COLUMNS": "250"})
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output


def test_a_missing_denoiser_is_said_before_any_work_begins(tmp_path: Path) -> None:
    words = ["run", "digits-v3", "--attack", "badnets", "--out", str(tmp_path / "run")]
    words += ["--defense", "smoothinv-diffusion:denoiser=nowhere", "--device", "cpu"]
    result = CliRunner().invoke(app, words, env={"COLUMNS": "250"})
    assert result.exit_code == 2
    assert "there is no denoiser 'nowhere'" in result.output
    assert not [*tmp_path.rglob("*.json")]
