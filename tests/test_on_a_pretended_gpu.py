"""What a GPU would be asked to do: everything is played on a pretended one, and equals the CPU."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pretended_devices import Gpu
from pretended_gpu import pretended_gpu
from torch import Tensor, nn

from backdoor_defenses.smoothinv import training
from benchmark import graphs
from benchmark.api import Attack, Defense, Plugin, Repair, TrustedData
from benchmark.games.robustness.settings import Tuning
from benchmark.graphs import ORDINARY_CALLS, Graphed
from benchmark.images import ImageSet
from benchmark.protocol import Augmentation, Protocol, Recipe
from benchmark.records.cell import Cell, Victim
from benchmark.registry import Registry
from benchmark.runs.context import Setup
from benchmark.runs.plan import plan, plan_tuning
from benchmark.runs.tasks import Worker
from benchmark.specs import parameters
from benchmark.training import Trainer

RAN_SLOWLY = "a step cannot be recorded"
pytestmark = pytest.mark.filterwarnings(f"error:{RAN_SLOWLY}")


@pytest.fixture(autouse=True)
def _one_type_on_both_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU has bfloat16, this CPU perhaps not; results are compared to the bit."""
    for module in (
        "benchmark.training",
        "benchmark.inversion",
        "backdoor_defenses.smoothinv.denoiser",
    ):
        monkeypatch.setattr(f"{module}.compute_type", lambda device, precision="": torch.float32)


# --- the harness itself


@pytest.fixture
def gpu() -> Iterator[Gpu]:
    with pretended_gpu() as gpu:
        yield gpu


def here(*shape: int) -> Tensor:
    return torch.ones(shape)


def there(*shape: int) -> Tensor:
    return torch.ones(shape, device="cuda")


@pytest.mark.parametrize(
    "mixed",
    [
        lambda: there(3) + here(3),
        lambda: here(3) + there(),
        lambda: here(3).mul_(there(3)),
        lambda: here().add_(there()),
        lambda: there(3) @ here(3),
        lambda: torch.cat([there(3), here(3)]),
        lambda: torch.stack([there(), here()]),
        lambda: torch.where(there(3) > 0, here(3), 0.0),
        lambda: here(3)[there(2).long()],
        lambda: there(3).index_select(0, here(2).long()),
        lambda: there(3, 3).gather(1, here(3, 1).long()),
        lambda: there(3).__setitem__(there(2).long(), here(2)),
        lambda: nn.Conv2d(1, 1, 1)(there(1, 1, 2, 2)),
        lambda: nn.BatchNorm2d(1).to("cuda")(here(1, 1, 2, 2)),
        lambda: nn.functional.cross_entropy(there(2, 3), here(2).long()),
        lambda: setattr(nn.Parameter(there(2)), "grad", here(2)),
        lambda: torch.rand(3, generator=torch.Generator(), device="cuda"),
        lambda: torch.rand(3, generator=torch.Generator("cuda")),
        lambda: there(3).normal_(generator=torch.Generator()),
        lambda: torch.bernoulli(there(3), generator=torch.Generator()),
    ],
)
def test_devices_do_not_mix(gpu: Gpu, mixed: Callable[[], object]) -> None:
    with pytest.raises(RuntimeError, match="device"):
        mixed()


@pytest.mark.parametrize("array", [Tensor.numpy, np.asarray])
def test_numpy_gets_copies_of_the_host_only(gpu: Gpu, array: Callable[[Tensor], Any]) -> None:
    on_device = there(3)
    with pytest.raises(TypeError, match="can't convert cuda:0"):
        array(on_device)
    array(on_device.cpu())[:] = 2
    assert torch.equal(on_device.cpu(), here(3))


