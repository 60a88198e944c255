"""Deliver: a result object goes to a destination, and the answer gets a class.

Enters: a ``DeliverableObject`` (a file, verified before it got its row in the outbox) and one
destination, a plain value made of the configuration. Leaves: an ``Outcome`` for the outbox. Nothing
here knows the outbox: when to try again is decided in ``node.jobs``.

One file per kind: ``dimse`` (C-STORE SCU), ``dicomweb`` (STOW-RS), ``folder``. A kind is one frozen
class, a ``destination.Destination``. Its fields are the keys of the configuration, read as they are
annotated; ``mistakes`` says what is wrong with them beyond types; ``send`` sends, ``probe`` is what
``segnode doctor`` asks; ``needs``, ``does``, ``service`` and ``answers`` are its lines in the manual and
in the conformance statement. What the peer does, down to silence, is an outcome and not an exception.

Add a kind: one file and one line in ``KINDS``, which names the class without importing it: a command that
sends nothing waits for no library of the network. Everything else reads ``KINDS``
(``tests/promises/test_destination_kind.py`` does it).

Every answer falls in one class (``destination``, ``stow_answer``): sent, warned, retry, refused (five
times, then blocked), blocked. One decision there is worth knowing: 0111, duplicate SOP instance, is
*warned*. Result UIDs follow from the job, so the object the peer holds is ours, from an attempt whose
answer was lost; but without a read-back nobody has looked.

The same object may be sent twice: an attempt cut short by a crash is repeated with the same UIDs and
bytes, which a store treats as one object (PS3.4 B.2.3). At most one copy exists at each destination.

``destination.resolve_destinations`` finds the destination that a rule calls ``sender``.

Source: PS3.4 Annex B, PS3.7 9.1.1 and Annex C, PS3.8 9.3.4, PS3.18 10.5 and Annex I.
"""

from __future__ import annotations

from pkgutil import resolve_name

from node.deliver.destination import Destination

KINDS = {
    "dimse": "node.deliver.dimse:DimseDestination",
    "dicomweb": "node.deliver.dicomweb:DicomwebDestination",
    "folder": "node.deliver.folder:FolderDestination",
}


def kind_of(name: str) -> type[Destination]:
    found: type[Destination] = resolve_name(KINDS[name])
    return found


def all_kinds() -> dict[str, type[Destination]]:
    return {name: kind_of(name) for name in KINDS}
