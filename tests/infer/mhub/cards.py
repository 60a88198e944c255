"""Model cards in the form of MHub's, of models that do not exist."""

from __future__ import annotations

from typing import Any


def card_input(modality: str = "CT", **more: Any) -> dict[str, Any]:
    return {
        "label": "Input Image",
        "description": "The scan of a patient.",
        "format": "DICOM",
        "modality": modality,
        "bodypartexamined": "WHOLEBODY",
        "slicethickness": "1.5 mm",
        "non-contrast": True,
        "contrast": True,
        **more,
    }


def card(
    *inputs: dict[str, Any], classes: tuple[str, ...] = ("LIVER",), **more: Any
) -> dict[str, Any]:
    """A card; ``more`` replaces its parts."""
    return {
        "id": "00000000-0000-0000-0000-000000000001",
        "name": "organ_finder",
        "title": "Organ finder",
        "summary": {
            "description": "Finds organs in images.",
            "inputs": list(inputs or (card_input(),)),
            "outputs": [{"type": "Segmentation", "classes": list(classes)}],
            "model": {"architecture": "U-net", "training": "supervised", "cmpapproach": "3D"},
            "data": {"training": {"vol_samples": 1}, "evaluation": {"vol_samples": 1}},
        },
        "details": {
            "name": "Organ finder",
            "version": "1.2.0",
            "devteam": "Nobody",
            "date": {"weights": "06/07/22", "code": "n/a", "pub": "2023"},
            "cite": "Nobody et al.: Organs",
            "license": {"code": "Apache 2.0", "weights": "CC BY-NC 4.0"},
            "publications": [{"title": "Organs", "uri": "https://example.org/organs"}],
        },
        "info": {
            "use": {"title": "Intended Use", "text": "Finding organs."},
            "evaluation": {"title": "Evaluation", "text": "Seen once."},
        },
        **more,
    }
