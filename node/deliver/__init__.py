"""Deliver: a result object goes to a destination, and the answer gets a class.

Enters: a ``DeliverableObject`` (a file, verified before it got its row in the outbox) and one
destination, a plain value made of the configuration. Leaves: an ``Outcome`` for the outbox. Nothing
here knows the outbox: when to try again is decided in ``node.jobs``.

One file per kind, each a frozen value with ``send(deliverable) -> Outcome``: ``dimse`` (C-STORE
SCU), ``dicomweb`` (STOW-RS), ``folder``. What the peer does, down to silence, is an outcome and not
an exception. Add a kind: one file and one line in ``KINDS``.

Every answer falls in one class (``classes``, ``stow_answer``): sent, warned, retry, refused (five
times, then blocked), blocked. One decision there is worth knowing: 0111, duplicate SOP instance, is
*warned*. Result UIDs follow from the job, so the object the peer holds is ours, from an attempt whose
answer was lost; but without a read-back nobody has looked.

The same object may be sent twice: an attempt cut short by a crash is repeated with the same UIDs and
bytes, which a store treats as one object (PS3.4 B.2.3). At most one copy exists at each destination.

``sender`` finds the destination that a rule calls ``sender``: by who sent it, never by a tag of the
data set.

Source: PS3.4 Annex B, PS3.7 9.1.1 and Annex C, PS3.8 9.3.4, PS3.18 10.5 and Annex I.
"""

from __future__ import annotations

from node.deliver.dicomweb import DicomwebDestination
from node.deliver.dimse import DimseDestination
from node.deliver.folder import FolderDestination

KINDS = {
    "dimse": DimseDestination,
    "dicomweb": DicomwebDestination,
    "folder": FolderDestination,
}

__all__ = ["KINDS", "DicomwebDestination", "DimseDestination", "FolderDestination"]
