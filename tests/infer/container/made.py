"""What containers might write about a phantom, made by programs that are not ours."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import highdicom as hd
import numpy as np
import SimpleITK as sitk  # noqa: N813 - its own documentation calls it that
from highdicom.seg import Segmentation, SegmentDescription
from highdicom.sr.coding import CodedConcept
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from node.domain.segment import Code, Segment
from node.infer.run_context import SeriesInput
from tests.support.phantoms import Phantom
from tests.support.segmentations import SEGMENTS

DCMQI = Path(sys.executable).with_name("itkimage2segimage")
ALGORITHM = hd.AlgorithmIdentificationSequence(
    name="a container", version="1", family=codes.DCM.ArtificialIntelligence
)


def concept(code: Code) -> CodedConcept:
    return CodedConcept(code.value, code.scheme, code.meaning)


def description(number: int, segment: Segment) -> SegmentDescription:
    """A segment as highdicom describes it."""
    made = SegmentDescription(
        segment_number=number,
        segment_label=segment.name,
        segmented_property_category=concept(segment.category),
        segmented_property_type=concept(segment.type),
        algorithm_type="AUTOMATIC",
        algorithm_identification=ALGORITHM,
        anatomic_regions=[concept(segment.region)] if segment.region else None,
    )
    if segment.modifier:
        kind = made.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [concept(segment.modifier)]
    if segment.region_modifier:
        region = made.AnatomicRegionSequence[0]
        region.AnatomicRegionModifierSequence = [concept(segment.region_modifier)]
    return made


def in_order(phantom: Phantom) -> list[Dataset]:
    """Instances of a phantom by slice, as the grid counts them; an enhanced one is one."""
    if phantom.enhanced:
        return phantom.datasets()
    by_uid = {str(instance.SOPInstanceUID): instance for instance in phantom.datasets()}
    return [by_uid[frame.sop_instance_uid] for frame in phantom.stack.frames]


def segmentation(
    phantom: Phantom,
    labels: NDArray[np.uint8],
    segments: Sequence[Segment] = SEGMENTS,
    *,
    kind: str = "BINARY",
    pixels: NDArray[np.generic] | hd.Volume | None = None,
) -> Segmentation:
    """A segmentation of labels by highdicom, whose Segment Numbers are not the label values.

    Args:
        pixels: Instead of those of ``labels``, as highdicom takes them.
    """
    numbered = np.zeros(labels.shape, np.uint8)
    for number, segment in enumerate(segments, 1):
        numbered[labels == segment.label_value] = number
    return Segmentation(
        source_images=in_order(phantom),
        pixel_array=numbered if pixels is None else pixels,
        segmentation_type=kind,
        segment_descriptions=[description(n, s) for n, s in enumerate(segments, 1)],
        series_instance_uid=hd.UID(),
        series_number=9,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="A container",
        manufacturer_model_name="image",
        software_versions="1",
        device_serial_number="1",
    )


def written(made: Dataset, folder: Path, name: str = "made.dcm") -> Path:
    path = folder / name
    made.save_as(path, enforce_file_format=True)
    return path


def volume_image(phantom: Phantom, values: NDArray[np.generic]) -> sitk.Image:
    """Values on the phantom's grid as an image of ITK."""
    grid = phantom.grid
    image = sitk.GetImageFromArray(values)
    directions = np.array(grid.steps_mm)[::-1] / np.array(grid.spacing_mm)[::-1, None]
    image.SetDirection(directions.T.ravel().tolist())
    image.SetSpacing(grid.spacing_mm[::-1])
    image.SetOrigin(grid.origin_mm)
    return image


def by_dcmqi(
    phantom: Phantom,
    given: SeriesInput,
    labels: NDArray[np.uint8],
    names: dict[int, str],
    folder: Path,
) -> Path:
    """A segmentation by dcmqi from a NIfTI file and a description, as MHub's images make theirs."""
    nifti, meta, seg = folder / "labels.nii.gz", folder / "meta.json", folder / "made.seg.dcm"
    sitk.WriteImage(volume_image(phantom, labels), str(nifti))
    tissue = {"CodeValue": "85756007", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Tissue"}
    body = {
        "ContentCreatorName": "Test",
        "SeriesDescription": "Segmentation",
        "SeriesNumber": "42",
        "InstanceNumber": "1",
        "ContentLabel": "SEGMENTATION",
        "ContentDescription": "Image segmentation",
        "ClinicalTrialSeriesID": "0",
        "ClinicalTrialTimePointID": "1",
        "ClinicalTrialCoordinatingCenterName": "dcmqi",
        "segmentAttributes": [
            [
                {
                    "labelID": value,
                    "SegmentDescription": name,
                    "SegmentAlgorithmType": "AUTOMATIC",
                    "SegmentAlgorithmName": "a container",
                    "SegmentedPropertyCategoryCodeSequence": tissue,
                    "SegmentedPropertyTypeCodeSequence": tissue,
                }
                for value, name in names.items()
            ]
        ],
    }
    meta.write_text(json.dumps(body))
    images = ",".join(str(path) for path in given.files.values())
    command = [
        *(DCMQI, "--inputImageList", nifti, "--inputDICOMList", images),
        *("--inputMetadata", meta, "--outputDICOM", seg, "--skip"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return seg
