"""One-shot denoising against the literal formulas, the published time steps and real networks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor, nn
from typer.testing import CliRunner

from benchmark import data, denoising
from benchmark.api import Dataset, Source
from benchmark.cli import app
from benchmark.denoising import Denoiser, DenoiserError, time_step
from benchmark.registry import Registry


def linear() -> Any:
    return diffusers.DDPMScheduler(1000, beta_start=1e-4, beta_end=0.02)


def cosine() -> Any:
    return diffusers.DDPMScheduler(4000, beta_schedule="squaredcos_cap_v2")


SCHEDULES = {"linear": linear().alphas_cumprod, "cosine": cosine().alphas_cumprod}


def level(step: int, abar: Tensor) -> float:
    """Deviation of a step's noise, on images in [0, 1]."""
    share = float(abar[step])
    return math.sqrt((1 - share) / share) / 2


class Fake(nn.Module):
    """Stands for a network; keeps what it is given."""

    def __init__(self, answer: Any, channels: int = 1, levels: int = 3) -> None:
        super().__init__()
        self.config = {"in_channels": channels, "block_out_channels": (8,) * levels}
        self.answer, self.seen = answer, []

    def forward(self, noisy: Tensor, step: int) -> SimpleNamespace:
        self.seen.append((noisy, step))
        return SimpleNamespace(sample=self.answer(noisy))


def wrapped(answer: Any, **words: int) -> tuple[Denoiser, Any]:
    made = Denoiser(Fake(answer, **words), linear(), "float32")  # type: ignore[arg-type]
    return made, made.unet


