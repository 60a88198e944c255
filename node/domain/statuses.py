"""C-STORE statuses: what a sender is answered, the same over DIMSE, STOW-RS and a watched folder.

Source: PS3.4 Table B.2-1, PS3.7 Annex C, PS3.18 Annex I.2.2.
"""

from __future__ import annotations

SUCCESS = 0x0000

SOP_CLASS_NOT_SUPPORTED = 0x0122
UNRECOGNIZED_OPERATION = 0x0211
MISTYPED_ARGUMENT = 0x0212

OUT_OF_RESOURCES = 0xA700
DOES_NOT_MATCH_SOP_CLASS = 0xA900
# ours, in the same range: the data set is not of the study that a STOW path names
DOES_NOT_MATCH_STUDY = 0xA901

CANNOT_UNDERSTAND = 0xC000
# Cxxx are ours to number
PIXELS_CONTRADICT_HEADER = 0xC010
SAME_UID_OTHER_PIXELS = 0xC020
PATIENT_MIX_UP = 0xC021
INFLATES_BEYOND_LIMIT = 0xC030
# PS3.18 I.2.2: referenced transfer syntax not supported
TRANSFER_SYNTAX_NOT_SUPPORTED = 0xC122


def is_out_of_resources(status: int) -> bool:
    """Whether a later try of the same instance may succeed: A7xx."""
    return status & 0xFF00 == OUT_OF_RESOURCES
