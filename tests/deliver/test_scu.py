"""The race of pynetdicom that the SCU goes around."""

from __future__ import annotations

from threading import Event, Timer

from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.association import Association

from node.deliver.scu import send_c_store


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
