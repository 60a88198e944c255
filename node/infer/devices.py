"""On what models run: the GPUs that torch sees, or what the configuration names.

A process that has begun to use CUDA cannot be forked from, and to import torch takes seconds: so a
process of its own asks the driver, and the CUDA runtime that torch brings, and ends.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

AUTO = "auto"

_ANSWER_S = 60.0
_NAME_BYTES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpus:
    """The names of the GPUs that torch sees, ``cuda:0`` first; where there are none, why."""

    names: Sequence[str] = ()
    why_none: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Devices:
    """Where models run.

    Args:
        workers: The device of each worker; a device may have several.
        sentence: The same for people: names of GPUs, or why there are none.
        missing: What was named and is not there, and what to do; empty where nothing is missing.
    """

    workers: tuple[str, ...]
    sentence: str
    missing: str = ""

    @property
    def by_name(self) -> dict[str, str]:
        """A name for each worker, the same in each life of a node, and its device."""
        names: dict[str, str] = {}
        for device in self.workers:
            number = sum(other == device for other in names.values()) + 1
            names[f"{device} #{number}" if number > 1 else device] = device
        return names


def choose_devices(wanted: Sequence[str], workers_each: int = 1) -> Devices:
    """The devices of these names; for ``auto`` every GPU, else the CPU.

    Args:
        wanted: ``auto`` alone; or ``cpu``, ``cuda``, ``cuda:1``, once for each worker.
        workers_each: So many workers for each of them.
    """
    named = [device for device in wanted if device != AUTO]
    is_asked = len(named) < len(wanted) or any(device.startswith("cuda") for device in named)
    gpus = find_gpus() if is_asked else Gpus()
    seen = {f"cuda:{number}": name for number, name in enumerate(gpus.names)}
    chosen = named or list(seen) or ["cpu"]
    known = {"cuda": seen["cuda:0"], **seen} if seen else {}
    sentence = "; ".join(
        _words(device, known.get(device, ""), count * workers_each)
        for device, count in Counter(chosen).items()
    )
    absent = next((device for device in chosen if device not in {"cpu", *known}), "")
    why = gpus.why_none or f"torch sees {', '.join(seen)}"
    return Devices(
        workers=tuple(device for device in chosen for _ in range(workers_each)),
        sentence=sentence if named or seen else f"{sentence}, because {gpus.why_none}",
        missing=absent and f"{absent} is not here: {why}; name cpu, or nothing for what is here",
    )


def _words(device: str, name: str, workers: int) -> str:
    named = f"{device} ({name})" if name else device
    return f"{named}, {workers} workers" if workers > 1 else named


def find_gpus() -> Gpus:
    """The GPUs of this machine that torch sees."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    try:
        asked = subprocess.run(
            [sys.executable, "-P", "-m", "node.infer.devices"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=True,
            timeout=_ANSWER_S,
        )
    except subprocess.CalledProcessError as error:
        return Gpus(why_none=f"the process that asked the driver ended with {error.returncode}")
    except subprocess.TimeoutExpired:
        return Gpus(why_none=f"the driver did not answer within {_ANSWER_S:g} s")
    return Gpus(**json.loads(asked.stdout.splitlines()[-1]))


def _ask() -> Gpus:
    """What driver and torch say; for a process that does nothing else.

    Source: CUDA Driver API 6.3 (cuInit), 6.5 (devices); both number devices alike, and heed
    CUDA_VISIBLE_DEVICES.
    """
    torch = importlib.util.find_spec("torch")
    if torch is None or torch.origin is None:
        return Gpus(why_none="torch is not installed")
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return Gpus(why_none="there is no NVIDIA driver")
    if status := driver.cuInit(0):
        return Gpus(why_none=f"the NVIDIA driver has no GPU for us (CUDA error {status})")
    library = Path(torch.origin).parent / "lib" / "libc10_cuda.so"
    if not library.exists():
        return Gpus(why_none="torch is built without CUDA")
    seen = _seen_by_torch(library)
    if not seen:
        return Gpus(why_none="torch cannot use the GPU: its driver may be too old")
    names, device = [], ctypes.c_int()
    for number in range(seen):
        name = ctypes.create_string_buffer(_NAME_BYTES)
        driver.cuDeviceGet(ctypes.byref(device), number)
        driver.cuDeviceGetName(name, _NAME_BYTES, device)
        names.append(name.value.decode(errors="replace"))
    return Gpus(names=names)


def _seen_by_torch(library: Path) -> int:
    """How many GPUs torch sees: its CUDA runtime knows at once, torch itself after its import."""
    count = ctypes.c_int()
    try:
        # a symbol is looked for in what a library needs, too: here the runtime
        if ctypes.CDLL(str(library)).cudaGetDeviceCount(ctypes.byref(count)) == 0:
            return count.value
    except (OSError, AttributeError):
        pass  # torch finds its runtime in more places
    return int(importlib.import_module("torch").cuda.device_count())


if __name__ == "__main__":
    print(json.dumps(asdict(_ask())))  # noqa: T201 - the answer to the process that asked
