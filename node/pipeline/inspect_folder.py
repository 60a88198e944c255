"""What the node would make of a folder: the same merging, gate, rules and acceptance, no database.

Headers are read, pixels are not, so what only the ingest finds (pixel data that contradict their
header) is not seen here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from struct import error as StructError  # noqa: N812
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from node.deliver.sender import resolve_destinations
from node.domain.errors import NodeError, SeriesUnusable
from node.domain.header import Missing, value_of
from node.domain.instance import Instance, Origin, Road
from node.domain.peers import Peer
from node.domain.reasons import codes_of, in_one_sentence
from node.pipeline.build import Plan
from node.pipeline.matching import ActiveRule, CompleteSeries, not_taken
from node.pipeline.watch import SeriesWatch
from node.receive.syntaxes import can_be_input
from node.route.explain import Explanation, explain
from node.route.rules import StudyRule
from node.route.sets import Candidate, Chosen
from node.route.verdict import Truth

_LARGE_BYTES = 1024
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_UNREADABLE = (
    InvalidDicomError, OSError, ValueError, LookupError, AttributeError, EOFError, StructError,
    NotImplementedError, TypeError,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleFinding:
    """What one rule on single series would do with a series.

    Args:
        refusals: Why the model does not take the series although the rule fires.
        reasons: The same as codes of ``node.domain.reasons``.
        destinations: Where results would go, ``sender`` resolved; an empty name is nobody.
    """

    explanation: Explanation
    model: str
    refusals: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    destinations: tuple[str, ...] = ()

    @property
    def would_run(self) -> bool:
        """Whether a job would be made."""
        return self.explanation.truth is Truth.TRUE and not self.refusals


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesFinding:
    """One series: what it is, and what each rule says of it."""

    series_instance_uid: str
    study_instance_uid: str
    modality: str
    inputs: int
    others: int
    derived: Mapping[str, object]
    findings: tuple[str, ...]
    notes: tuple[str, ...]
    rules: tuple[RuleFinding, ...]
    roles: Mapping[str, Explanation] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetFinding:
    """What a study rule would do with the series of one study."""

    rule: str
    model: str
    study_instance_uid: str
    roles: Mapping[str, str]
    sentence: str
    destinations: tuple[str, ...] = ()

    @property
    def would_run(self) -> bool:
        """Whether a job would be made."""
        return bool(self.roles) and not self.sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderFinding:
    """Everything in a folder."""

    series: tuple[SeriesFinding, ...]
    sets: tuple[SetFinding, ...]
    not_read: Mapping[str, str]


def inspect_folder(plan: Plan, path: Path, sender: Peer | None = None) -> FolderFinding:
    """Judge the files of a folder, or one file, by a configuration.

    Args:
        sender: The peer that would have sent them over DIMSE; without one they count as found in a
            folder.
    Raises:
        NodeError: There is nothing at that path.
    """
    origin = _origin(plan, sender)
    watches, not_read = _watches(path, origin)
    complete = {uid: _complete(watch, origin) for uid, watch in watches.items() if watch.inputs}
    series = tuple(
        _judge_series(plan, watch, complete.get(uid), origin) for uid, watch in watches.items()
    )
    return FolderFinding(
        series=series, sets=tuple(_judge_sets(plan, complete, origin)), not_read=not_read
    )


def _origin(plan: Plan, sender: Peer | None) -> Origin:
    if sender is None:
        return Origin(road=Road.FOLDER, association_id="")
    return Origin(
        road=Road.DIMSE,
        association_id="",
        peer=sender.name,
        calling_ae_title=sender.ae_title,
        called_ae_title=plan.config.ae_titles[0],
        address=sender.host,
        http_user=sender.http_user,
    )


def _watches(path: Path, origin: Origin) -> tuple[dict[str, SeriesWatch], dict[str, str]]:
    """A watch per series, and the files that hold none, each with its reason."""
    headers: dict[str, Dataset] = {}
    watches: dict[str, SeriesWatch] = {}
    not_read: dict[str, str] = {}

    def read_header(instance: Instance) -> Dataset:
        return headers[instance.sop_instance_uid]

    for file in _files(path):
        try:
            header, has_pixels = _read(file)
            instance = _instance(file, header, has_pixels, origin)
        except _UNREADABLE as error:
            not_read[str(file)] = _why_not_read(error)
            continue
        uid = instance.series_instance_uid
        watch = watches.get(uid) or SeriesWatch(uid, instance.study_instance_uid, read_header)
        if instance.sop_instance_uid in headers:
            not_read[str(file)] = "has the SOP Instance UID of another file"
        elif watch.study_instance_uid != instance.study_instance_uid:
            not_read[str(file)] = "its series belongs to another study in other files"
        else:
            headers[instance.sop_instance_uid] = header
            try:
                watch.take_all([instance])
            except SeriesUnusable as unusable:
                not_read[str(file)] = str(unusable)
            else:
                watches[uid] = watch
    return watches, not_read


def _why_not_read(error: Exception) -> str:
    if isinstance(error, InvalidDicomError):
        return str(error)
    return f"cannot be read as DICOM ({type(error).__name__})"


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise NodeError(f"{path} is neither a file nor a folder")
    return sorted(
        file
        for file in path.rglob("*")
        if file.is_file() and file.name.upper() != "DICOMDIR" and not file.name.startswith(".")
    )


def _read(file: Path) -> tuple[Dataset, bool]:
    """The header of a file, and whether it has pixel data."""
    header = dcmread(file, force=True, defer_size=_LARGE_BYTES)
    if value_of(header, "SOPInstanceUID") in ((), "") or "SOPInstanceUID" not in header:
        raise InvalidDicomError("holds no DICOM instance")
    has_pixels = any(keyword in header for keyword in _PIXELS)
    return dcmread(file, force=True, stop_before_pixels=True), has_pixels


def _instance(file: Path, header: Dataset, has_pixels: bool, origin: Origin) -> Instance:
    sop_class_uid, sop_instance_uid, study_instance_uid, series_instance_uid = (
        _text(header, keyword)
        for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
    )
    try:
        return Instance(
            sop_instance_uid=sop_instance_uid,
            sop_class_uid=sop_class_uid,
            transfer_syntax_uid=_text(header.file_meta, "TransferSyntaxUID"),
            study_instance_uid=study_instance_uid,
            series_instance_uid=series_instance_uid,
            file_name=file.name,
            data_offset=0,
            size_bytes=file.stat().st_size,
            received_sha256="",
            pixel_identity="",
            is_input=has_pixels
            and can_be_input(sop_class_uid, _text(header, "PhotometricInterpretation")),
            received_at=0.0,
            origin=origin,
        )
    except ValueError as error:
        raise InvalidDicomError(str(error)) from None


def _text(header: Dataset, keyword: str) -> str:
    value = value_of(header, keyword)
    return "" if isinstance(value, Missing) or not value else str(value[0])


def _complete(watch: SeriesWatch, origin: Origin) -> CompleteSeries:
    header = watch.header()
    return CompleteSeries(
        series_instance_uid=watch.series_instance_uid,
        study_instance_uid=watch.study_instance_uid,
        patient_id=header.text("PatientID"),
        revision=1,
        header=header,
        instances=watch.inputs,
        frames=watch.frames,
        origin=origin,
        first_received_at=0.0,
        phase_hints=watch.phase_hints,
    )


def _judge_series(
    plan: Plan, watch: SeriesWatch, complete: CompleteSeries | None, origin: Origin
) -> SeriesFinding:
    header = watch.header()
    gate = watch.gate() if watch.inputs else None
    single = [active for active in plan.rules if not isinstance(active.rule, StudyRule)]
    study = [active for active in plan.rules if isinstance(active.rule, StudyRule)]
    return SeriesFinding(
        series_instance_uid=watch.series_instance_uid,
        study_instance_uid=watch.study_instance_uid,
        modality=header.text("Modality"),
        inputs=len(watch.inputs),
        others=len(watch.others),
        derived={
            name: value.reason if isinstance(value, Missing) else _one_or_all(value)
            for name, value in header.derived.items()
        },
        findings=gate.findings if gate else (),
        notes=gate.notes if gate else (),
        # as in the node: what is no input is never judged
        rules=tuple(_judge_rule(plan, a, complete, origin) for a in single) if complete else (),
        roles={active.rule.name: explain(active.rule, header) for active in study}
        if complete
        else {},
    )


def _one_or_all(value: Sequence[Any]) -> object:
    return value[0] if len(value) == 1 else list(value)


def _judge_rule(
    plan: Plan, active: ActiveRule, series: CompleteSeries, origin: Origin
) -> RuleFinding:
    explanation = explain(active.rule, series.header)
    if explanation.truth is not Truth.TRUE:
        return RuleFinding(explanation=explanation, model=active.model.name)
    (role,) = active.model.inputs
    reasons = tuple(not_taken(active, {role: series}))
    return RuleFinding(
        explanation=explanation,
        model=active.model.name,
        refusals=tuple(reason.sentence for reason in reasons),
        reasons=tuple(codes_of(reasons)),
        destinations=resolve_destinations(active.send, plan.config.peers, origin),
    )


def _judge_sets(
    plan: Plan, complete: Mapping[str, CompleteSeries], origin: Origin
) -> Iterator[SetFinding]:
    studies: dict[str, list[CompleteSeries]] = {}
    for series in complete.values():
        studies.setdefault(series.study_instance_uid, []).append(series)
    for active in plan.rules:
        if isinstance(active.rule, StudyRule):
            for study, members in studies.items():
                yield _judge_set(plan, active, active.rule, study, members, origin)


def _judge_set(
    plan: Plan,
    active: ActiveRule,
    rule: StudyRule,
    study: str,
    members: Sequence[CompleteSeries],
    origin: Origin,
) -> SetFinding:
    choice = rule.choose(
        [
            Candidate(
                series_instance_uid=one.series_instance_uid,
                patient_id=one.patient_id,
                header=one.header,
                slices=len(one.frames),
            )
            for one in members
        ]
    )
    roles: Mapping[str, str] = {}
    if isinstance(choice, Chosen):
        roles = choice.roles
        found = {one.series_instance_uid: one for one in members}
        sentence = in_one_sentence(
            not_taken(active, {role: found[uid] for role, uid in roles.items()})
        )
    else:
        sentence = choice.sentence
    return SetFinding(
        rule=rule.name,
        model=active.model.name,
        study_instance_uid=study,
        roles=roles,
        sentence=sentence,
        destinations=resolve_destinations(active.send, plan.config.peers, origin),
    )
