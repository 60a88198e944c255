"""The failure statuses of the ingest, the same on every road.

Source: PS3.4 Table B.2-1, PS3.7 Annex C, PS3.18 Annex I.2.2.
"""

from __future__ import annotations

OUT_OF_RESOURCES = 0xA700
DOES_NOT_MATCH_COMMAND = 0xA900
DOES_NOT_MATCH_STUDY = 0xA901
CANNOT_UNDERSTAND = 0xC000
PIXELS_CONTRADICT_HEADER = 0xC010
INFLATES_BEYOND_LIMIT = 0xC030
# PS3.18 I.2.2: referenced transfer syntax not supported
TRANSFER_SYNTAX_NOT_SUPPORTED = 0xC122
SOP_CLASS_NOT_SUPPORTED = 0x0122
