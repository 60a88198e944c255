"""Labels as NIfTI-1 images, for programs that read no DICOM."""

from __future__ import annotations

from node.pipeline.forms.form import Form, Reader

FORM = Form(
    name="nifti",
    encode="node.encode.nifti:encode",
    verify="node.verify.nifti:verify",
    modality="OT",
    extension="nii.gz",
    is_dicom=False,
    output="labels",
    named_in_uids="nifti",
    read_by=Reader.PROGRAM,
)
