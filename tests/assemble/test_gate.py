"""The geometry gate: what is one regular volume, and which sentence says why not."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from math import inf, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from node.assemble.gate import MinimumSize, is_regular, judge_geometry
from node.domain.frames import Frame
from node.domain.grid import GateVerdict
from node.domain.reasons import ReasonCode
from node.words import tell
from tests.assemble.stacks import ORIGIN_MM, frame, regular, stack_at


@st.composite
def rotations(draw: st.DrawFn) -> NDArray[np.float64]:
    """Any rotation, by a unit quaternion."""
    parts = st.floats(-1, 1).filter(lambda v: abs(v) > 1e-3)
    q = np.array([draw(parts) for _ in range(4)])
    w, x, y, z = q / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def sentences(verdict: GateVerdict) -> tuple[str, ...]:
    return tuple(tell(finding) for finding in verdict.findings)


def findings(frames: list[Frame], **minimum: int) -> tuple[str, ...]:
    return sentences(judge_geometry(frames, MinimumSize(**minimum)))


# --- one volume, whatever the order and direction


@given(st.permutations(range(12)), st.floats(0.2, 10), rotations())
def test_arrival_order_never_changes_the_stack(
    arrival: list[int], spacing_mm: float, rotation: NDArray[np.float64]
) -> None:
    frames = stack_at([k * spacing_mm for k in range(12)], rotation)

    verdict = judge_geometry([frames[i] for i in arrival])

    assert verdict == judge_geometry(frames)
    assert verdict.stack is not None
    assert verdict.stack.frames == tuple(frames)


@given(rotations(), st.floats(0.2, 10), st.integers(2, 30))
def test_any_orientation_gives_the_lattice_it_was_made_of(
    rotation: NDArray[np.float64], spacing_mm: float, count: int
) -> None:
    frames = stack_at([k * spacing_mm for k in range(count)], rotation)

    stack = judge_geometry(frames).stack

    assert stack is not None
    voxel = np.array([count - 1, 5, 7, 1.0])
    row, column, normal = rotation.T
    expected = ORIGIN_MM + (count - 1) * spacing_mm * normal + 5 * 0.8 * column + 7 * 0.7 * row
    np.testing.assert_allclose((stack.grid.affine_lps @ voxel)[:3], expected, atol=1e-6)
    assert stack.grid.shape == (count, 64, 48)
    assert stack.grid.spacing_mm == pytest.approx((spacing_mm, 0.8, 0.7))


def test_slices_always_run_along_row_cross_column() -> None:
    mirrored = (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0)  # normal -z
    frames = [frame(k, (0, 0, 3.0 * k), orientation=mirrored) for k in range(5)]

    stack = judge_geometry(frames).stack

    assert stack is not None
    assert [f.position_mm[2] for f in stack.frames if f.position_mm] == [12.0, 9.0, 6.0, 3.0, 0.0]
    assert np.linalg.det(stack.grid.affine_lps) == pytest.approx(
        judge_geometry(regular(5, 3.0)).stack.grid.voxel_ml * -1000.0  # type: ignore[union-attr]
    )


def test_the_affine_keeps_the_cosines_of_the_header_exactly() -> None:
    cosines = (0.999130, -0.011325, -0.040138, 0.020787, 0.969584, 0.243874)
    normal = np.cross(cosines[:3], cosines[3:])
    frames = [frame(k, 3.3 * k * normal, orientation=cosines) for k in range(6)]

    stack = judge_geometry(frames).stack

    assert stack is not None
    assert stack.grid.steps_mm[2] == tuple(c * 0.7 for c in cosines[:3])
    assert stack.grid.steps_mm[1] == tuple(c * 0.8 for c in cosines[3:])


# --- spacing, at its bounds


def with_step(count: int, index: int, factor: float, spacing_mm: float = 2.5) -> list[Frame]:
    steps = [spacing_mm] * (count - 1)
    steps[index] *= factor
    return stack_at([0.0, *itertools.accumulate(steps)])


@pytest.mark.parametrize("factor", [1.001, 0.999, 1 + 1e-7, 1.0])
def test_steps_within_a_thousandth_are_regular(factor: float) -> None:
    verdict = judge_geometry(with_step(11, 4, factor))

    assert verdict.findings == ()
    assert verdict.notes == ()


@pytest.mark.parametrize("factor", [1.00101, 0.99899, 1.05, 0.95])
def test_steps_within_a_twentieth_are_accepted_and_noted(factor: float) -> None:
    verdict = judge_geometry(with_step(11, 4, factor))

    assert verdict.findings == ()
    assert [note.code for note in verdict.notes] == [ReasonCode.SPACING_JITTER]
    assert verdict.notes[0].facts["worst"] == pytest.approx(abs(factor - 1), abs=1e-6)


@pytest.mark.parametrize("factor", [1.0501, 0.9499, 1.5, 1.94, 2.06, 0.3])
def test_steps_beyond_a_twentieth_are_uneven(factor: float) -> None:
    (finding,) = findings(with_step(11, 4, factor))

    assert finding.startswith("uneven spacing after slice 5: ")


@pytest.mark.parametrize(
    ("factor", "missing"),
    [
        (2.0, "1 slice"),
        (1.951, "1 slice"),
        (2.049, "1 slice"),
        (3.0, "2 slices"),
        (81, "80 slices"),
    ],
)
def test_steps_near_a_multiple_are_a_gap_with_its_place(factor: float, missing: str) -> None:
    (finding,) = findings(with_step(11, 1, factor))

    assert finding.startswith(f"gap: {missing} missing after slice 2 (steps 2.5/")


def test_every_gap_and_uneven_step_is_named() -> None:
    frames = stack_at([0, 1, 3, 4, 5, 8, 9, 10.4, 11.4, 12.4])

    found = findings(frames)

    assert [f.split(" (")[0] for f in found] == [
        "gap: 1 slice missing after slice 2",
        "gap: 2 slices missing after slice 5",
        "uneven spacing after slice 7: up to 40.0% off",
    ]


def test_a_gap_in_three_slices_is_measured_against_the_smaller_step() -> None:
    assert findings(stack_at([0, 5, 15])) == ("gap: 1 slice missing after slice 2 (steps 5/10 mm)",)


def test_small_steps_that_add_up_are_uneven() -> None:
    frames = stack_at(list(itertools.accumulate([1.0] * 60 + [1.045] * 60)))

    (finding,) = findings(frames)

    assert "add up" in finding


@given(st.lists(st.floats(-0.012, 0.012), min_size=3, max_size=40), st.permutations(range(3)))
def test_accepted_jitter_keeps_every_slice_near_its_place(
    jitter: list[float], axes: list[int]
) -> None:
    frames = stack_at([2.0 * (k + j) for k, j in enumerate(jitter)], np.eye(3)[axes])

    stack = judge_geometry(frames).stack

    assert stack is not None
    for k, slice_ in enumerate(stack.frames):
        place = (stack.grid.affine_lps @ np.array([k, 0, 0, 1.0]))[:3]
        assert np.linalg.norm(place - np.array(slice_.position_mm)) <= 0.5 * 2.0


# --- two images in one plane


def test_images_closer_than_a_hundredth_of_the_spacing_lie_in_one_plane() -> None:
    near = [*regular(10), *stack_at([5.0 + 0.024])]
    apart = [*regular(10), *stack_at([5.0 + 0.026])]

    assert findings(near) == ("two images at one position: at slice 3 of 10",)
    assert all("at one position" not in finding for finding in findings(apart))


def test_two_images_at_one_place_are_named() -> None:
    assert findings(stack_at([3.0, 3.0])) == ("two images at one position",)


def test_phases_are_counted_and_the_attribute_that_splits_them_is_named() -> None:
    frames = [f for _ in range(3) for f in regular(6)]
    hints = [{"TemporalPositionIdentifier": (phase,)} for phase in range(3) for _ in range(6)]

    verdict = judge_geometry(frames, phase_hints=hints)

    assert sentences(verdict) == (
        "18 images, 3 images at each of 6 positions: "
        "could be split into 3 phases by TemporalPositionIdentifier",
    )


def test_an_attribute_that_does_not_separate_every_position_is_not_named() -> None:
    frames = [f for _ in range(2) for f in regular(6)]
    hints = [{"AcquisitionNumber": (1 if index < 7 else 2,)} for index in range(12)]

    (finding,) = sentences(judge_geometry(frames, phase_hints=hints))

    assert finding == "12 images, 2 images at each of 6 positions"


def test_the_number_of_an_uneven_step_is_its_own_and_not_that_of_a_gap() -> None:
    finding = findings(stack_at([0, 1, 2, 17, 18, 19.286, 20.286]))[1]

    assert finding.startswith("uneven spacing after slice 5: up to 28.6% off")


MAGNITUDE = ("ORIGINAL", "PRIMARY", "M", "NONE")
FIELD_MAP = ("DERIVED", "PRIMARY", "FIELD_MAP", "NONE")


@pytest.mark.parametrize("keyword", ["ImageType", "FrameType"])
def test_images_of_different_kinds_are_no_phases(keyword: str) -> None:
    frames = [f for _ in range(2) for f in regular(6)]
    hints = [
        {keyword: kind, "EffectiveEchoTime": (echo,)}
        for kind, echo in ((MAGNITUDE, 4.6), (FIELD_MAP, 6.9))
        for _ in range(6)
    ]

    (finding,) = judge_geometry(frames, phase_hints=hints).findings

    assert tell(finding).endswith(f"could be split into 2 kinds of image by {keyword}")


def test_two_echoes_beside_a_field_map_are_two_kinds_and_not_three_phases() -> None:
    frames = [f for _ in range(3) for f in regular(6)]
    hints = [
        {"ImageType": kind, "EchoTime": (echo,)}
        for kind, echo in ((MAGNITUDE, 4.6), (MAGNITUDE, 6.9), (FIELD_MAP, 0.0))
        for _ in range(6)
    ]

    (finding,) = judge_geometry(frames, phase_hints=hints).findings

    assert tell(finding).endswith("positions: 2 kinds of image by ImageType")


def test_a_clock_time_that_differs_at_each_position_is_no_phase() -> None:
    frames = [f for _ in range(2) for f in regular(6)]
    hints = [{"AcquisitionTime": (f"1000{index:02}",)} for index in range(12)]

    assert "split" not in sentences(judge_geometry(frames, phase_hints=hints))[0]


def test_duplicates_do_not_hide_a_gap() -> None:
    frames = [*stack_at([0, 1, 2, 4, 5]), *stack_at([1])]

    assert [f.split(":")[0] for f in findings(frames)] == ["two images at one position", "gap"]


# --- orientation, shear


def tilted(component: float) -> tuple[float, ...]:
    return (1.0, component, 0.0, -component, 1.0, 0.0)


def test_cosines_equal_within_a_thousandth_are_one_orientation() -> None:
    same = [replace(f, orientation=tilted(0.00099)) if k else f for k, f in enumerate(regular(5))]
    other = [replace(f, orientation=tilted(0.00101)) if k else f for k, f in enumerate(regular(5))]

    assert judge_geometry(same).orientations == 1
    assert findings(other) == ("two orientations in one series (4/1 images)",)


def test_orientations_that_are_stacks_by_themselves_could_be_split() -> None:
    turned = stack_at([0, 4, 8, 12], np.eye(3)[[1, 2, 0]], pixel_spacing_mm=(0.5, 0.5))

    (finding,) = findings([*regular(5), *turned])

    assert finding == (
        "two orientations in one series (5/4 images): could be split by Image Orientation (Patient)"
    )


@pytest.mark.parametrize(
    "cosines",
    [(0.0,) * 6, (1, 0, 0, 1, 0, 0), (2, 0, 0, 0, 1, 0), (1, 0, 0, 0.003, 1, 0)],
    ids=["zeros", "parallel", "not unit", "skewed"],
)
def test_cosines_that_span_no_plane_are_named(cosines: tuple[float, ...]) -> None:
    assert findings(regular(5, orientation=cosines)) == (
        "Image Orientation (Patient) is not two unit vectors at right angles",
    )


def sheared(pixels: float, count: int = 5, spacing_mm: float = 5.0) -> list[Frame]:
    """A stack whose last slice lies this many pixels beside the first, along the columns."""
    shift = pixels * 0.8 / (count - 1)
    return [frame(k, ORIGIN_MM + np.array((0, shift * k, spacing_mm * k))) for k in range(count)]


def test_drift_up_to_half_a_pixel_is_accepted() -> None:
    assert findings(sheared(0.5)) == ()
    assert findings(sheared(-0.4999)) == ()


def test_drift_above_half_a_pixel_is_shear_with_its_angle() -> None:
    (finding,) = findings(sheared(0.51))
    tilt = [frame(k, (0, np.tan(np.radians(14)) * 5 * k, 5 * k)) for k in range(8)]

    assert finding.startswith("shear 1.17 degrees: ")
    assert findings(tilt)[0].startswith("shear 14 degrees: ")


def test_a_slice_that_lies_beside_the_others_is_not_called_a_tilt() -> None:
    frames = regular(9)
    x, y, z = frames[4].position_mm or (0, 0, 0)
    frames[4] = replace(frames[4], position_mm=(x + 7.0, y, z))

    assert findings(frames) == ("slices lie up to 10 pixels beside each other",)


# --- equal matrices, Frame of Reference, absent places, size


def test_different_matrices_and_pixel_spacings_are_named_with_their_numbers() -> None:
    frames = regular(5)
    frames[2] = replace(frames[2], rows=32, pixel_spacing_mm=(0.9, 0.7))

    assert findings(frames) == (
        "different numbers of rows and columns: 64 x 48, 32 x 48",
        "different Pixel Spacing: 0.8 x 0.7 mm, 0.9 x 0.7 mm",
    )


def test_an_absent_pixel_spacing_is_named() -> None:
    frames = regular(5)
    frames[2] = replace(frames[2], pixel_spacing_mm=None)

    assert findings(frames) == ("no Pixel Spacing in 1 of 5 images",)


@pytest.mark.parametrize("spacing", [(0.0, 0.7), (-0.8, 0.7), (nan, nan), (inf, 0.7)])
def test_an_unusable_pixel_spacing_is_not_said_to_be_absent(spacing: tuple[float, float]) -> None:
    frames = regular(5)
    frames[2] = replace(frames[2], pixel_spacing_mm=spacing)

    assert findings(frames) == ("Pixel Spacing malformed in 1 of 5 images",)
    assert judge_geometry(frames).spacing_mm is None


def test_a_missing_frame_of_reference_is_named() -> None:
    some = regular(5)
    some[2] = replace(some[2], frame_of_reference_uid=None)

    assert findings(regular(5, frame_of_reference_uid=None)) == ("no Frame of Reference",)
    assert findings(some) == ("no Frame of Reference in 1 of 5 images",)


def test_two_frames_of_reference_are_named() -> None:
    frames = regular(5)
    frames[2] = replace(frames[2], frame_of_reference_uid="1.2.10")

    assert findings(frames) == ("2 Frames of Reference: positions cannot be compared",)


def test_absent_positions_are_named() -> None:
    nowhere = regular(5, position_mm=None)
    some = regular(5)
    some[3] = replace(some[3], position_mm=None)

    assert findings(nowhere) == (
        "no positions at all: Image Position (Patient) absent or malformed",
    )
    assert findings(some) == (
        "1 of 5 images without a place: Image Position (Patient) absent or malformed",
    )


def test_one_slice_is_no_volume() -> None:
    assert findings(regular(1), slices=3) == ("one slice: not a volume",)


def test_no_images_are_a_finding() -> None:
    assert findings([]) == ("no images",)


@pytest.mark.parametrize(
    ("minimum", "finding"),
    [
        ({"slices": 6}, "5 slices, the model needs 6"),
        ({"rows": 65}, "64 x 48 pixels, the model needs 65 x 1"),
        ({"columns": 49}, "64 x 48 pixels, the model needs 1 x 49"),
    ],
)
def test_a_volume_below_the_models_minimum_is_named(minimum: dict[str, int], finding: str) -> None:
    assert findings(regular(5), **minimum) == (finding,)
    assert findings(regular(5), slices=5, rows=64, columns=48) == ()


def test_a_rescale_slope_that_cannot_be_read_is_named() -> None:
    assert findings(regular(5, slope=float("nan"))) == (
        "Rescale Slope or Intercept malformed in 5 of 5 images",
    )


def test_a_slope_of_its_own_for_every_slice_is_no_finding() -> None:
    frames = [replace(f, slope=1.0 + k) for k, f in enumerate(regular(5))]

    assert findings(frames) == ()


def test_all_findings_are_collected() -> None:
    frames = stack_at([0, 1, 3, 4], frame_of_reference_uid=None)
    frames[0] = replace(frames[0], columns=47)

    found = findings(frames, slices=9)

    assert [f.split(" ")[0] for f in found] == ["no", "different", "gap:", "4"]


# --- the part of it that completion asks for


def test_regularity_asks_only_what_more_images_could_change() -> None:
    assert is_regular(regular(5, frame_of_reference_uid=None), 5)
    assert is_regular(regular(5, rows=8), 5)
    assert is_regular(sheared(20.0), 5)


@pytest.mark.parametrize(
    "frames",
    [
        [],
        regular(1),
        regular(4),
        stack_at([0, 1, 2, 4, 5]),
        stack_at([0, 1, 2, 2, 3]),
        regular(5, position_mm=None),
        regular(5, orientation=(0.0,) * 6),
        [*regular(4), *stack_at([20], np.eye(3)[[1, 2, 0]])],
    ],
    ids=["none", "one", "too few", "gap", "same plane", "no place", "no plane", "localizer"],
)
def test_what_could_still_be_growing_is_not_regular(frames: list[Frame]) -> None:
    assert not is_regular(frames, 5)


@given(st.sets(st.integers(0, 19), min_size=2))
def test_a_stack_with_inner_slices_outstanding_is_not_regular(arrived: set[int]) -> None:
    frames = stack_at([1.25 * k for k in sorted(arrived)])
    steps = {b - a for a, b in itertools.pairwise(sorted(arrived))}

    assert is_regular(frames) == (len(steps) == 1)


def test_four_hundred_frames_are_judged_within_ten_milliseconds() -> None:
    frames = regular(400)
    judge_geometry(frames)

    spent_s = min(_timed(lambda: judge_geometry(frames)) for _ in range(20))

    assert spent_s < 0.010


def _timed(call) -> float:  # type: ignore[no-untyped-def]
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
