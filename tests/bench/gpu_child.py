"""What runs in processes of their own while a card is measured.

Targets of ``node.infer.runner.Runner``: a job that tells what it took of the card, and settings of the
card for the jobs that follow. Torch is only looked at where the product has imported it: a cold job
stays as cold as it is.

As a program MONAI's own evaluator over one NIfTI image, again and again in one process:
``python -m tests.bench.gpu_child ARGUMENTS.json LOOPS`` with the file that MONAI's command takes as
``--args_file``. It prints one JSON object per loop: seconds, and the most memory taken of the card.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from node.infer.assets import Kept
from node.infer.report import Report
from node.pipeline import execute_job

_GB = 1e9


def run(request: Mapping[str, Any], report: Report, kept: Kept) -> dict[str, Any]:
    """A job of the product, and the most memory that it took of the card."""
    cuda = _cuda()
    if cuda is not None:
        cuda.reset_peak_memory_stats()
    answer = execute_job.run(request, report, kept)
    return {**answer, "card": _peaks()}


def limit(request: Mapping[str, Any], report: Report, kept: Kept) -> dict[str, Any]:
    """From here on no more than ``limit_gb`` of the card, as if others held the rest."""
    import torch

    kept.drop_network()
    gc.collect()
    torch.cuda.empty_cache()
    whole = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, request["limit_gb"] * _GB / whole))
    return {}


def allow_tf32(request: Mapping[str, Any], report: Report, kept: Kept) -> dict[str, Any]:
    """Whether convolutions may take TF32, where the product does not decide it itself."""
    import torch

    torch.backends.cudnn.allow_tf32 = request["allowed"]
    return {}


def machine(request: Mapping[str, Any], report: Report, kept: Kept) -> dict[str, Any]:
    """The card and the libraries."""
    import monai
    import numpy as np
    import torch

    return {
        "card": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none",
        "torch": torch.__version__,
        "monai": monai.__version__,
        "numpy": np.__version__,
    }


def _peaks() -> dict[str, float]:
    cuda = _cuda()
    if cuda is None:
        return {}
    return {
        "allocated GB": cuda.max_memory_allocated() / _GB,
        "reserved GB": cuda.max_memory_reserved() / _GB,
    }


def _cuda() -> Any:
    torch = sys.modules.get("torch")
    ready = torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized()
    return torch.cuda if ready and torch is not None else None


def by_monai(arguments: Path, loops: int) -> None:
    """Build the configuration once, as ``monai.bundle run`` does; evaluate several times."""
    started = time.perf_counter()
    from monai.bundle import ConfigParser

    told = json.loads(arguments.read_text())
    parser = ConfigParser()
    parser.read_config(told.pop("config_file"))
    parser.update(told)
    parser.get_parsed_content("initialize")
    evaluator = parser.get_parsed_content("evaluator")
    ready_s = time.perf_counter() - started
    for _ in range(loops):
        cuda = _cuda()
        if cuda is not None:
            cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        evaluator.run()
        row = {"s": time.perf_counter() - started, "ready after s": ready_s, **_peaks()}
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    by_monai(Path(sys.argv[1]), int(sys.argv[2]))
