"""Assemble: is a series complete, and is it one volume? Pure: time and rows come in as values.

Enters: what the index knows of a series (``SeriesActivity``), its frames and its merged header.

Leaves:

- ``judge_completion`` -> ``Completion``: receiving, complete, held or discarded, on which evidence,
  with its reasons, and when to look again. ``learns_splitting`` tells when to remember that a peer
  sends one series over several associations.
- ``judge_late`` -> ``Lateness``: what an image means that comes after the snapshot.
- ``judge_geometry`` -> ``GateVerdict``: all findings with their numbers, or the stack in the order
  of its slices with its grid in the patient. ``is_regular`` is the part of it that completion
  asks for. ``phase_hints_of`` reads what may tell phases apart. ``judge_values`` and
  ``judge_quantity`` are the part that asks what stored values mean.
- ``derive`` -> the derived attributes that rules ask for.

What can fail: nothing is raised for bad images. What cannot be read is a finding of the gate or a
``Missing`` with its reason; a finding parks the series if a rule matched it. Only values that
contradict themselves (times out of order, a negative count) raise ``ValueError``.

Why a count in a header is doubted, an abort is a doubt and a pause is waited out is told in
``activity`` and ``evidence``; the numbers of the gate stand in ``planes`` and ``gate``.

Source: PS3.3 C.7.6.2 (image plane), C.7.4.1 (Frame of Reference), C.7.6.16 (functional groups),
C.11.1 (Modality LUT).
"""

from node.assemble.activity import (
    Association,
    CountSource,
    ExpectedCount,
    SeriesActivity,
    peer_key,
    trusted_images_in_acquisition,
)
from node.assemble.derive import derive
from node.assemble.evidence import (
    Completion,
    judge_completion,
    learns_splitting,
)
from node.assemble.gate import MinimumSize, is_regular, judge_geometry
from node.assemble.phases import PhaseHints, phase_hints_of
from node.assemble.revisions import Lateness, OldWork, is_late, judge_late
from node.assemble.values import judge_quantity, judge_values
from node.domain.completion_policy import CompletionPolicy, Late, OnGiveUp, OnRefused
from node.domain.gate_verdict import GateVerdict

__all__ = [
    "Association",
    "Completion",
    "CompletionPolicy",
    "CountSource",
    "ExpectedCount",
    "GateVerdict",
    "Late",
    "Lateness",
    "MinimumSize",
    "OldWork",
    "OnGiveUp",
    "OnRefused",
    "PhaseHints",
    "SeriesActivity",
    "derive",
    "is_late",
    "is_regular",
    "judge_completion",
    "judge_geometry",
    "judge_late",
    "judge_quantity",
    "judge_values",
    "learns_splitting",
    "peer_key",
    "phase_hints_of",
    "trusted_images_in_acquisition",
]
