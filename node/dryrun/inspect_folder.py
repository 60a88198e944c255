"""What the node would make of a folder: the same ingest, merging, gate, rules and acceptance.

Nothing is kept and there is no database. What the ingest refuses counts against its series, as it
does in the node.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from node.assemble.completion import SeriesActivity, judge_completion
from node.deliver.destination import resolve_destinations
from node.domain.errors import InstanceRejected, NodeError, SeriesUnusable, Status
from node.domain.header import Missing
from node.domain.instance import Instance, Origin, SeriesState, Transport
from node.domain.peers import Peer
from node.domain.reading import UNREADABLE, why_unreadable
from node.domain.reasons import Reason
from node.domain.received import Loss, Received
from node.pipeline.build import Plan
from node.pipeline.judge import ActiveRule, not_taken
from node.pipeline.series import Series, SeriesWatch
from node.receive.dry import DryRun
from node.receive.syntaxes import Decodable
from node.route.conditions import Truth
from node.route.rules import Explanation, StudyRule, explain
from node.route.sets import Chosen
from node.words import tell_all


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleFinding:
    """What one rule on single series would do with a series.

    Args:
        reasons: Why the model does not take the series although the rule fires.
        held: Why the series waits for a person before any model is asked.
        destinations: Where results would go, ``sender`` resolved; an empty name is nobody.
    """

    explanation: Explanation
    model: str
    reasons: tuple[Reason, ...] = ()
    held: tuple[Reason, ...] = ()
    destinations: tuple[str, ...] = ()

    @property
    def would_run(self) -> bool:
        return self.explanation.truth is Truth.TRUE and not self.reasons and not self.held


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesFinding:
    """One series: what it is, and what each rule says of it.

    Args:
        held: Why it would wait for a person, whatever the rules say.
    """

    series_instance_uid: str
    study_instance_uid: str
    modality: str
    inputs: int
    others: int
    derived: Mapping[str, object]
    findings: tuple[Reason, ...]
    notes: tuple[Reason, ...]
    rules: tuple[RuleFinding, ...]
    held: tuple[Reason, ...] = ()
    roles: Mapping[str, Explanation] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetFinding:
    """What a study rule would do with the series of one study.

    Args:
        held: Series of the set that wait for a person, and why.
        reasons: Why there is no set, or why the model does not take it.
    """

    rule: str
    model: str
    study_instance_uid: str
    roles: Mapping[str, str]
    reasons: tuple[Reason, ...]
    held: Mapping[str, tuple[Reason, ...]] = field(default_factory=dict)
    destinations: tuple[str, ...] = ()

    @property
    def would_run(self) -> bool:
        return bool(self.roles) and not self.reasons and not self.held


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
    folder, dry = _Folder(), DryRun(Decodable())
    for file in _files(path):
        folder.take(file, dry, origin)
    found = [watch.now() for watch in folder.watches.values()]
    complete = {series.series_instance_uid: series for series in found if series.instances}
    held = {uid: _held(plan, series, folder.losses_of(series)) for uid, series in complete.items()}
    judge = _Judge(plan=plan, origin=origin, held=held)
    return FolderFinding(
        series=tuple(judge.series(series) for series in found),
        sets=tuple(judge.sets(complete.values())),
        not_read=folder.not_read,
    )


def _origin(plan: Plan, sender: Peer | None) -> Origin:
    if sender is None:
        return Origin(transport=Transport.FOLDER, association_id="")
    return Origin(
        transport=Transport.DIMSE,
        association_id="",
        peer=sender.name,
        calling_ae_title=sender.ae_title,
        called_ae_title=plan.config.ae_titles[0],
        address=sender.host,
        http_user=sender.http_user,
    )


@dataclass(slots=True)
class _Folder:
    """What the files of a folder are, as the ingest has it.

    Args:
        losses: Images that would be refused, each with the folder that it lies in.
        folders: Series -> folders that its images lie in.
    """

    watches: dict[str, SeriesWatch] = field(default_factory=dict)
    not_read: dict[str, str] = field(default_factory=dict)
    losses: list[tuple[Loss, Path]] = field(default_factory=list)
    folders: dict[str, set[Path]] = field(default_factory=dict)
    headers: dict[str, Dataset] = field(default_factory=dict)
    patients: dict[str, str] = field(default_factory=dict)

    def take(self, file: Path, dry: DryRun, origin: Origin) -> None:
        try:
            received = dry.check(file)
            header = dry.header()
            if received.sop_instance_uid in self.headers:
                self.not_read[str(file)] = "has the SOP Instance UID of another file"
                return
            self._join(received, header, _instance(file, received, origin))
            self.folders.setdefault(received.series_instance_uid, set()).add(file.parent)
        except InstanceRejected as rejection:
            self.not_read[str(file)] = (
                rejection.reason if dry.is_part10 else f"not a DICOM file ({rejection.reason})"
            )
            if dry.loss is not None:
                self.losses.append((dry.loss, file.parent))
            elif rejection.dimse_status == Status.PATIENT_MIX_UP:
                self.losses.append((_mixed_up(dry.known, rejection), file.parent))
        except SeriesUnusable as unusable:
            self.not_read[str(file)] = tell_all(unusable.reasons)
        except UNREADABLE as error:
            self.not_read[str(file)] = why_unreadable(error)

    def _join(self, received: Received, header: Dataset, instance: Instance) -> None:
        uid = received.series_instance_uid
        if self.patients.get(uid, received.patient_key) != received.patient_key:
            raise InstanceRejected(
                "its series belongs to another patient or study in other files",
                dimse_status=Status.PATIENT_MIX_UP,
            )
        watch = self.watches.get(uid) or SeriesWatch(
            uid, instance.study_instance_uid, lambda each: self.headers[each.sop_instance_uid]
        )
        self.headers[instance.sop_instance_uid] = header
        watch.take(instance)
        self.watches[uid] = watch
        self.patients[uid] = received.patient_key

    def losses_of(self, series: Series) -> Sequence[Loss]:
        """Images of a series that would be refused, or bring no pixels."""
        uid = series.series_instance_uid
        lost = [
            loss
            for loss, folder in self.losses
            if loss.sop_instance_uid not in self.headers
            and (loss.series_instance_uid == uid or self._is_beside(loss, folder, uid))
        ]
        return [*lost, *series.without_pixels]

    def _is_beside(self, loss: Loss, folder: Path, uid: str) -> bool:
        """Whether an image that names no series counts against this one, as a scan counts it."""
        if loss.series_instance_uid:
            return False
        beside = {series for series, folders in self.folders.items() if folder in folders}
        return uid in beside if beside else True


def _held(plan: Plan, series: Series, losses: Sequence[Loss]) -> tuple[Reason, ...]:
    """Why the series would wait for a person once nothing more comes."""
    activity = SeriesActivity(
        instances=len(series.instances),
        last_received_at=0.0,
        is_regular=True,
        expected=series.expected,
        losses=losses,
    )
    completion = judge_completion(activity, plan.policy, now=inf)
    return () if completion.state is SeriesState.COMPLETE else completion.reasons


def _mixed_up(received: Received, rejection: InstanceRejected) -> Loss:
    return Loss(
        series_instance_uid=received.series_instance_uid,
        image=received.sop_instance_uid,
        sop_instance_uid=received.sop_instance_uid,
        association_id="",
        dimse_status=rejection.dimse_status,
        reason=rejection.reason,
    )


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


def _instance(file: Path, received: Received, origin: Origin) -> Instance:
    return Instance(
        sop_instance_uid=received.sop_instance_uid,
        sop_class_uid=received.sop_class_uid,
        transfer_syntax_uid=received.transfer_syntax_uid,
        study_instance_uid=received.study_instance_uid,
        series_instance_uid=received.series_instance_uid,
        file_name=file.name,
        data_offset=0,
        size_bytes=received.size_bytes,
        received_sha256=received.received_sha256,
        pixel_identity=received.received_sha256,
        is_input=received.is_input,
        received_at=0.0,
        origin=origin,
    )


def _one_or_all(value: Sequence[Any]) -> object:
    return value[0] if len(value) == 1 else list(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judge:
    """What a configuration says of series of one origin.

    Args:
        held: Series with images -> why it would wait for a person.
    """

    plan: Plan
    origin: Origin
    held: Mapping[str, tuple[Reason, ...]]

    def series(self, series: Series) -> SeriesFinding:
        header, gate = series.header, series.gate
        # as in the node: series without images are never judged
        rules = self.plan.rules if series.instances else ()
        return SeriesFinding(
            series_instance_uid=series.series_instance_uid,
            study_instance_uid=series.study_instance_uid,
            modality=header.text("Modality"),
            inputs=len(series.instances),
            others=len(series.others),
            derived={
                name: value.reason if isinstance(value, Missing) else _one_or_all(value)
                for name, value in header.derived.items()
            },
            findings=gate.findings if series.instances else (),
            notes=gate.notes,
            rules=tuple(
                self._rule(active, series)
                for active in rules
                if not isinstance(active.rule, StudyRule)
            ),
            held=self.held.get(series.series_instance_uid, ()),
            roles={
                active.rule.name: explain(active.rule, header)
                for active in rules
                if isinstance(active.rule, StudyRule)
            },
        )

    def sets(self, complete: Iterable[Series]) -> Iterator[SetFinding]:
        """What each study rule makes of each study."""
        studies: dict[str, list[Series]] = {}
        for series in complete:
            studies.setdefault(series.study_instance_uid, []).append(series)
        for active in self.plan.rules:
            if isinstance(active.rule, StudyRule):
                for members in studies.values():
                    yield self._set(active, active.rule, members)

    def _rule(self, active: ActiveRule, series: Series) -> RuleFinding:
        explanation, model = explain(active.rule, series.header), active.model
        if explanation.truth is not Truth.TRUE:
            return RuleFinding(explanation=explanation, model=model.name)
        (role,) = model.inputs
        return RuleFinding(
            explanation=explanation,
            model=model.name,
            reasons=tuple(not_taken(active, {role: series})),
            held=self.held[series.series_instance_uid],
            destinations=self._destinations(active),
        )

    def _set(self, active: ActiveRule, rule: StudyRule, members: Sequence[Series]) -> SetFinding:
        candidates = [
            rule.candidate(
                one.series_instance_uid,
                patient_id=one.header.text("PatientID"),
                header=one.header,
                slices=len(one.frames),
            )
            for one in members
        ]
        is_any_fit = any(each.fits_any for each in candidates)
        choice = rule.choose(candidates if is_any_fit else ())
        roles: Mapping[str, str] = {}
        if isinstance(choice, Chosen):
            roles = choice.roles
            found = {one.series_instance_uid: one for one in members}
            reasons = tuple(not_taken(active, {r: found[uid] for r, uid in roles.items()}))
        else:
            reasons = choice.reasons
        return SetFinding(
            rule=rule.name,
            model=active.model.name,
            study_instance_uid=members[0].study_instance_uid,
            roles=roles,
            reasons=reasons,
            held={uid: self.held[uid] for uid in roles.values() if self.held[uid]},
            destinations=self._destinations(active),
        )

    def _destinations(self, active: ActiveRule) -> tuple[str, ...]:
        return resolve_destinations(active.send, self.plan.config.peers, self.origin)
