"""The race of pynetdicom that the SCU goes around."""

from __future__ import annotations

from threading import Event, Timer

from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import A_ASSOCIATE, A_P_ABORT

from node.deliver.scu import rejection_of, send_c_store


class Parked(Association):
    """An association whose reactor was told to go on and has not woken up yet."""

    def __init__(self) -> None:
        super().__init__(AE(), "requestor")
        self._is_paused = True
        self.was_running: list[bool] = []

    def is_alive(self) -> bool:
        return True

    def wake(self) -> None:
        self._is_paused = False

    def send_c_store(self, *_: object, **__: object) -> Dataset:
        self.was_running.append(not self._is_paused)
        return Dataset()


def test_a_request_waits_until_the_reactor_runs_again() -> None:
    association = Parked()
    assert association._reactor_checkpoint.is_set()
    Timer(0.05, association.wake).start()

    send_c_store(association, Dataset(), 1)

    assert association.was_running == [True]


def test_a_dead_association_is_not_waited_for() -> None:
    association = Parked()
    association.is_alive = lambda: False  # type: ignore[method-assign]
    done = Event()

    send_c_store(association, Dataset(), 1)
    done.set()

    assert done.is_set()
    assert association.was_running == [False]


def test_a_rejection_that_the_requesting_thread_did_not_see_is_found() -> None:
    association = Association(AE(), "requestor")
    unread = A_ASSOCIATE()
    unread.result, unread.result_source, unread.diagnostic = 0x01, 0x01, 0x07
    association.dul.to_user_queue.put(unread)

    assert rejection_of(association) is unread


def test_a_lost_line_is_no_rejection() -> None:
    association = Association(AE(), "requestor")
    assert rejection_of(association) is None

    association.dul.to_user_queue.put(A_P_ABORT())

    assert rejection_of(association) is None
