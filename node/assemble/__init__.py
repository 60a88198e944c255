"""Assemble: is a series complete, and is it one volume? Pure: time and rows come in as values.

- ``completion``: by what the index knows of how a series arrives (``SeriesActivity``): receiving,
  complete, held or discarded, on which evidence, when to look again, and what becomes of late images;
- ``gate``: ``judge_geometry`` -> ``GateVerdict``: all findings with their numbers, or the stack in the
  order of its slices with its grid in the patient. ``is_regular`` is the part of it that completion
  asks for;
- ``planes``: where the frames lie, and what may tell phases apart; ``values``: what stored values mean.

What can fail: nothing is raised for bad images. What cannot be read is a finding of the gate or a
``Missing`` with its reason; a finding parks the series if a rule matched it. Only values that
contradict themselves (times out of order, a negative count) raise ``ValueError``.

Source: PS3.3 C.7.6.2 (image plane), C.7.4.1 (Frame of Reference), C.7.6.16 (functional groups),
C.11.1 (Modality LUT).
"""
