"""Receiving: DIMSE, STOW-RS and a watched folder over one strict ingest.

Enters: bytes of instances, with their origin. ``Ingest.begin`` takes the bare data set of a C-STORE
with what its command announced, ``Ingest.begin_file`` a Part 10 file with or without its head.
Leaves: a ``Receipt`` (stored, duplicate, amended) once the instance is durable in the store.
Fails: ``InstanceRejected`` with the status for the sender; the refused bytes are kept in quarantine
unless the reason is a lack of room.

Every transport gets the same checks, in one pass and before any answer:

- the data set is whole, to its last byte (``walk``), deflated ones under a cap (``envelope``);
- study, series and SOP UIDs are there and well formed (PS3.5 9.1); class and instance are the
  announced ones; the study is the one a STOW path names;
- native pixel data are as long as rows x columns x frames x samples x bits say; encapsulated pixel
  data come under a syntax that encapsulates, with at least one fragment per frame;
- the SOP class is a storage class and the transfer syntax one that decodes here (``syntaxes``).

Pixels are not decoded here: a codec must not be able to harm the listener.

======  ===============================================================================
status  meaning
======  ===============================================================================
0122    SOP class not supported
A700    out of resources: disk, index, or an instance over the limit; nothing is kept
A900    the data set is not the instance, or not of the class, that the command names
A901    the instance is of another study than the STOW path names
C000    cannot understand: structure, UIDs (Offending Element names the tags)
C010    pixel data are not what the header declares
C020    another instance is kept under this SOP Instance UID
C021    the series belongs to another patient or study
C030    a deflated data set inflates beyond the limit
C031    the series has as many instances as one may have; nothing is kept
C122    the transfer syntax is none that this node decodes
======  ===============================================================================

Source: PS3.4 Annex B, PS3.5 Annex A, PS3.10 chapter 7, PS3.18 10.5.
"""
