"""Encode: a result on the source grid becomes files, in the form that a destination takes.

Enters: a ``LabelVolume`` with its stack, headers of all source instances as they were read, the
segments that label values mean, provenance and identity. Leaves: ``EncodedFile`` values whose bytes are
made in pieces while they are written; none where the result holds nothing that the form could show.
Can fail: ``JobRefused`` where labels, their description and their source do not belong
together.

The same arguments give the same bytes: UIDs follow from the job, dates come with provenance.

``seg`` puts a DICOM Segmentation into the study that the source came from. Patient and study attributes
are the source's, byte for byte, with its Specific Character Set; text of ours is ASCII, which reads the
same in every character set. No private attribute is copied. ``nifti`` makes images for programs that
read no DICOM.

PS3.3 A.51 and C.8.20 (Segmentation), C.7.6.16 and C.7.6.17 (functional groups, dimensions), C.12.2
(references); PS3.5 7.1.2 and 8.1.1 (encoding); NIfTI-1.1.
"""