def test_what_is_on_the_device_stays_there(gpu: Gpu) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)).to(torch.device("cuda"))
    copied = copy.deepcopy(model)
    optimizer = torch.optim.Adam(copied.parameters())
    images = torch.rand(2, 1, 3, 3, generator=torch.Generator("cuda"), device="cuda")
    with torch.autocast("cuda", torch.bfloat16):
        copied(images).square().mean().backward()
    optimizer.step()
    gradients = [parameter.grad for parameter in copied.parameters()]
    moments = [state["exp_avg"] for state in optimizer.state.values()]
    with torch.inference_mode():
        answers = model(images)
    index = images[:, 0, 0, 0].argsort()
    made = [torch.zeros_like(images), images.new_tensor([1.0]), torch.full((), 2, device="cuda")]
    tensors = [*copied.state_dict().values(), *gradients, *moments, answers, images[index], *made]
    assert {str(tensor.device) for tensor in tensors if tensor is not None} == {"cuda:0"}
    assert {str(value.device) for value in model.cpu().state_dict().values()} == {"cpu"}
    assert {str(value.device) for value in copied.state_dict().values()} == {"cuda:0"}
    assert not torch.zeros_like(images, device="cpu").is_cuda


def test_it_ends() -> None:
    generator, available = torch.Generator, torch.cuda.is_available
    with pretended_gpu():
        left = torch.ones(2, device="cuda")
        assert torch.cuda.is_available()
    assert torch.Generator is generator
    assert torch.cuda.is_available is available
    with pretended_gpu():
        assert left.is_cuda  # for tests that share what is dear


@pytest.mark.parametrize(
    "wait",
    [
        lambda on_device: on_device.sum().item(),
        lambda on_device: int(on_device[0]),
        lambda on_device: bool((on_device > 0).all()),
        lambda on_device: on_device[on_device > 0],
        lambda on_device: on_device.nonzero(),
        lambda on_device: on_device.masked_select(on_device > 0),
        lambda on_device: on_device.unique(),
        lambda on_device: on_device.repeat_interleave(on_device.long()),
        lambda on_device: on_device.masked_fill(on_device > 0, on_device[0]),
        lambda on_device: torch.equal(on_device, on_device),
        lambda on_device: on_device.tolist(),
        lambda on_device: on_device.cpu(),
        lambda on_device: here(3).copy_(on_device),
        lambda on_device: on_device.copy_(here(3)),
        lambda on_device: here(3).to(on_device),
        lambda on_device: torch.tensor([1.0, 2.0], device="cuda"),
        lambda on_device: on_device[here(2).long()],
        lambda on_device: on_device[[0, 2]],
        lambda on_device: torch.full((2,), on_device[0]),
        lambda on_device: torch.cuda.synchronize(),
    ],
)
def test_the_host_waits(gpu: Gpu, wait: Callable[[Tensor], object]) -> None:
    on_device = there(3)
    for mode in (torch.inference_mode, torch.enable_grad):
        with mode():
            wait(on_device)
        assert [sync.where.split(":")[0] for sync in gpu.syncs] == [Path(__file__).name]
        gpu.syncs.clear()


@pytest.mark.parametrize(
    "go_on",
    [
        lambda on_device: on_device * 2 + here(),
        lambda on_device: torch.where(on_device > 0, 0.0, on_device),
        lambda on_device: on_device.masked_fill(on_device > 0, 2.0),
        lambda on_device: on_device[on_device.long()],
        lambda on_device: on_device[1:].fill_(3),
        lambda on_device: on_device.repeat_interleave(2),
        lambda on_device: nn.functional.one_hot(on_device.long(), 4),
        lambda on_device: on_device.quantile(0.5),
        lambda on_device: on_device.to("cuda", torch.float64),
        lambda on_device: on_device.copy_(on_device * 2),
    ],
)
def test_the_host_goes_on(gpu: Gpu, go_on: Callable[[Tensor], object]) -> None:
    go_on(there(3))
    assert not gpu.syncs


