"""Fails when pynetdicom changes what ``node.receive.dimse_upper_layer`` leans on."""

from __future__ import annotations

import inspect
from importlib.metadata import version

import pytest
from pynetdicom import AE, _config
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.acse import ACSE
from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider
from pynetdicom.fsm import TRANSITION_TABLE, InvalidEventError
from pynetdicom.transport import AssociationServer, AssociationSocket, RequestHandler
from pynetdicom.utils import make_target


def test_the_major_version_is_the_one_this_was_written_against() -> None:
    assert version("pynetdicom").startswith("3.")


@pytest.mark.parametrize(
    ("owner", "name", "parameters"),
    [
        (DULServiceProvider, "run_reactor", ["self"]),
        (DULServiceProvider, "_is_transport_event", ["self"]),
        (DULServiceProvider, "_read_pdu_data", ["self"]),
        (DULServiceProvider, "_send", ["self", "pdu"]),
        (DULServiceProvider, "send_pdu", ["self", "primitive"]),
        (DULServiceProvider, "stop_dul", ["self"]),
        (DULServiceProvider, "idle_timer_expired", ["self"]),
        (AssociationSocket, "recv", ["self", "nr_bytes"]),
        (AssociationSocket, "close", ["self"]),
        (ACSE, "_negotiate_as_acceptor", ["self"]),
        (ACSE, "send_reject", ["self", "result", "source", "diagnostic"]),
        (ACSE, "send_abort", ["self", "source"]),
        (RequestHandler, "_create_association", ["self"]),
        (AssociationServer, "service_actions", ["self"]),
        (AssociationServer, "handle_error", ["self", "request", "client_address"]),
    ],
)
def test_the_methods_are_there_with_the_same_parameters(
    owner: type, name: str, parameters: list[str]
) -> None:
    assert list(inspect.signature(getattr(owner, name)).parameters) == parameters


def test_the_attributes_are_there() -> None:
    association = Association(AE("TEST"), MODE_ACCEPTOR)

    provider = association.dul
    for name in (
        "_recv_pdu",
        "_run_loop_delay",
        "_kill_thread",
        "event_queue",
        "to_user_queue",
        "to_provider_queue",
        "state_machine",
        "artim_timer",
    ):
        assert hasattr(provider, name), name
    assert association._reactor_checkpoint.is_set()
    assert association._sent_abort is False
    assert association.dimse.msg_queue.empty()
    assert hasattr(_config, "LOG_HANDLER_LEVEL")


def test_the_reading_loop_still_asks_our_methods() -> None:
    loop = inspect.getsource(DULServiceProvider.run_reactor)
    reading = inspect.getsource(DULServiceProvider._read_pdu_data)
    serving = inspect.getsource(Association._run_reactor)
    waiting = inspect.getsource(Association.run_reactor)

    assert "self._is_transport_event()" in loop
    assert "time.sleep(self._run_loop_delay)" in loop
    assert "if self._kill_thread:" in loop
    assert reading.count("self.socket.recv(") == 2
    assert "self._reactor_checkpoint.wait()" in serving
    assert "self.dul.idle_timer_expired()" in serving
    assert "if primitive is None:" in waiting
    assert "self.acse.negotiate_association()" in waiting


def test_a_thread_made_before_its_class_changed_still_runs_the_overrides() -> None:
    target = make_target(DULServiceProvider.run_reactor)

    assert target is DULServiceProvider.run_reactor  # no wrapper that would freeze the class


@pytest.mark.parametrize(
    ("event", "state", "action"),
    [
        ("Evt10", "Sta6", "DT-2"),
        ("Evt17", "Sta6", "AA-4"),
        ("Evt17", "Sta13", "AR-5"),
        ("Evt19", "Sta2", "AA-1"),
        ("Evt19", "Sta6", "AA-8"),
        ("Evt15", "Sta6", "AA-1"),
        ("Evt18", "Sta2", "AA-2"),
    ],
)
def test_the_state_machine_does_the_same_on_the_events_we_raise(
    event: str, state: str, action: str
) -> None:
    assert TRANSITION_TABLE[(event, state)] == action
    assert issubclass(InvalidEventError, Exception)
