"""Forms: what results are given as. One file per form, one line in ``FORMS``.

A form's file holds its ``FORM``: names, and who encodes and who verifies it, as text, since encoders
are imported only where jobs are done. Encoder and verifier are pure functions that share no step; they
lie in ``node.encode`` and ``node.verify``, or, where they are small, in the form's own file.

A destination says which forms it takes; one that says nothing takes a DICOM SEG.
"""

from __future__ import annotations

from collections.abc import Mapping

from node.domain.delivery import FormsTaken, TakesForms
from node.pipeline.forms import nifti, seg
from node.pipeline.forms.form import Encode, Form, Reader, Verify

__all__ = ["FORMS", "Encode", "Form", "Reader", "Verify", "forms_taken"]

FORMS: dict[str, Form] = {
    "seg": seg.FORM,
    "nifti": nifti.FORM,
}


def forms_taken(destinations: Mapping[str, TakesForms]) -> FormsTaken:
    """What each of these destinations takes."""
    return FormsTaken({name: each.forms for name, each in destinations.items()})
