"""An SCU by pynetdicom, without the races that lose its answers.

pynetdicom parks its reactor thread while a request is under way, and starts it again afterwards. A
second request that follows at once can find the reactor still marked as parked although it was just
told to go on: it wakes up, takes the answer for an unexpected message and drops it, and the request
times out. So each request here waits until the reactor is seen running first.

The answer to the association request can be lost as well: a peer that rejects at once has the line
closed again before the requesting thread looks whether there is one, and the rejection stays unread.

Attributes of pynetdicom 3.0 used: ``Association._is_paused``, ``Association._reactor_checkpoint``.
"""

from __future__ import annotations

import time
from pathlib import Path

from pydicom.dataset import Dataset
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import A_ASSOCIATE

_LOOK_AGAIN_S = 0.0002


def send_c_store(association: Association, payload: Path | Dataset, message_id: int) -> Dataset:
    """Store one instance; an empty data set says that no answer came.

    Raises:
        RuntimeError: The association has ended.
        ValueError: There is no presentation context for it.
    """
    while association._is_paused and association._reactor_checkpoint.is_set():
        if not association.is_alive():
            break
        time.sleep(_LOOK_AGAIN_S)
    return association.send_c_store(payload, msg_id=message_id, priority=0)


def rejection_of(association: Association) -> A_ASSOCIATE | None:
    """The peer's rejection of an association that was requested, or None where there is none.

    Source: PS3.8 7.1.1.7 (Result)
    """
    answer = association.acceptor.primitive or association.dul.receive_pdu()
    return answer if isinstance(answer, A_ASSOCIATE) and answer.result else None
