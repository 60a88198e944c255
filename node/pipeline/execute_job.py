"""The road of one job inside a warm child: read, infer, encode, verify, each made durable.

A step whose product is on the disk already is not done again: a retry after the label volume was
written starts at encode.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset

from node.assemble.derive import derive
from node.assemble.gate import MinimumSize, judge_geometry
from node.domain.errors import JobFailed, SeriesUnusable, TryLater
from node.domain.frames import frames_of
from node.domain.grid import Stack
from node.domain.header import HeaderMerger
from node.domain.job import ResultIdentity, result_key
from node.domain.reasons import reasons_to_json
from node.domain.result import LabelVolume
from node.encode import ENCODERS, read_tables
from node.infer.labels_file import read_labels, write_labels
from node.infer.measure import measure_labels
from node.infer.plausible import why_implausible
from node.infer.registry import ModelSpec, load_model
from node.infer.report import Report
from node.infer.run_context import RunContext, SeriesInput
from node.infer.runners import run_model
from node.infer.runners import warm as warm_runners
from node.observe.log import configure_logging
from node.pipeline.crash_points import crash_point
from node.pipeline.job_order import InputFiles, JobOrder
from node.verify import VERIFIERS
from node.words import tell_all

OUTPUT = "labels"
LABELS_FILE = "labels.npz"


@dataclass(frozen=True, slots=True)
class _Source:
    """One input: as the runner gets it, and its headers as the encoder wants them."""

    given: SeriesInput
    headers: Sequence[Dataset]

    @property
    def stack(self) -> Stack:
        return self.given.stack


def run(request: Mapping[str, Any], report: Report) -> dict[str, Any]:
    """Do one job; the products named in the answer are durable files when it returns.

    Raises:
        JobFailed: The attempt is over, for good where ``permanent``.
        ResultRefused: The verifier found a fault in what was encoded.
        SeriesUnusable: The series is not one regular volume any more.
        TryLater: The disk is full.
    """
    configure_logging()
    try:
        return _run(JobOrder.from_json(request), report)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise TryLater("no room on the disk for the result; tried again by itself") from error
        raise


def _run(order: JobOrder, report: Report) -> dict[str, Any]:
    model = load_model(order.model_folder)
    if model.digest != order.model_digest:
        raise JobFailed(
            f"model {model.name} changed on disk since the job was made: rerun the series",
            permanent=True,
        )
    order.folder.mkdir(parents=True, exist_ok=True)
    with report.stage("headers"):
        sources = {each.role: _read_source(each, model) for each in order.inputs}
    grid = sources[model.grid_role]
    made = _labels(order, model, sources, report)
    with report.stage("judge"):
        measured = measure_labels(made.volume)
        # labels that nobody asked for are not missing
        chosen = bool({**model.runner.parameters, **order.parameters}.get("labels"))
        reasons = why_implausible(model.plausible, measured, are_chosen=chosen)
    answer: dict[str, Any] = {
        "labels": made.file,
        "volumes_ml": {str(value): label.ml for value, label in measured.labels.items()},
        "implausible": reasons_to_json(reasons),
        "object": None,
    }
    parameters = {**order.provenance.parameters, **made.ran}
    provenance = replace(order.provenance, parameters=parameters, implausible=tell_all(reasons))
    order = replace(order, provenance=provenance)
    identity = ResultIdentity(
        key=result_key(made.content, model.digest, order.parameters, order.provenance.incomplete),
        output=OUTPUT,
        form=order.form,
        revision=order.provenance.revision,
    )
    answer["object"] = _encode_and_verify(order, model, made.volume, grid, identity, report)
    return answer


def warm(request: Mapping[str, Any], report: Report) -> dict[str, Any]:
    """What a first job would wait for: imports, and what ``request["models"]`` need."""
    warmed = dict(warm_runners(request, report))
    # the first thing that needs them is the last of a job: it begins beside them
    threading.Thread(target=read_tables, daemon=True).start()
    return warmed


def _read_source(given: InputFiles, model: ModelSpec) -> _Source:
    headers = [dcmread(path, stop_before_pixels=True, force=True) for path in given.files.values()]
    frames = [frame for header in headers for frame in frames_of(header)]
    wanted = model.inputs[given.role]
    verdict = judge_geometry(
        frames,
        MinimumSize(slices=wanted.min_slices, rows=wanted.min_rows, columns=wanted.min_columns),
        quantities=wanted.quantities,
    )
    if verdict.stack is None:  # the gate passed it before the job was made
        raise SeriesUnusable(verdict.findings)
    merger = HeaderMerger()
    for header in headers:
        merger.add(header)
    common = merger.header()
    common = common.with_derived(derive(common, frames, verdict, None))
    series = SeriesInput(stack=verdict.stack, files=given.files, header=common)
    return _Source(series, _unread(given.files))


def _unread(files: Mapping[str, Path]) -> list[Dataset]:
    """Headers whose elements nobody looked at: looking decodes, and the encoder wants the bytes."""
    return [dcmread(path, stop_before_pixels=True, force=True) for path in files.values()]


@dataclass(frozen=True, slots=True)
class _Made:
    """Labels that are on the disk for good, and how they came about."""

    volume: LabelVolume
    content: Mapping[str, str]
    ran: Mapping[str, str]
    file: Mapping[str, Any]


def _labels(
    order: JobOrder, model: ModelSpec, sources: Mapping[str, _Source], report: Report
) -> _Made:
    stack = sources[model.grid_role].stack
    path = order.folder / LABELS_FILE
    if path.is_file():
        with report.stage("read labels"):
            labels, facts = read_labels(path)
        ran, content = facts.pop("ran", {}), facts.pop("content", {})
        if facts == _facts(order, model) and content.keys() == sources.keys():
            report.note("labels of an earlier attempt")
            volume = LabelVolume(labels=labels, stack=stack, overlapping=model.has_regions)
            return _Made(volume, content, ran, _file_facts(path, _sha256(path)))
    crash_point("mid-inference")
    with _run_context(order, model) as context:
        inputs = {role: source.given for role, source in sources.items()}
        produced = run_model(model, inputs, context, report, order.parameters)
    with report.stage("keep labels"):
        content = {role: source.given.content for role, source in sources.items()}
        facts = {**_facts(order, model), "ran": dict(produced.ran), "content": content}
        written = write_labels(path, produced.labels, facts)
    crash_point("labels written")
    volume = LabelVolume(labels=produced.labels, stack=stack, overlapping=model.has_regions)
    return _Made(volume, content, produced.ran, _file_facts(path, written.sha256))


@contextmanager
def _run_context(order: JobOrder, model: ModelSpec) -> Iterator[RunContext]:
    """A place to work in; what an attempt that was killed left there goes first."""
    scratch = order.folder / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        yield RunContext(
            device=os.environ.get("SEGNODE_DEVICE", "cpu"),
            weights_dir=order.weights_dir,
            scratch=scratch,
            memory_gb=model.resources.memory_gb,
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _encode_and_verify(
    order: JobOrder,
    model: ModelSpec,
    volume: LabelVolume,
    grid: _Source,
    identity: ResultIdentity,
    report: Report,
) -> dict[str, Any] | None:
    with report.stage("encode"):
        encoded = ENCODERS[order.form](
            volume, grid.headers, model.segments, order.provenance, identity
        )
        if encoded is None:
            return None
        path = order.folder / f"{order.form}.dcm"
        sha256 = _write_durable(path, encoded.chunks())
    crash_point("result written")
    with report.stage("verify"):
        VERIFIERS[order.form](
            _mapped(path),
            _unread(next(e for e in order.inputs if e.role == model.grid_role).files),
            volume,
            model.segments,
            order.provenance,
            identity,
        )
    return {
        **_file_facts(path, sha256),
        "sop_instance_uid": encoded.sop_instance_uid,
        "sop_class_uid": encoded.sop_class_uid,
        "series_instance_uid": encoded.series_instance_uid,
        "frames": encoded.frames,
        "segments": {str(n): value for n, value in encoded.segment_labels.items()},
    }


def _mapped(path: Path) -> memoryview:
    """The bytes of a file as the disk has them, without a copy; unmapped when nobody holds a part."""
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _facts(order: JobOrder, model: ModelSpec) -> dict[str, str]:
    """What the label file says of itself; labels of another key are never taken for these."""
    return {"model": model.name, "model_digest": model.digest, "job_key": order.job_key}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _file_facts(path: Path, sha256: str) -> dict[str, Any]:
    return {"file_name": path.name, "size_bytes": path.stat().st_size, "sha256": sha256}


def _write_durable(path: Path, chunks: Iterator[bytes]) -> str:
    part = path.with_name(path.name + ".part")
    digest = hashlib.sha256()
    with part.open("wb") as file, ThreadPoolExecutor(1) as beside:
        hashing = beside.submit(digest.update, b"")
        for chunk in chunks:
            hashing.result()
            hashing = beside.submit(digest.update, chunk)
            file.write(chunk)
        hashing.result()
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return digest.hexdigest()
