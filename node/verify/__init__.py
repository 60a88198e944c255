"""Verify: the bytes of a result against its source and its labels, before anything leaves.

Enters: the bytes of each file of a result, headers of all source instances as they were read, the label
volume, the model's segments, provenance and identity. Leaves: nothing; the files may go. Can fail:
``ResultRefused`` with every fault found as one sentence; no patient's value is in it. That there is no
file is judged, too.

Public validators pass a mirrored mask, a flipped orientation, a wrong spacing, a wrong reference,
another study, or a dimension index out of range; this stage is there for those. It imports nothing
of ``node.encode``: a form has a verifier of its own that shares no step with its encoder.

PS3.3 A.51, C.8.20 (Segmentation), C.7.6.16, C.7.6.17, C.12.2; PS3.5 8.1.1; NIfTI-1.1.
"""