class Momentum:
    """SGD by hand, whose state and rate can be kept rightly or wrongly."""

    def __init__(self, device: str) -> None:
        self.weight = torch.ones(3, device=device)
        self.speed = torch.zeros(3, device=device)
        self.rate = torch.tensor(0.1, device=device)
        self.rate_on_host, self.rate_in_python = torch.tensor(0.1), 0.1

    def move(self, inputs: Tensor, rate: Tensor | float) -> Tensor:
        self.speed.mul_(0.9).add_(inputs)
        self.weight.sub_(self.speed * rate)
        return self.weight * 2

    def right(self, inputs: Tensor) -> Tensor:
        return self.move(inputs, self.rate)

    def number_in_python(self, inputs: Tensor) -> Tensor:
        return self.move(inputs, self.rate_in_python)

    def number_on_host(self, inputs: Tensor) -> Tensor:
        return self.move(inputs, self.rate_on_host)

    def state_replaced(self, inputs: Tensor) -> Tensor:
        self.speed = self.speed * 0.9 + inputs
        return self.move(inputs, self.rate)

    def slow_down(self) -> None:
        self.rate.mul_(0.5)
        self.rate_on_host.mul_(0.5)
        self.rate_in_python *= 0.5


def trajectory(how: str, device: str, recorded: bool) -> Tensor:
    state = Momentum(device)
    step = Graphed(getattr(state, how)) if recorded else getattr(state, how)
    found = []
    for number in range(8):
        found.append(step(torch.full((3,), float(number), device=device)).cpu())
        state.slow_down()
    return torch.stack(found)


@pytest.mark.parametrize("how", ["right", "number_in_python", "number_on_host", "state_replaced"])
def test_a_recording_keeps_numbers_and_memory(gpu: Gpu, how: str) -> None:
    plain = trajectory(how, "cpu", recorded=True)
    assert torch.equal(trajectory(how, "cuda", recorded=False), plain)
    agrees = torch.equal(trajectory(how, "cuda", recorded=True), plain)
    assert agrees == (how == "right")


def test_a_capture_computes_nothing(gpu: Gpu) -> None:
    written, graph = there(3), torch.cuda.CUDAGraph()
    torch.manual_seed(0)
    expected = [torch.rand(3) for _ in range(2)]
    torch.manual_seed(0)
    with torch.cuda.graph(graph):
        drawn = torch.rand(3, device="cuda")
        written.add_(1)
    assert torch.equal(written.cpu(), here(3))
    assert bool(drawn.isnan().all())
    for number, draw in enumerate(expected, start=2):
        graph.replay()
        assert torch.equal(drawn.cpu(), draw)
        assert torch.equal(written.cpu(), torch.full((3,), float(number)))


