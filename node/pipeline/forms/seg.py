"""DICOM Segmentation, type BINARY."""

from __future__ import annotations

from node.pipeline.forms.form import Form, Reader

FORM = Form(
    name="seg",
    encode="node.encode.seg:encode_seg",
    verify="node.verify.seg:verify_seg",
    modality="SEG",
    extension="dcm",
    is_dicom=True,
    output="seg",
    named_in_uids="seg_binary",  # its first name: UIDs of results that a PACS holds are made from it
    read_by=Reader.VIEWER,
)
