"""Jobs for the runner's child: each does one thing that a real job may do."""

from __future__ import annotations

import ctypes
import importlib
import mmap
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydicom import dcmread

from node.domain.errors import JobFailed, SeriesUnusable, TryLater
from node.domain.header import Header
from node.domain.reasons import Reason, ReasonCode
from node.domain.result import LabelCounts
from node.infer.assets import Kept
from node.infer.labels_file import write_labels
from node.infer.registry import load_model
from node.infer.report import Report
from node.infer.run_context import SeriesInput, run_model
from tests.support.phantoms import stack_of
from tests.support.rooms import room

Request = Mapping[str, Any]


def echo(request: Request, report: Report, kept: Kept) -> Request:
    with report.stage("read"):
        pass
    report.note("half way")
    return {"request": dict(request), "process_id": os.getpid()}


def card(request: Request, report: Report, kept: Kept) -> Request:
    """What torch is told of a card before it is imported."""
    names = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "CUBLAS_WORKSPACE_CONFIG")
    return {name: os.environ.get(name, "") for name in names}


def noisy(request: Request, report: Report, kept: Kept) -> Request:
    print("a library talks")
    os.write(1, b"\x00\x00\x00\x05noise")
    os.write(2, b"more noise\n")
    return {}


def imports_monai(request: Request, report: Report, kept: Kept) -> Request:
    """What of torch's training is there after MONAI, and whether who wants it gets the real one."""
    importlib.import_module("monai")
    loaded = [name for name in sys.modules if name.startswith("torch.distributed.fsdp")]
    engine = importlib.import_module("ignite.engine").Engine(lambda *_: None)
    engine.run([0], max_epochs=1)
    module = importlib.import_module("torch.distributed.optim")
    return {"loaded": loaded, "file": module.__file__, "epochs": engine.state.epoch}


def exits(request: Request, report: Report, kept: Kept) -> Request:
    with report.stage("decode"):
        os._exit(int(request["code"]))


def asks_to_exit(request: Request, report: Report, kept: Kept) -> Request:
    sys.exit(3)


def segfaults(request: Request, report: Report, kept: Kept) -> Request:
    with report.stage("decode"):
        ctypes.string_at(0)
    return {}


def kills_itself(request: Request, report: Report, kept: Kept) -> Request:
    with report.stage("run"):
        os.kill(os.getpid(), signal.SIGKILL)
    return {}


def allocates(request: Request, report: Report, kept: Kept) -> Request:
    with report.stage("run"):
        return {"size": len(bytearray(request["size"]))}


def fails(request: Request, report: Report, kept: Kept) -> Request:
    raise JobFailed("frame 3 cannot be decoded", permanent=bool(request["permanent"]))


def finds_no_room(request: Request, report: Report, kept: Kept) -> Request:
    raise TryLater("no room on the disk")


def unusable(request: Request, report: Report, kept: Kept) -> Request:
    raise SeriesUnusable([Reason(ReasonCode.SAME_POSITION, {"each": 2, "positions": 1})])


def bug(request: Request, report: Report, kept: Kept) -> Request:
    return {"value": [][1]}


def hangs(request: Request, report: Report, kept: Kept) -> Request:
    """Waits for ever, with a process of its own."""
    helper = subprocess.Popen(["/bin/sleep", "600"])
    report.note(str(helper.pid))
    with report.stage("run"):
        threading.Event().wait()
    return {}


def waits(request: Request, report: Report, kept: Kept) -> Request:
    report.note("waiting")
    threading.Event().wait()
    return {}


def hangs_in_c(request: Request, report: Report, kept: Kept) -> Request:
    """Holds the interpreter lock for ever: no thread of the child can act."""
    report.note(str(os.getpid()))
    with mmap.mmap(-1, 4096) as page:
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        ctypes.PyDLL(None).sem_wait(ctypes.c_void_p(address))
    return {}


def segments(request: Request, report: Report, kept: Kept) -> Request:
    """The heavy road of a job: files to a label file, with a model of a folder."""
    paths = sorted(Path(request["folder"]).glob("*.dcm"))
    headers = {path: dcmread(path, stop_before_pixels=True) for path in paths}
    stack = stack_of(list(headers.values()))
    model = load_model(Path(request["model"]))
    files = {str(header.SOPInstanceUID): path for path, header in headers.items()}
    given = SeriesInput(stack=stack, files=files, header=Header({}))
    labels = run_model(
        model, {model.grid_role: given}, room(Path(request["folder"])), report
    ).labels
    with report.stage("write"):
        sha256 = write_labels(
            Path(request["labels"]), LabelCounts.of(labels), {"model": model.name}
        )
    return {"sha256": sha256}