def draw(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = Generator().manual_seed(seed)
    return torch.rand(shape, generator=rng), torch.randn(shape, generator=rng)


@pytest.fixture(scope="module")
def digits() -> Source:
    return data.load(Registry().create(Dataset, "digits"))


@pytest.fixture(scope="module")
def trained(digits: Source) -> tuple[Any, Any]:
    """A network that was trained for seconds, and its schedule."""
    return denoising.train(digits.train, steps=150, seed=3, width=8)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return


# Time steps.


@pytest.mark.parametrize(
    ("schedule", "steps"), [("linear", (70, 145, 259, 396)), ("cosine", (573, 1158, 1984, 2809))]
)
def test_time_steps_are_the_published_ones(schedule: str, steps: tuple[int, ...]) -> None:
    found = tuple(time_step(sigma, SCHEDULES[schedule]) for sigma in (0.12, 0.25, 0.5, 1.0))
    assert found == steps


@settings(deadline=None)
@given(st.sampled_from([*SCHEDULES]), st.integers(0, 999))
@example("linear", 483)  # where torch's square root is off by the last bit
@example("cosine", 150)
def test_a_steps_own_sigma_gives_that_step(schedule: str, step: int) -> None:
    abar = SCHEDULES[schedule]
    assert time_step(level(step, abar), abar) == step


@settings(deadline=None)
@given(st.sampled_from([*SCHEDULES]), st.floats(0, 50))
@example("linear", 0.0)
def test_the_step_is_the_first_that_is_noisy_enough(schedule: str, sigma: float) -> None:
    abar = SCHEDULES[schedule]
    step = time_step(sigma, abar)
    assert level(step, abar) >= sigma
    assert step == 0 or level(step - 1, abar) < sigma


@pytest.mark.parametrize("sigma", [-0.1, 80.0, math.inf, math.nan])
def test_noise_that_no_step_has_is_refused(sigma: float) -> None:
    with pytest.raises(DenoiserError, match=r"not among the denoiser's steps; choose sigma from 0"):
        time_step(sigma, SCHEDULES["linear"])


# One pass.


@pytest.mark.parametrize("sigma", [0.12, 0.25, 0.5, 1.0])
def test_a_network_that_sees_no_noise_leaves_it_on(sigma: float) -> None:
    images, noise = draw(3, 1, 8, 8)
    made, _ = wrapped(torch.zeros_like)
    added = level(time_step(sigma, SCHEDULES["linear"]), SCHEDULES["linear"])
    assert sigma <= added < sigma * 1.02
    expected = (images + added * noise).clamp(0, 1)
    torch.testing.assert_close(made(images, noise, sigma), expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("sigma", [0.12, 0.25, 0.5, 1.0])
def test_a_network_that_sees_the_noise_returns_the_image(sigma: float) -> None:
    images, noise = draw(3, 1, 8, 8)
    made, _ = wrapped(lambda noisy: noise)
    torch.testing.assert_close(made(images, noise, sigma), images, atol=2e-6, rtol=0)


def test_the_network_is_given_scaled_images_and_the_step() -> None:
    images, noise = draw(3, 1, 8, 8)
    made, unet = wrapped(torch.zeros_like)
    made(images, noise, 0.5)
    ((noisy, step),) = unet.seen
    assert step == 259
    abar = SCHEDULES["linear"][259]
    literal = abar.sqrt() * (2 * images - 1) + (1 - abar).sqrt() * noise
    torch.testing.assert_close(noisy, literal, atol=2e-6, rtol=0)
    times = torch.full((3,), 259)
    theirs = linear().add_noise(2 * images - 1, noise, times)
    torch.testing.assert_close(noisy, theirs, atol=2e-6, rtol=0)


def test_the_answer_is_the_literal_formula_and_that_of_diffusers(trained: tuple[Any, Any]) -> None:
    unet, scheduler = trained
    images, noise = draw(3, 1, 16, 16)
    step = time_step(0.25, scheduler.alphas_cumprod)
    abar = scheduler.alphas_cumprod[step]
    noisy = abar.sqrt() * (2 * images - 1) + (1 - abar).sqrt() * noise
    with torch.no_grad():
        seen = unet.eval()(noisy, step).sample
    literal = ((noisy - (1 - abar).sqrt() * seen) / abar.sqrt()).clamp(-1, 1)
    theirs = scheduler.step(seen, step, noisy).pred_original_sample
    found = Denoiser(unet, scheduler, "float32")(images, noise, 0.25)
    torch.testing.assert_close(found, (literal + 1) / 2, atol=1e-5, rtol=0)
    torch.testing.assert_close(found, (theirs + 1) / 2, atol=1e-5, rtol=0)


def test_learned_variances_are_left_aside() -> None:
    images, noise = draw(2, 3, 8, 8)
    made, _ = wrapped(lambda noisy: torch.cat([noise, torch.full_like(noise, 9)], 1), channels=3)
    torch.testing.assert_close(made(images, noise, 0.25), images, atol=2e-6, rtol=0)


def test_without_noise_images_stay_as_they_are() -> None:
    images, noise = draw(2, 1, 8, 8)
    made, unet = wrapped(torch.zeros_like)
    assert torch.equal(made(images, noise, 0), images)
    assert not unet.seen


def test_gradients_are_finite_differences(trained: tuple[Any, Any]) -> None:
    images, noise = draw(1, 1, 16, 16)
    images = (images / 2 + 0.25).requires_grad_()  # away from where the clipping has a corner
    made = Denoiser(*trained, "float32")
    weights, direction = torch.randn(
        2, *images.shape, generator=Generator().manual_seed(5)
    ).unbind()
    (made(images, noise, 0.12) * weights).sum().backward()
    assert images.grad is not None
    with torch.no_grad():
        ahead, behind = (
            (made(images + h * direction, noise, 0.12) * weights).sum() for h in (1e-3, -1e-3)
        )
    slope = float((ahead - behind) / 2e-3)
    assert float((images.grad * direction).sum()) == pytest.approx(slope, rel=0.03)
    assert all(weight.grad is None for weight in made.unet.parameters())


def test_bfloat16_hardly_differs_and_leaves_the_given_network_alone(
    trained: tuple[Any, Any],
) -> None:
    images, noise = draw(4, 1, 16, 16)
    fast, exact = Denoiser(*trained), Denoiser(*trained, "float32")
    found = fast(images, noise, 0.25)
    assert found.dtype == torch.float32
    assert float((found - exact(images, noise, 0.25)).abs().mean()) < 0.01
    assert fast.sha256 == exact.sha256
    assert all(weight.dtype == torch.float32 for weight in trained[0].parameters())
    assert all(weight.requires_grad for weight in trained[0].parameters())


def test_images_that_do_not_fit_are_refused() -> None:
    made, _ = wrapped(torch.zeros_like)
    with pytest.raises(DenoiserError, match="for images of 1 channels, these have 3; choose"):
        made(*draw(2, 3, 8, 8), 0.25)
    with pytest.raises(DenoiserError, match="that 4 divides, these images have 8 x 10; choose"):
        made(*draw(2, 1, 8, 10), 0.25)


def test_a_network_that_predicts_something_else_is_refused() -> None:
    other = diffusers.DDPMScheduler(prediction_type="v_prediction")
    with pytest.raises(DenoiserError, match="predicts 'v_prediction'; choose one"):
        Denoiser(Fake(torch.zeros_like), other)  # type: ignore[arg-type]


# Training.


def test_training_lowers_the_loss_and_denoises(digits: Source, trained: tuple[Any, Any]) -> None:
    raw = denoising.train(digits.train, steps=1, seed=3, width=8)
    noisy, before = denoising.errors(Denoiser(*raw), digits.train, 0.25, 0)
    again, after = denoising.errors(Denoiser(*trained), digits.train, 0.25, 0)
    assert noisy == again == pytest.approx(0.25**2, rel=0.01)
    assert after < 0.5 * noisy
    assert after < 0.5 * before


def test_training_follows_its_seed_alone(digits: Source) -> None:
    def sha(seed: int) -> str:
        return Denoiser(*denoising.train(digits.train, steps=2, seed=seed, width=8)).sha256

    torch.manual_seed(11)
    first, state = sha(1), torch.get_rng_state()
    torch.manual_seed(12)
    assert sha(1) == first != sha(2)
    torch.manual_seed(11)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_schedule_is_the_start_of_the_published_one(trained: tuple[Any, Any]) -> None:
    abar = trained[1].alphas_cumprod
    torch.testing.assert_close(abar, SCHEDULES["linear"][: len(abar)], atol=1e-6, rtol=1e-5)
    assert [time_step(s, abar) for s in (0.12, 0.25, 0.5, 1)] == [70, 145, 259, 396]
    with pytest.raises(DenoiserError, match="choose sigma from 0 to 1"):
        time_step(2, abar)


@pytest.mark.parametrize(("side", "levels"), [(12, 3), (10, 2), (9, 1)])
def test_there_are_as_many_levels_as_the_images_allow(side: int, levels: int) -> None:
    pixels = torch.randint(256, (20, 3, side, side), dtype=torch.uint8)
    images = data.images.ImageSet(pixels, torch.zeros(20, dtype=torch.int64))
    made = Denoiser(*denoising.train(images, steps=1, width=8))
    assert len(made.unet.config["block_out_channels"]) == levels
    assert made(*draw(2, 3, side, side), 0.25).shape == (2, 3, side, side)


def test_images_are_held_out(digits: Source) -> None:
    train, others = denoising.hold_out(digits.train, None, 0)
    assert len(train) + len(others) == len(digits.train)
    assert len(others) == len(digits.train) // 10
    both = torch.cat([train.pixels, others.pixels]).flatten(1).long()
    assert torch.equal(both.sum(0), digits.train.pixels.flatten(1).long().sum(0))
    train, others = denoising.hold_out(others, digits.train, 0)
    assert (len(train), len(others)) == (179, 500)


# Files.


def test_what_is_saved_is_loaded_by_folder_and_by_name(
    trained: tuple[Any, Any], tmp_path: Path
) -> None:
    images, noise = draw(2, 1, 16, 16)
    made = Denoiser(*trained)
    for name in (tmp_path / "mine", "shirts"):
        folder = name if isinstance(name, Path) else denoising.folder_of(name)
        denoising.save(*trained, folder)
        found = denoising.load(str(name))
        assert found.sha256 == made.sha256
        assert torch.equal(found(images, noise, 0.5), made(images, noise, 0.5))
        assert [path.name for path in folder.parent.iterdir() if "part" in path.name] == []
    assert not [*tmp_path.rglob("*.bin")]
    assert (tmp_path / "cache/poisongames/denoisers/shirts/model_index.json").is_file()


def test_in_the_cache_a_new_denoiser_takes_the_place_of_the_old(
    digits: Source, trained: tuple[Any, Any]
) -> None:
    other = denoising.train(digits.train, steps=1, width=8)
    for pair in (other, trained):
        denoising.save(*pair, denoising.folder_of("shirts"))
    assert denoising.load("shirts").sha256 == Denoiser(*trained).sha256 != Denoiser(*other).sha256


def test_a_folder_that_is_in_use_is_left_alone(trained: tuple[Any, Any], tmp_path: Path) -> None:
    letters = tmp_path / "letters"
    letters.mkdir()
    denoising.check_folder(letters)
    (letters / "first").write_text("dear")
    for folder in (letters, letters / "first"):
        with pytest.raises(DenoiserError, match="is there already; remove it or choose another"):
            denoising.save(*trained, folder)
    with pytest.raises(DenoiserError, match="cannot be written to"):
        denoising.save(*trained, letters / "first" / "second")
    assert [path.name for path in letters.iterdir()] == ["first"]
    assert (letters / "first").read_text() == "dear"


def test_what_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("shirts", str(tmp_path / "nowhere"), str(tmp_path / "empty"), "./mine", ""):
        with pytest.raises(DenoiserError, match="train it with poisongames denoiser train") as said:
            denoising.load(name)
        assert "model_index.json" in str(said.value)


def test_a_damaged_denoiser_is_one_sentence(trained: tuple[Any, Any], tmp_path: Path) -> None:
    denoising.save(*trained, tmp_path / "mine")
    (weights,) = tmp_path.rglob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(DenoiserError, match=f"could not be read from {tmp_path / 'mine'}") as said:
        denoising.load(str(tmp_path / "mine"))
    assert "\n" not in str(said.value)


def test_pickled_weights_are_never_read(trained: tuple[Any, Any], tmp_path: Path) -> None:
    denoising.save(*trained, tmp_path / "mine")
    (weights,) = tmp_path.rglob("*.safetensors")
    weights.unlink()
    torch.save(trained[0].state_dict(), weights.with_suffix(".bin"))
    with pytest.raises(DenoiserError, match="could not be read from"):
        denoising.load(str(tmp_path / "mine"))


def test_the_hub_out_of_reach_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DenoiserError, match=r"could not be fetched from the Hugging Face") as said:
        denoising.load("google/no-such-denoiser")
    assert "\n" not in str(said.value)
    assert "name a folder that holds it" in str(said.value)


# The command.


def test_the_command_trains_and_says_where(tmp_path: Path) -> None:
    words = ["denoiser", "train", "--dataset", "digits", "--steps", "2", "--device", "cpu"]
    result = CliRunner().invoke(app, words, env={"COLUMNS": "250"})
    assert result.exit_code == 0, result.output
    folder = tmp_path / "cache/poisongames/denoisers/digits"
    assert f"saved to {folder}" in result.output
    assert "on 179 held-out images at sigma 0.25 the mean squared error is 0.06" in result.output
    assert denoising.load("digits").channels == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset", "digit"], "did you mean 'digits'?"),
        (["--dataset", "digits", "--device", "tpu"], "choose auto, cpu or cuda"),
        (["--dataset", "fashion_mnist", "--data-dir", "nowhere"], "nowhere is no folder"),
        (["--dataset", "digits", "--out", str(Path(__file__).parent)], "is there already; remove"),
    ],
)
def test_the_commands_errors_are_one_sentence(words: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["denoiser", "train", *words], env={"COLUMNS": "250"})
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output
