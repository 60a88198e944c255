"""The delivery loop: lease a row of the outbox, send, record what became of it.

Several deliveries run at once, at most two to one destination, so that a sick destination never
slows another. A delivery cut short by a crash is leased again when its lease ends and sends the
same object under the same UIDs.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from pydicom.uid import ExplicitVRLittleEndian
from sqlalchemy import Engine

from node.deliver.destination import form_not_taken, unknown_destination
from node.domain.delivery import DeliverableObject, DeliveryClass, Outcome
from node.domain.errors import LeaseLost
from node.jobs.outbox import Outbox
from node.jobs.values import LeasedDelivery, ResultFile
from node.observe.beats import Beat
from node.pipeline.build import Destination, Plan
from node.pipeline.crash_points import crash_point
from node.pipeline.forms import FORMS
from node.pipeline.forms.form import forms_taken
from node.pipeline.signals import Signals

log = logging.getLogger(__name__)

SENDERS = 8
LEASE_S = 60.0
HEARTBEAT_S = 15.0
LOOK_EVERY_S = 0.05
_ROUND_S = 6.0
# less than the supervisor gives a role that stops
DRAIN_S = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryDeps:
    """What the loop works with; made anew when the configuration is reloaded.

    Args:
        grid_roles: Model -> the role of the series on whose grid its labels lie.
    """

    outbox: Outbox
    destinations: Mapping[str, Destination]
    results: Path
    grid_roles: Mapping[str, str] = field(default_factory=dict)


def delivery_deps(plan: Plan, engine: Engine) -> DeliveryDeps:
    return DeliveryDeps(
        outbox=Outbox(engine, plan.config.digest, taken=forms_taken(plan.destinations)),
        destinations=plan.destinations,
        results=plan.results_folder,
        grid_roles={model.name: model.grid_role for model in plan.models.values()},
    )


class Deliverer:
    """Runs deliveries on a few threads until told to stop.

    Args:
        owner: Name of this process's leases, the same in each life of the role.
        beat: Told at every round.
    """

    def __init__(self, deps: DeliveryDeps, *, owner: str, beat: Beat = lambda *_: None) -> None:
        self._deps = deps
        self._beat = beat
        self._owner = owner
        self._pool = ThreadPoolExecutor(SENDERS, thread_name_prefix="deliver")
        self._free = threading.Semaphore(SENDERS)
        self._finished = threading.Event()

    def use(self, deps: DeliveryDeps) -> None:
        """Go on with another configuration; what it blocked may be free now."""
        self._deps = deps
        deps.outbox.free_blocked()

    def run(self, signals: Signals, reload: Callable[[], None]) -> None:
        """Deliver until ``signals.stop``; what is being sent then has ``DRAIN_S`` to be finished.

        A destination that is slower gets the object again, from the next life of the role.
        """
        self._deps.outbox.take_back(self._owner)
        self._deps.outbox.free_blocked()
        while not signals.stop.is_set():
            self._beat("deliver", _ROUND_S)
            if signals.reload.is_set():
                signals.reload.clear()
                reload()
            self._finished.clear()
            if not self.start_one():
                # a sender that is free may be what the next delivery waits for
                self._finished.wait(LOOK_EVERY_S)
        ends_at = time.monotonic() + DRAIN_S
        for _ in range(SENDERS):
            self._free.acquire(timeout=max(0.0, ends_at - time.monotonic()))
        self._pool.shutdown(wait=False)

    def start_one(self) -> bool:
        """Start the next delivery that is due; False where there is none or nobody is free."""
        if not self._free.acquire(blocking=False):
            return False
        outbox = self._deps.outbox
        leased = outbox.lease_delivery(self._owner, LEASE_S) if outbox.is_any_due() else None
        if leased is None:
            self._free.release()
            return False
        self._pool.submit(self._deliver, leased, self._deps)
        return True

    def _deliver(self, leased: LeasedDelivery, deps: DeliveryDeps) -> None:
        done = threading.Event()
        heart = threading.Thread(target=self._keep_lease, args=(leased, deps, done), daemon=True)
        heart.start()
        try:
            outcome = send_leased(leased, deps)
            crash_point("mid-delivery")
            state = deps.outbox.record(leased.id, self._owner, outcome)
            log.info(
                "delivery",
                extra={
                    "delivery": leased.id,
                    "destination": leased.destination,
                    "sop_instance_uid": leased.result.file.sop_instance_uid,
                    "state": state.value,
                    "sentence": outcome.sentence,
                },
            )
        except LeaseLost as lost:
            log.warning("delivery in other hands", extra={"row": lost.row})
        finally:
            done.set()
            self._free.release()
            self._finished.set()

    def _keep_lease(
        self, leased: LeasedDelivery, deps: DeliveryDeps, done: threading.Event
    ) -> None:
        while not done.wait(HEARTBEAT_S):
            try:
                deps.outbox.heartbeat(leased.id, self._owner, LEASE_S)
            except LeaseLost:
                return


def send_leased(leased: LeasedDelivery, deps: DeliveryDeps) -> Outcome:
    """Send the file of a leased delivery; whatever happens is an outcome."""
    destination = deps.destinations.get(leased.destination)
    if destination is None:
        return unknown_destination(leased.destination)
    file = leased.result.file
    if not FORMS[file.form].is_dicom and file.form not in destination.forms:
        return form_not_taken(leased.destination, file.form)
    try:
        role = deps.grid_roles.get(leased.model, "")
        source = leased.sources.get(role) or next(iter(leased.sources.values()), "")
        deliverable = deliverable_of(file, leased.model, deps.results, source=source)
        return destination.send(deliverable)
    except Exception as error:
        log.exception("delivery failed", extra={"delivery": leased.id})
        return Outcome(
            kind=DeliveryClass.RETRY,
            sentence=f"the node could not send: {type(error).__name__}",
        )


def deliverable_of(
    file: ResultFile, model: str, results: Path, *, source: str
) -> DeliverableObject:
    """A file of a result as destinations are given it.

    Args:
        results: The folder of results.
        source: Series Instance UID of the series on whose grid it lies, or empty.
    """
    form = FORMS[file.form]
    return DeliverableObject(
        path=str(results / file.file_name),
        size_bytes=file.size_bytes,
        sop_class_uid=file.sop_class_uid,
        sop_instance_uid=file.sop_instance_uid,
        series_instance_uid=file.series_instance_uid,
        study_instance_uid=file.study_instance_uid,
        transfer_syntax_uid=ExplicitVRLittleEndian if form.is_dicom else "",
        source_series_instance_uid=source,
        model=model,
        modality=form.modality,
        output=form.output,
        ext=form.extension_of(file.part),
    )
