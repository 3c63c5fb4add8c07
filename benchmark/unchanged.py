"""Settings of the process and of its libraries, which importing a plugin leaves as they are."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from operator import attrgetter
from typing import Any

from benchmark.errors import UserError
from benchmark.process_settings import Setting, of_process, of_python, parts

#: Settings of torch that have a function to read and one to write them.
_FUNCTIONS = {
    "torch's default dtype": ("get_default_dtype", "set_default_dtype"),
    "torch's number of threads": ("get_num_threads", "set_num_threads"),
    "whether torch keeps gradients": ("is_grad_enabled", "set_grad_enabled"),
    "whether torch looks for anomalies": ("is_anomaly_enabled", "set_anomaly_enabled"),
    "whether torch is deterministic": (
        "are_deterministic_algorithms_enabled",
        "use_deterministic_algorithms",
    ),
}
#: Those that are attributes, below `torch.backends`.
_BACKENDS = (
    # Those of a whole backend come before those of its parts, which follow them.
    *("fp32_precision", "cudnn.fp32_precision", "mkldnn.fp32_precision"),
    *("cudnn.rnn.fp32_precision", "mkldnn.rnn.fp32_precision"),
    *("mkldnn.enabled", "mkldnn.deterministic", "cudnn.enabled", "cudnn.deterministic"),
    *("cudnn.benchmark", "mkldnn.matmul.fp32_precision", "mkldnn.conv.fp32_precision"),
    *("cudnn.conv.fp32_precision", "cuda.matmul.fp32_precision"),
    "cuda.matmul.allow_fp16_reduced_precision_reduction",
    "cuda.matmul.allow_bf16_reduced_precision_reduction",
)
#: Libraries, and what of them lies deeper: what is replaced in these would be so for everybody.
_LIBRARIES = {"numpy": (), "torch": ("Tensor", "nn", "nn.Module", "nn.functional", "optim")}


class ChangedSetting(UserError):
    """A plugin whose import changes what others are played with."""


def settings() -> list[Setting]:
    """What results depend on; torch's and numpy's where those are imported."""
    found = of_python()
    if (numpy := sys.modules.get("numpy")) is not None:
        found += _of_numpy(numpy)
    if (torch := sys.modules.get("torch")) is not None:
        found += _of_torch(torch)
    return found


def _replaceable() -> list[Setting]:
    """What libraries have, where they are imported: functions and classes that all share."""
    found = []
    for name, inner in _LIBRARIES.items():
        if (library := sys.modules.get(name)) is not None:
            home = os.path.dirname(library.__file__ or "")
            found += [parts(name, library, home)]
            found += [parts(f"{name}.{one}", attrgetter(one)(library), home) for one in inner]
    return found


def everything() -> list[Setting]:
    """All that the import of a plugin must leave as it is."""
    # First what it begins: a timer ends the process where its handler alone is put back.
    return [*of_process(), *_replaceable(), *settings()]


@contextmanager
def unchanged() -> Iterator[None]:
    """Put back what is changed within.

    Raises:
        ChangedSetting: something was that is not forgiven; it names what.
    """
    with restored(everything()) as changed:
        yield
    if changed:
        raise ChangedSetting(f"its import changes {' and '.join(changed)}; leave that as it is")


@contextmanager
def restored(found: Sequence[Setting]) -> Iterator[list[str]]:
    """Put back what is changed within; afterwards the list names what is not forgiven."""
    before = [(setting, setting.get()) for setting in found]
    changed: list[str] = []
    try:
        yield changed
    finally:
        for setting, value in before:
            try:
                same = setting.put is None or setting.get() == value
                if setting.put is not None and not same:
                    setting.put(value)
            except Exception:  # what cannot be read now, or put back, keeps nothing else so
                same = False
            if not same and not setting.forgiven:
                changed.append(setting.name)


def _of_numpy(numpy: Any) -> list[Setting]:
    def get() -> tuple[Any, ...]:
        name, keys, *others = numpy.random.get_state()
        return name, keys.tobytes(), *others

    def put(state: tuple[Any, ...]) -> None:
        name, keys, *others = state
        numpy.random.set_state((name, numpy.frombuffer(keys, numpy.uint32), *others))

    return [
        Setting("numpy's global random state", get, put, True),
        Setting("numpy's errors", numpy.geterr, lambda errors: numpy.seterr(**errors)),
    ]


def _of_torch(torch: Any) -> list[Setting]:
    cpu = torch.device("cpu")
    found = [
        Setting(
            "torch's default device",
            partial(_device, torch),
            lambda device: torch.set_default_device(None if device == cpu else device),
        ),
        *(
            Setting(name, getattr(torch, get), getattr(torch, put))
            for name, (get, put) in _FUNCTIONS.items()
        ),
        Setting(
            "torch's global random state",
            lambda: torch.get_rng_state().numpy().tobytes(),
            lambda state: torch.set_rng_state(
                torch.frombuffer(bytearray(state), dtype=torch.uint8)
            ),
            True,
        ),
        Setting(
            "whether torch flushes denormal numbers",
            lambda: sys.float_info.min / 2 == 0,  # which Python's own numbers tell
            torch.set_flush_denormal,
        ),
        # Before those of backends, which it changes as well.
        Setting(
            "torch's precision of products",
            partial(_precision, torch),
            lambda precision: precision and torch.set_float32_matmul_precision(precision),
        ),
    ]
    for place in _BACKENDS:
        module, _, name = place.rpartition(".")
        try:
            owner = attrgetter(module)(torch.backends) if module else torch.backends
            getattr(owner, name)
        except AttributeError:  # of an older torch
            continue
        found.append(
            Setting(
                f"torch.backends.{place}",
                partial(getattr, owner, name),
                partial(setattr, owner, name),
            )
        )
    # Nobody can put this back; a run begins new processes where a plugin uses it so early.
    return [*found, Setting("the GPU", torch.cuda.is_initialized, None)]


def _device(torch: Any) -> Any:
    try:
        return torch.get_default_device()
    except (RuntimeError, AssertionError):  # of a device that is not there
        return None


def _precision(torch: Any) -> str:
    try:
        return str(torch.get_float32_matmul_precision())
    except RuntimeError:  # that of one backend alone was set
        return ""
