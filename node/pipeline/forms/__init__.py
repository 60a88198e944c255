"""Forms: what results are given as. One file per form, one line in ``FORMS``.

A form's file holds its ``FORM``: names, and who encodes and who verifies it, as text, since encoders
are imported only where jobs are done. Encoder and verifier are pure functions that share no step; they
lie in ``node.encode`` and ``node.verify``, or, where they are small, in the form's own file.

A destination says which forms it takes; one that says nothing takes a DICOM SEG.
"""

from __future__ import annotations

from node.pipeline.forms import nifti, seg
from node.pipeline.forms.form import Form

FORMS: dict[str, Form] = {
    "seg": seg.FORM,
    "nifti": nifti.FORM,
}
