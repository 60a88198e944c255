"""Libraries that answer as NVIDIA's driver and torch's CUDA runtime do, for machines without a GPU."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.peers import need

DRIVER = """
int cuInit(unsigned flags) { return GPUS ? 0 : 100; }
int cuDeviceGet(int *device, int number) { *device = number + 40; return 0; }
int cuDeviceGetName(char *name, int size, int device) {
    const char *text = "Made GPU ";
    int at = 0;
    for (; text[at] && at < size - 2; at++) name[at] = text[at];
    name[at] = '0' + device - 40;
    name[at + 1] = 0;
    return 0;
}
"""
RUNTIME = "int cudaGetDeviceCount(int *count) { *count = GPUS; return GPUS ? 0 : 35; }"
TORCH = "from types import SimpleNamespace\ncuda = SimpleNamespace(device_count=lambda: 0)\n"


def give_gpus(
    folder: Path, patch: pytest.MonkeyPatch, gpus: int, *, torch_sees: int | None = None
) -> None:
    """Let processes that this one starts find so many GPUs."""
    compiler = need("cc")
    library = folder / "torch" / "lib" / "libc10_cuda.so"
    library.parent.mkdir(parents=True)
    (folder / "torch" / "__init__.py").write_text(TORCH)
    seen = gpus if torch_sees is None else torch_sees
    for text, count, output, more in (
        (DRIVER, gpus, folder / "libcuda.so.1", ()),
        (RUNTIME, seen, folder / "libcudart.so", ()),
        # the runtime is a library of its own, which torch's needs
        ("", 0, library, (f"-L{folder}", "-Wl,--no-as-needed", "-lcudart")),
    ):
        subprocess.run(
            [compiler, "-shared", "-fPIC", f"-DGPUS={count}", "-xc", "-", "-o", output, *more],
            input=text,
            text=True,
            check=True,
        )
    patch.setenv("LD_LIBRARY_PATH", str(folder))
    patch.syspath_prepend(folder)
