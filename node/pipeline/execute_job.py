"""The road of one job inside a warm child: read, infer, encode, verify, each made durable.

A step whose product is on the disk already is not done again: a retry after the label volume was
written starts at encode.
"""

from __future__ import annotations

import errno
import gc
import hashlib
import mmap
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from node.domain.delivery import DEFAULT_FORMS
from node.domain.errors import JobRefused, TryLater
from node.domain.job import ResultIdentity, result_key
from node.domain.reasons import reasons_to_json
from node.domain.result import EncodedFile, LabelVolume, Provenance, Result
from node.infer.assets import Kept, sync_folder
from node.infer.labels_file import read_labels, write_labels
from node.infer.measure import measure_labels, why_implausible
from node.infer.registry import ModelSpec, load_model
from node.infer.report import Report
from node.infer.run_context import RunContext, run_model
from node.infer.run_context import warm as warm_runners
from node.observe.log import configure_logging
from node.pipeline.crash_points import crash_point
from node.pipeline.forms import FORMS
from node.pipeline.forms.form import Form
from node.pipeline.judge import variant_by_header
from node.pipeline.series import Source, read_source
from node.words import tell_all

OUTPUT = "labels"
LABELS_FILE = "labels.npz"
_MOST_THREADS = 16
_FOLDERS = ("model_folder", "folder", "weights_dir")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOrder:
    """What a worker tells its child to do: plain values, so that it travels as JSON.

    Args:
        inputs: Role -> SOP Instance UID -> path of the newest version.
        forms: What the result is made into.
    """

    job_key: str
    model_folder: Path
    model_digest: str
    parameters: Mapping[str, Any]
    inputs: Mapping[str, Mapping[str, Path]]
    folder: Path
    weights_dir: Path
    forms: tuple[str, ...]
    provenance: Provenance

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {
            "inputs": {
                role: {uid: str(path) for uid, path in files.items()}
                for role, files in self.inputs.items()
            },
            **{name: str(getattr(self, name)) for name in _FOLDERS},
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> JobOrder:
        inputs = {
            role: {uid: Path(path) for uid, path in files.items()}
            for role, files in body["inputs"].items()
        }
        made = {
            "inputs": inputs,
            "forms": tuple(body["forms"]),
            "provenance": Provenance(**body["provenance"]),
            **{name: Path(body[name]) for name in _FOLDERS},
        }
        return cls(**{**body, **made})


def run(request: Mapping[str, Any], report: Report, kept: Kept) -> dict[str, Any]:
    """Do one job; the products named in the answer are durable files when it returns.

    Raises:
        JobFailed: The attempt is over, for good where ``permanent``.
        ResultRefused: The verifier found a fault in what was encoded.
        SeriesUnusable: The series is not one regular volume any more.
        TryLater: The disk is full.
    """
    configure_logging()
    try:
        return _run(JobOrder.from_json(request), report, kept)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise TryLater("no room on the disk for the result; tried again by itself") from error
        raise


def _run(order: JobOrder, report: Report, kept: Kept) -> dict[str, Any]:
    model = kept.model(order.model_folder, load_model, order.model_digest)
    if model.digest != order.model_digest:
        raise JobRefused(
            f"model {model.name} changed on disk since the job was made: rerun the series"
        )
    order.folder.mkdir(parents=True, exist_ok=True)
    with report.stage("headers"), _no_collection():
        sources = {
            role: read_source(files, model.inputs[role]) for role, files in order.inputs.items()
        }
    made = _labels(order, model, sources, report, kept)
    with report.stage("judge"):
        content = made.content or {role: each.given.content for role, each in sources.items()}
        measured = measure_labels(made.volume)
        # labels that nobody asked for are not missing
        chosen = bool({**model.runner.parameters, **order.parameters}.get("labels"))
        reasons = why_implausible(model.plausible, measured, are_chosen=chosen)
    if not measured.labels:  # there is nothing to be implausible
        reasons = ()
    parameters = {**order.provenance.parameters, **made.ran}
    provenance = replace(order.provenance, parameters=parameters)
    if reasons:  # people read them in the object itself
        provenance = replace(provenance, implausible=tell_all(reasons))
    key = result_key(content, model.digest, order.parameters, provenance.incomplete)
    grid = sources[model.grid_role]

    def result_in(form: Form) -> Result:
        """What a form is given, with headers of its own at each call."""
        identity = ResultIdentity(
            key=key, output=OUTPUT, form=form.named_in_uids, revision=provenance.revision
        )
        return Result(
            volume=made.volume,
            source=grid.headers(),
            segments=model.segments,
            provenance=provenance,
            identity=identity,
            threads=min(len(os.sched_getaffinity(0)), _MOST_THREADS),
        )

    with _kept_beside(order, model, made, content, report) as labels_kept:
        forms = [FORMS[name] for name in order.forms]
        written = [_encode(form, result_in, order.folder, report) for form in forms]
        labels = labels_kept()
    for form, files in zip(forms, written, strict=True):
        crash_point("result written")
        _verify(form, files, result_in, order.folder, report)
    return {
        "labels": labels,
        "volumes_ml": {str(value): label.ml for value, label in measured.labels.items()},
        "implausible": reasons_to_json(reasons),
        "files": [facts for files in written for facts in files],
    }


@contextmanager
def _no_collection() -> Iterator[None]:
    """Headers are many small objects in no cycle: the collector would look at them in vain."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def warm(request: Mapping[str, Any], report: Report, kept: Kept) -> dict[str, Any]:
    """What a first job would wait for: imports, and what ``request["models"]`` need."""
    from node.encode.seg import read_tables  # a worker, which imports this too, needs no encoder

    warmed = dict(warm_runners(request, report, kept))
    # the first thing that needs them is the last of a job: it begins beside them
    threading.Thread(target=read_tables, daemon=True).start()
    gc.collect()
    gc.freeze()  # libraries stay: no collection during a job looks at them again
    return warmed


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """Labels, and how they came about.

    Args:
        content: Of each input, as the file of an earlier attempt says it; empty where there is none.
    """

    volume: LabelVolume
    ran: Mapping[str, str]
    content: Mapping[str, str]


def _labels(
    order: JobOrder,
    model: ModelSpec,
    sources: Mapping[str, Source],
    report: Report,
    kept: Kept,
) -> _Made:
    stack = sources[model.grid_role].given.stack
    path = order.folder / LABELS_FILE
    if path.is_file():
        with report.stage("read labels"):
            labels, facts = read_labels(path)
        ran, content = facts.pop("ran", {}), facts.pop("content", {})
        if facts == _facts(order, model) and content.keys() == sources.keys():
            report.note("labels of an earlier attempt")
            volume = LabelVolume(labels=labels, stack=stack, overlapping=model.has_regions)
            return _Made(volume=volume, ran=ran, content=content)
    crash_point("mid-inference")
    with _run_context(order, model, kept) as context:
        inputs = {role: source.given for role, source in sources.items()}
        chosen = variant_by_header(model, order.parameters, inputs[model.grid_role].header)
        parameters = {**order.parameters, **chosen}
        produced = run_model(model, inputs, context, report, parameters)
    volume = LabelVolume(
        labels=produced.labels,
        stack=stack,
        overlapping=model.has_regions,
        counted=produced.counts,
    )
    return _Made(volume=volume, ran=produced.ran, content={})


@contextmanager
def _kept_beside(
    order: JobOrder, model: ModelSpec, made: _Made, content: Mapping[str, str], report: Report
) -> Iterator[Callable[[], dict[str, Any]]]:
    """Labels are written by a thread; what is given waits until they are durable, and tells of them."""
    path = order.folder / LABELS_FILE
    if made.content:
        yield lambda: _file_facts(path, _sha256(path))
        return
    facts = {**_facts(order, model), "ran": dict(made.ran), "content": dict(content)}
    with ThreadPoolExecutor(1) as beside:
        keeping = beside.submit(write_labels, path, made.volume.counts, facts)

        def kept() -> dict[str, Any]:
            with report.stage("keep labels"):
                sha256 = keeping.result()
            crash_point("labels written")
            return _file_facts(path, sha256)

        yield kept


@contextmanager
def _run_context(order: JobOrder, model: ModelSpec, kept: Kept) -> Iterator[RunContext]:
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
            kept=kept,
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _encode(
    form: Form, result_in: Callable[[Form], Result], folder: Path, report: Report
) -> list[dict[str, Any]]:
    """The files of one form, durable; what the answer says of them."""
    with report.stage(_stage("encode", form)):
        return [
            _write(form, number if file.part else None, file, folder)
            for number, file in enumerate(form.encoder()(result_in(form)), 1)
        ]


def _verify(
    form: Form,
    files: list[dict[str, Any]],
    result_in: Callable[[Form], Result],
    folder: Path,
    report: Report,
) -> None:
    with report.stage(_stage("verify", form)):
        views = {facts["part"]: _mapped(folder / facts["file_name"]) for facts in files}
        form.verifier()(views, result_in(form))


def _stage(what: str, form: Form) -> str:
    return what if form.name in DEFAULT_FORMS else f"{what} {form.name}"


def _write(form: Form, number: int | None, file: EncodedFile, folder: Path) -> dict[str, Any]:
    """One file of a form, whole on the disk; what the answer says of it."""
    part = "" if number is None else f".{number}"
    path = folder / f"{form.name}{part}.{form.extension}"
    sha256 = _write_durable(path, file.chunks())
    return {
        **_file_facts(path, sha256),
        "form": form.name,
        "part": file.part,
        "sop_instance_uid": file.sop_instance_uid,
        "sop_class_uid": file.sop_class_uid,
        "series_instance_uid": file.series_instance_uid,
        "summary": dict(file.summary),
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


def _write_durable(path: Path, chunks: Iterator[bytes | memoryview]) -> str:
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
    sync_folder(path.parent)
    return digest.hexdigest()
