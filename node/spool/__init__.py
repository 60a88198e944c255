"""The spool: files of instances and the index over them; the only owner of pixel data.

Enters: parts (``new_part``), written by the ingest and kept with what it learnt (``Received``).
Leaves: instances as rows (``arrivals``) and as files (``Spool.path_of``).
Fails: InstanceRejected 0xA700 (no room, no index), 0xC020 (another instance under the same UID),
0xC021 (another patient or study in the series); TryLater when an association cannot be recorded.

What is promised. An instance is durable when ``keep`` returns: its data are synced, then linked to
a name made of its SOP Instance UID, then the folder is synced. Names are taken by ``link``, so the
same UID is noticed by any number of processes without the database; series markers do the same for
"two patients in one series". Index rows follow within 50 ms and can be rebuilt: each file carries
its record in Private Information (0002,0102) of its head, in the first 2048 bytes. The data-set
bytes are as received, also when deflated; preamble and group 0002 are ours.

The same UID again (``sameness``): equal bytes or equal content are a duplicate; equal pixels and
geometry under another header are an amended copy, kept as version n+1 with the first one's pixel
identity; anything else is a conflict, the first is kept and the newcomer goes to quarantine.
Digests are computed only where bytes differ, in a limited process (``digest_process``).

One departure from a strict reading of "tag, VR, value": the content digest leaves the value
representation out, since implicit VR does not carry it, and the same instance must be recognised
in any transfer syntax.

Retention deletes files and keeps rows (tombstones) until the history of their study goes. Tombstones
are asked for once per series and remembered for 30 s; an instance deleted and sent again within that
time is stored again, and its row revives. How many rows the series has is asked with them: it may
have so many and no more (``KnownSeries``).

Source: PS3.10 7.1 (file meta information), PS3.4 B.2 (storage).
"""
