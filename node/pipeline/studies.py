"""What study rules know of the series of a study: each is judged once for each write of its row."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace

from node.domain.header import Header
from node.domain.instance import Instance
from node.pipeline.matching import MatchDeps, Member, StudyMoment, match_study
from node.pipeline.series import ReadHeader, Series, SeriesWatch
from node.route.rules import StudyRule
from node.route.sets import Candidate
from node.spool.arrivals import Arrivals, SeriesOutline

# series in memory at once: one takes about 1 kB for each rule
_MOST_SERIES = 10_000
# series whose headers are not read again while a set is asked for again and again
_MOST_READ = 8


@dataclass(frozen=True, slots=True)
class _Judged:
    """One series as study rules see it at one write of its row.

    Args:
        candidates: By name of rule; None where no job can be made of it.
    """

    state: tuple[int, float]
    candidates: Mapping[str, Candidate] | None


class Studies:
    """Matches studies by the rules of one configuration.

    What rules say of a series is kept, without its header, until its row is written again, or many
    others were asked for.
    """

    def __init__(self, index: Arrivals, match: MatchDeps, read_header: ReadHeader) -> None:
        self._index = index
        self._match = match
        self._read_header = read_header
        self._judged: OrderedDict[str, Mapping[str, _Judged]] = OrderedDict()
        self._series = 0
        self._read: OrderedDict[str, tuple[frozenset[Instance], Series]] = OrderedDict()

    def match(self, study_instance_uid: str, now: float) -> float:
        """Judge the study rules; returns when to do it again although nothing new came."""
        outline = self._index.outline_of_study(study_instance_uid)
        rows = {each.series_instance_uid: each for each in outline if each.is_complete}
        judged = self._judge(study_instance_uid, rows)
        members = [
            Member(
                series_instance_uid=uid,
                revision=row.revision,
                first_received_at=row.first_received_at,
                candidates=found,
            )
            for uid, row in rows.items()
            if (found := judged[uid].candidates)
        ]
        numbers = [each.series_number for each in outline]
        at = StudyMoment.of(study_instance_uid, numbers, self._match, now)
        return match_study(at, members, self._read_settled)

    def remember(self, series: Series) -> None:
        """A series that settles: while few others do, its headers are not read again for a set."""
        self._keep(series.series_instance_uid, frozenset(series.instances), series)

    def _judge(
        self, study_instance_uid: str, rows: Mapping[str, SeriesOutline]
    ) -> Mapping[str, _Judged]:
        """What the rules say of complete series; only of rows that were written meanwhile anew."""
        before = self._judged.pop(study_instance_uid, {})
        self._series -= len(before)
        now = {
            uid: was for uid, was in before.items() if uid in rows and was.state == rows[uid].state
        }
        fresh = [uid for uid in rows if uid not in now]
        now |= {uid: _Judged(rows[uid].state, None) for uid in fresh}
        for uid, header in self._index.headers_of_inputs(fresh):
            candidates = self._candidates(rows[uid], Header.from_json(header))
            now[uid] = _Judged(rows[uid].state, candidates)
        self._judged[study_instance_uid] = now
        self._series += len(now)
        while self._series > _MOST_SERIES and len(self._judged) > 1:
            _, oldest = self._judged.popitem(last=False)
            self._series -= len(oldest)
        return now

    def _candidates(self, row: SeriesOutline, header: Header) -> Mapping[str, Candidate]:
        return {
            active.rule.name: active.rule.candidate(
                row.series_instance_uid, patient_id=row.patient_id, header=header, slices=row.frames
            )
            for active in self._match.rules
            if isinstance(active.rule, StudyRule)
        }

    def _read_settled(self, series_instance_uid: str) -> Series | None:
        """A settled series as its snapshot says; None where files of it are gone."""
        row = self._index.series(series_instance_uid)
        if row is None or not row.snapshot:
            return None
        arrived = self._index.arrivals_of(series_instance_uid)
        mine = [each for each in arrived if each[1].sop_instance_uid in row.snapshot]
        if len(mine) < len(row.snapshot):
            return None
        instances = frozenset(one for _, one in mine)
        known, series = self._read.pop(series_instance_uid, (None, None))
        if series is None or known != instances:
            watch = SeriesWatch(series_instance_uid, row.study_instance_uid, self._read_header)
            watch.take_rows(mine)
            series = watch.now()
        self._keep(series_instance_uid, instances, series)
        return replace(series, revision=row.revision, missing=row.missing)

    def _keep(self, uid: str, instances: frozenset[Instance], series: Series) -> None:
        self._read.pop(uid, None)
        self._read[uid] = instances, series
        if len(self._read) > _MOST_READ:
            self._read.popitem(last=False)