@pytest.mark.parametrize(
    "forbidden",
    [
        lambda on_device: on_device.sum().item(),
        lambda on_device: on_device[on_device > 0],
        lambda on_device: on_device + torch.tensor([1.0, 2.0, 3.0], device="cuda"),
        lambda on_device: torch.cuda.synchronize(),
        lambda on_device: on_device.normal_(generator=torch.Generator("cuda")),
        lambda on_device: torch.optim.Adam([on_device.requires_grad_()]).step(),
    ],
)
def test_a_capture_refuses(gpu: Gpu, forbidden: Callable[[Tensor], object]) -> None:
    on_device = there(3)
    with pytest.raises(RuntimeError, match="captur"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        forbidden(on_device)


# --- steps that are recorded


class Learner:
    """A small network that learns, and counts how often Python took a step."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        layers = [nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5)]
        self.model = nn.Sequential(*layers).to("cuda").to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.1, 0.9, weight_decay=1e-3)
        self.taken = 0

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        self.taken += 1
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16):
            loss = nn.functional.cross_entropy(self.model(images), labels)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def looks(self, images: Tensor, labels: Tensor) -> Tensor:
        loss = self.step(images, labels)
        assert loss.item() > 0
        return loss

    def learn(self, step: Callable[[Tensor, Tensor], Tensor], sizes: list[int]) -> list[Tensor]:
        rng = torch.Generator("cuda").manual_seed(1)
        losses = []
        for size in sizes:
            images = torch.rand(size, 2, 6, 6, generator=rng, device="cuda")
            labels = torch.randint(5, (size,), generator=rng, device="cuda")
            losses.append(step(images, labels).clone())
        return [*losses, *self.model.state_dict().values()]


@pytest.mark.parametrize(("sizes", "taken"), [([4] * 10, 4), ([4] * 5 + [3] + [4] * 4, 5)])
def test_recorded_steps_learn_the_same(gpu: Gpu, sizes: list[int], taken: int) -> None:
    plain, recorded = Learner(), Learner()
    expected = plain.learn(plain.step, sizes)
    found = recorded.learn(Graphed(recorded.step), sizes)
    assert all(torch.equal(*pair) for pair in zip(expected, found, strict=True))
    assert (plain.taken, recorded.taken) == (10, taken)


def test_a_step_that_cannot_be_recorded_is_taken_as_it_is(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Graphed, "failed", False)
    plain, refused, later = Learner(), Learner(), Learner()
    expected = plain.learn(plain.step, [4] * 10)
    with pytest.warns(UserWarning, match=RAN_SLOWLY) as warned:
        found = refused.learn(Graphed(refused.looks), [4] * 10)
    # A failed recording leaves traces on the device, so no other is tried.
    again = later.learn(Graphed(later.step), [4] * 10)
    assert (len(warned), later.taken) == (1, 10)
    for learnt in (found, again):
        assert all(torch.equal(*pair) for pair in zip(expected, learnt, strict=True))


def test_a_changing_rate_reaches_recorded_training(
    gpu: Gpu, both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = both.cuda.experiment
    recipe = Recipe(epochs=2, batch_size=50, learning_rate=0.1, schedule="cosine", warmup=0.3)
    weights = []
    for ordinary in (ORDINARY_CALLS, 1000):
        monkeypatch.setattr(graphs, "ORDINARY_CALLS", ordinary)
        model = experiment.new_model(experiment.rng("model"))
        Trainer(recipe, Augmentation(pad=1)).fit(
            model, experiment.splits.train, experiment.rng("fit")
        )
        weights.append(model.state_dict().values())
    assert all(torch.equal(*pair) for pair in zip(*weights, strict=True))


# --- the benchmark

#: Few steps of everything, and images of 16x16 pixels; further settings play what those leave out.
SMALL = {"steps": 5, "teacher_steps": 5, "batch_size": 16, "samples": 2, "restarts": 2}
SETTINGS = {
    "tsb": "side=0.25",
    "strip": "overlays=4",
    "smoothinv-diffusion": "denoiser={denoiser}",
    "pcb": "optimizer=sgd",  # the Adam that can be recorded rounds otherwise
}
FURTHER = [
    *("lsp:base=a-blend", "pcb:base=badnets,optimizer=sgd", "wanet:clean_label=False"),
    "topoprior:steps=4,warmup=1,topology_after=1",
    "calibrated-trigger-inversion:trigger=mask,steps=4,repair.steps=4",
    "fine-pruning:scope=all,steps=4",
    "exray:steps=4,alarm=0,detector=neural-cleanse-additive,detector.steps=4",
    "abs:steps=4,kept=0",
    "target-identification:inverter=neural-cleanse-image,inverter.steps=3",
    "spectral-signatures+pivotal-tuning:steps=5,batch_size=16+strip:overlays=4",
]


def small(plugin: type[Plugin], prefix: str = "") -> list[str]:
    """Settings that make a plugin, and the plugins inside it, quick."""
    found = []
    for field, (_, default) in parameters(plugin).items():
        if isinstance(default, Plugin):
            found += small(type(default), f"{prefix}{field}.")
        elif field in SMALL:
            found.append(f"{prefix}{field}={SMALL[field]}")
    return found


#: Played for every change; all others at night.
EVERY_TIME = ("badnets", "lsp", "pcb", "pivotal-tuning", "neural-cleanse", "strip", "smoothinv")


def specs(kind: type[Plugin]) -> list[Any]:
    """All plugins of a kind with small settings, and the further ones."""
    registry = Registry()
    found: list[str] = []
    for plugin in [entry.plugin for entry in registry.entries if entry.kind is kind]:
        settings = [*small(plugin), *filter(None, [SETTINGS.get(plugin.name)])]
        found.append(f"{plugin.name}:{','.join(settings)}")
        found += [spec for spec in FURTHER if spec.split(":")[0].split("+")[0] == plugin.name]
    night = pytest.mark.nightly
    marks = {spec: () if spec.split(":")[0] in EVERY_TIME else night for spec in found}
    return [pytest.param(spec, marks=marks[spec]) for spec in found]


@dataclass(frozen=True)
class Both:
    """Two workers that play one protocol, on the CPU and on the pretended GPU."""

    cpu: Worker
    cuda: Worker

    def play(self, play: Callable[[Worker], Any]) -> tuple[Any, Any]:
        on_cpu = play(self.cpu)
        with pretended_gpu():
            return on_cpu, play(self.cuda)

    @property
    def protocol(self) -> Protocol:
        return self.cpu.setup.protocol


@pytest.fixture(scope="module")
def both(
    tiny: Protocol,
    with_population: Protocol,
    with_inversion: Protocol,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Both]:
    torch.set_num_threads(1)
    assert with_population.detectability is not None
    assert with_inversion.inversion is not None
    once = {"models": 1, "repeats": 1}
    few = {"start_images": 2, "runs": 1, "configurations": {}, "sigmas": (0.5,)}
    # A constant rate, since a rate is rounded to float32 on a GPU; and a smaller last batch.
    recipe = Recipe(epochs=2, batch_size=64, learning_rate=0.1, schedule="constant")
    grid = {"weight-decay": {"learning_rate": (0.01, 0.1), "decay": (0.1,)}}
    own: dict[str, Any] = {"draws": 1, "steps": 6, "batch_size": 16, "learning_rate": 0.01}
    own |= {"suspect": 9, "enough": 0.0}
    protocol = tiny.model_copy(
        update={
            "detectability": with_population.detectability.model_copy(update=once),
            "inversion": with_inversion.inversion.model_copy(update=few),
            "tuning": Tuning.model_construct(**own, grids=grid),  # a real grid has 20 points
            "recipes": {"quick": recipe},
            "recipe": "quick",
        }
    )
    backend = torch.backends.cudnn
    before = backend.deterministic, backend.allow_tf32
    root = tmp_path_factory.mktemp("both")
    for device in ("cpu", "cuda"):
        (root / device).mkdir()
    workers = {"cpu": Worker(Setup(protocol, "quick", "cpu", (), None, root / "cpu"))}
    with pretended_gpu():
        workers["cuda"] = Worker(Setup(protocol, "quick", "cuda", (), None, root / "cuda"))
    yield Both(**workers)
    backend.deterministic, backend.allow_tf32 = before


@pytest.fixture(scope="module")
def denoiser(both: Both, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("denoiser") / "denoiser"
    unet, scheduler = training.train(both.cpu.experiment.splits.train, steps=1)
    training.save(unet, scheduler, folder)
    return folder


def trained(worker: Worker, victim: Victim) -> dict[str, Any]:
    """What was noted of a victim, down to the hash of its weights."""
    for one in (victim.clean, victim):
        assert worker.train_victim(one) is None
    facts = worker.store.victims.facts(victim.key)
    state = worker.store.victims.tensors(victim.key, "state")
    del facts["seconds"]
    return facts | {"state": {name: tensor.tolist() for name, tensor in state.items()}}


def played(worker: Worker, cell: Cell) -> dict[str, Any]:
    """A record without what a device may differ in: the time and the memory that it took."""
    for victim in cell.needs():
        assert worker.train_victim(victim) is None
    assert worker.play_cell(cell) is None
    path = worker.setup.root / "records" / f"{cell.name}.json"
    record: dict[str, Any] = json.loads(path.read_text())
    for scan in record.get("scans", ()):
        del scan["seconds"]
    del record["cost"]
    return record


@pytest.mark.parametrize("spec", specs(Attack))
def test_attacks_train_the_victim_that_they_train_on_the_cpu(both: Both, spec: str) -> None:
    name = spec.split(":")[0]
    cells = plan(both.protocol, both.cpu.registry, attacks=[spec], defenses=["weight-decay"])
    victim = next(cell.victim for cell in cells if cell.victim.attack.name == name)
    on_cpu, on_gpu = both.play(lambda worker: trained(worker, victim))
    assert on_gpu == on_cpu


@pytest.mark.parametrize("spec", specs(Defense))
def test_defenses_find_what_they_find_on_the_cpu(
    both: Both, spec: str, request: pytest.FixtureRequest
) -> None:
    if "{denoiser}" in spec:
        spec = spec.format(denoiser=request.getfixturevalue("denoiser"))
    cells = plan(both.protocol, both.cpu.registry, attacks=["badnets"], defenses=[spec])
    cell = next(c for c in cells if c.defense.stages and c.victim.attack.name == "badnets")
    on_cpu, on_gpu = both.play(lambda worker: played(worker, cell))
    assert on_gpu == on_cpu
    assert on_gpu["status"] != "failed"


def test_a_defender_who_tunes_finds_what_he_finds_on_the_cpu(both: Both) -> None:
    def search(worker: Worker) -> str:
        folder = worker.setup.root / "tuned"
        (tune, *_) = plan_tuning(both.protocol, worker.registry, folder, ["weight-decay"])
        trained(worker, tune.suspect)
        assert worker.tune(tune) is None
        return tune.path.read_text()

    on_cpu, on_gpu = both.play(search)
    assert on_gpu == on_cpu


# --- nothing waits in a loop


def waits(gpu: Gpu, work: Callable[[], object]) -> int:
    """How often the host waits for the device during some work, capturing left out."""
    gpu.syncs.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        work()
    return len(gpu.syncs)


@pytest.mark.parametrize("repeated", [False, True])
def test_training_does_not_wait_in_every_step(gpu: Gpu, both: Both, repeated: bool) -> None:
    experiment = both.cuda.experiment
    trainer = Trainer(both.protocol.recipes["quick"], Augmentation(pad=1, flip=True))

    def fit(images: int) -> None:
        rows = torch.arange(images, device="cuda") % len(experiment.splits.train)
        data = ImageSet(experiment.splits.train.pixels[rows], experiment.splits.train.labels[rows])
        repeats = torch.ones_like(rows) if repeated else None
        trainer.fit(
            experiment.new_model(experiment.rng("model")),
            data,
            experiment.rng("fit"),
            repeats=repeats,
        )

    assert waits(gpu, lambda: fit(320)) == waits(gpu, lambda: fit(640))


REPAIRS = [
    entry.plugin.name
    for entry in Registry().entries
    if issubclass(entry.plugin, Repair) and "steps" in parameters(entry.plugin)
]


@pytest.mark.parametrize("name", REPAIRS)
def test_repairs_do_not_wait_in_every_step(gpu: Gpu, both: Both, name: str) -> None:
    experiment, registry = both.cuda.experiment, both.cpu.registry
    others = [text for text in small(registry.find(Defense, name)) if not text.startswith("steps")]
    trusted: TrustedData = experiment.trusted(0.15, 0)

    def repair(steps: int) -> None:
        plugin = registry.create(Defense, f"{name}:{','.join([f'steps={steps}', *others])}")
        assert isinstance(plugin, Repair)
        taken = plugin.repair(
            experiment.new_model(experiment.rng("model")), trusted, experiment.rng("repair")
        )
        assert sum(1 for _ in taken) == steps

    assert waits(gpu, lambda: repair(6)) == waits(gpu, lambda: repair(12))
