"""Images in Acquisition is believed only where all else agrees with it."""

from __future__ import annotations

import pytest

from node.assemble.completion import peer_key, trusted_images_in_acquisition
from node.domain.header import DIFFERS, Header, Value
from node.domain.instance import Origin, Transport


def header(**values: Value) -> Header:
    return Header({"ImagesInAcquisition": (36,), "AcquisitionNumber": (2,), **values})


def test_a_count_that_agrees_with_the_headers_is_trusted() -> None:
    found = trusted_images_in_acquisition(header(), list(range(1, 21)), is_single_frame=True)

    assert found == 36


@pytest.mark.parametrize(
    ("values", "numbers"),
    [
        ({"ImagesInAcquisition": (0,)}, [1]),
        ({"ImagesInAcquisition": (-1,)}, [1]),
        ({"ImagesInAcquisition": ()}, [1]),
        ({"ImagesInAcquisition": (36, 36)}, [1]),
        ({"ImagesInAcquisition": DIFFERS}, [1]),
        ({"AcquisitionNumber": DIFFERS}, [1, 2]),
        ({"AcquisitionNumber": ()}, [1, 2]),
        ({"ImagesInAcquisition": (2,)}, [1, 2, 3]),
        ({}, [1, 2, None]),
        ({}, [1, 2, 2]),
        ({}, [35, 36, 37]),
        ({}, [0, 1, 2]),
        ({}, []),
    ],
    ids=[
        "zero",
        "negative",
        "empty",
        "two values",
        "differs",
        "several acquisitions",
        "acquisition not named",
        "more came",
        "a number is missing",
        "numbers repeat",
        "numbers beyond the count",
        "numbers from 0",
        "no instance",
    ],
)
def test_a_count_that_something_contradicts_is_ignored(
    values: dict[str, Value], numbers: list[int | None]
) -> None:
    assert trusted_images_in_acquisition(header(**values), numbers, is_single_frame=True) is None


def test_a_count_of_multi_frame_instances_is_ignored() -> None:
    assert trusted_images_in_acquisition(header(), [1], is_single_frame=False) is None


def test_a_header_without_the_attribute_gives_no_count() -> None:
    assert trusted_images_in_acquisition(Header(), [1], is_single_frame=True) is None


def test_a_habit_belongs_to_the_configured_peer_else_to_title_and_address() -> None:
    known = Origin(transport=Transport.DIMSE, association_id="1", peer="PACS", calling_ae_title="X")
    unknown = Origin(
        transport=Transport.DIMSE,
        association_id="1",
        calling_ae_title="X" * 16,
        address="10.0.0.5" * 20,
    )

    assert peer_key(known) == "dimse:PACS"
    assert peer_key(unknown).startswith("dimse:XXXXXXXXXXXXXXXX@10.0.0.5")
    assert len(peer_key(unknown)) == 80
