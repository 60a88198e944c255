"""Sliding windows whose labels come out without a map of every class of the whole image.

A network that tells 105 classes apart on 287 x 287 x 397 voxels answers with 14 GB, of which one
byte per voxel is wanted. Windows are therefore worked off row by row, and each plane is decided as
soon as no later window touches it: what is held is one window's depth of maps, and the labels. The
values that are decided on are bit for bit those of ``monai.inferers.SlidingWindowInferer`` where
the network answers a window alike in every batch: same windows, weights, order of sums, division.

What can fail: ``JobRefused``: an inferer of another kind, a network whose answer does
not fit its window, values that are not numbers. Running out of memory is left to the caller, who
may repeat with smaller batches or the slab on the CPU.

Floating-point sums depend on the order of their terms. So that blended values are bit for bit those
of a scan over the whole image, whose first axis is the slowest, each voxel's terms are added here in
the order of that scan, whatever axis the rows follow:

- ``_Rolling``: rows come in the order of the scan. Answers are added as they come; finished planes
  leave at the front and the rest moves up.
- ``_Replaying``: they do not. An answer is added only to planes that its own row finishes; what
  reaches beyond is kept, and is added in later rows, before the windows it comes before in the scan.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from monai.data.utils import compute_importance_map, dense_patch_slices
from monai.inferers.inferer import SimpleInferer, SlidingWindowInferer, SlidingWindowInfererAdapt
from monai.utils.misc import ensure_tuple_rep, fall_back_tuple
from torch import Tensor
from torch.nn.functional import pad

from node.domain.errors import JobRefused

Triple = tuple[int, int, int]
Network = Callable[[Tensor], object]
Decide = Callable[[Tensor], Tensor]


def refuse_no_numbers(values: Tensor) -> None:
    """A network that overflows, or whose weights are spoilt, must not be believed.

    Raises:
        JobRefused: One of the values is infinite or no number.
    """
    if not bool(torch.isfinite(values).all()):
        raise JobRefused(
            "the network returned values that are not numbers: check its weights, or run it in fp32"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Windowing:
    """How windows are cut, asked about and blended.

    Args:
        roi_size: Voxels of a window; one number for all axes; not above 0: as large as the image.
        batch: Windows per call of the network.
        overlap: Share of a window that the next one repeats, in [0, 1).
        mode: ``constant`` or ``gaussian`` weights.
        sigma_scale: Width of the gaussian, in window sizes.
        padding_mode: How an image smaller than a window is enlarged.
        cval: The value it is enlarged with where that mode is ``constant``.
        window_device: Where the network is; the image's by default.
        slab_device: Where answers are added up and labels are made; the image's by default.
        autocast: Number type inside the network; none: as its weights are.
    Raises:
        JobFailed: An overlap or batch that cannot be.
    """

    roi_size: Sequence[int] | int
    batch: int = 1
    overlap: Sequence[float] | float = 0.25
    mode: str = "constant"
    sigma_scale: Sequence[float] | float = 0.125
    padding_mode: str = "constant"
    cval: float = 0.0
    window_device: torch.device | str | None = None
    slab_device: torch.device | str | None = None
    autocast: torch.dtype | None = None

    def __post_init__(self) -> None:
        shares = self.overlap if isinstance(self.overlap, Sequence) else [self.overlap]
        if self.batch < 1 or not all(0 <= share < 1 for share in shares):
            raise JobRefused(
                f"sliding windows cannot overlap by {self.overlap} in batches of {self.batch}: "
                "mend the inferer in the model's configuration"
            )


def windowing_of(inferer: object) -> Windowing:
    """What a bundle's own inferer says.

    ``SimpleInferer`` is one window of the image's size. Buffering and ``cpu_thresh`` are not taken
    over: they trade the memory of maps that are not made here.

    Raises:
        JobFailed: Not a kind of inferer whose result is known to be the same.
    """
    if type(inferer) is SimpleInferer:
        return Windowing(roi_size=-1, overlap=0.0)
    if (
        not isinstance(inferer, SlidingWindowInferer)
        or type(inferer) not in (SlidingWindowInferer, SlidingWindowInfererAdapt)
        or inferer.with_coord
    ):
        raise JobRefused(
            f"an inferer {type(inferer).__name__} cannot be run window by window: "
            "run this bundle in strict mode"
        )
    return Windowing(
        roi_size=inferer.roi_size,
        batch=inferer.sw_batch_size,
        overlap=inferer.overlap,
        mode=str(inferer.mode.value),
        sigma_scale=inferer.sigma_scale,
        padding_mode=str(getattr(inferer.padding_mode, "value", inferer.padding_mode)),
        cval=inferer.cval,
    )


def label_windows(image: Tensor, network: Network, decide: Decide, windowing: Windowing) -> Tensor:
    """Ask the network about every window and decide each voxel once its last window is blended.

    Args:
        image: Preprocessed, (C, X, Y, Z).
        network: Windows (B, C, *roi) -> answers (B, K, *roi), which may be overwritten.
        decide: Blended answers (K, x, y, z) of some planes -> labels (x, y, z); may overwrite them.

    Returns:
        Labels (X, Y, Z), of the type that ``decide`` makes, on the slab's device.

    Raises:
        JobFailed: An answer does not fit its window, or holds values that are not numbers.
    """
    with torch.inference_mode():
        run = _Run(image.as_subclass(Tensor), network, decide, windowing)
        windows = run.plan.windows()
        for first in range(0, len(windows), windowing.batch):
            run.take(windows[first : first + windowing.batch])
        return run.labels


class _Run:
    """One image on its way through the network: its slab, and the labels so far."""

    def __init__(
        self, image: Tensor, network: Network, decide: Decide, windowing: Windowing
    ) -> None:
        self._network, self._decide, self._windowing = network, decide, windowing
        self._shape = _triple(image.shape[1:])
        roi = _window(windowing.roi_size, self._shape)
        self._image, self._corner = _padded(image, roi, windowing)
        self.plan = plan_windows(
            _triple(self._image.shape[1:]), roi, ensure_tuple_rep(windowing.overlap, 3)
        )
        self.labels = image.new_empty(0)
        self._per_row = len(self.plan.windows()) // len(self.plan.rows)
        self._added = 0
        self._window_device = torch.device(windowing.window_device or image.device)
        self._slab_device = torch.device(windowing.slab_device or image.device)
        self._weights = compute_importance_map(
            roi,
            mode=windowing.mode,
            sigma_scale=windowing.sigma_scale,
            device=self._window_device,
        )
        self._slab: _Rolling | None = None

    def take(self, windows: list[Triple]) -> None:
        """Ask about the next windows and finish each row that ends with one of them."""
        for start, answer in zip(windows, self._ask(windows), strict=True):
            if self._slab is None:
                slab_of = _Rolling if self.plan.in_order else _Replaying
                self._slab = slab_of(self.plan, len(answer), self._slab_device)
            if self._windowing.mode != "constant":
                is_same = answer.dtype == self._weights.dtype
                answer = answer.mul_(self._weights) if is_same else answer * self._weights
            self._slab.add(start, answer.to(self._slab_device))
            self._added += 1
            if self._added % self._per_row == 0:
                self._finish_row(self._slab)

    def _ask(self, windows: list[Triple]) -> Tensor:
        roi, dtype = self.plan.roi, self._windowing.autocast
        asked = torch.stack([self._image[:, *_box(start, roi)] for start in windows])
        # nothing cached: weights cast in this call must not be read by a recording of it later
        with torch.autocast(
            self._window_device.type, dtype=dtype, enabled=dtype is not None, cache_enabled=False
        ):
            answer = self._network(asked.to(self._window_device))
        if (
            not isinstance(answer, Tensor)
            or answer.ndim != 5
            or (len(answer), *answer.shape[2:]) != (len(windows), *roi)
        ):
            voxels = " x ".join(map(str, roi))
            raise JobRefused(
                f"the network does not answer a window of {voxels} voxels with maps of that "
                "size: run this bundle in strict mode"
            )
        return answer.as_subclass(Tensor)

    def _finish_row(self, slab: _Rolling) -> None:
        """Blend and decide the planes that no later row touches."""
        plan = self.plan
        first = plan.rows[slab.row]
        sums = slab.finished()
        planes = sums.shape[plan.axis + 1]
        sums.div_(self._counted(first, planes).to(sums.dtype))
        source, target = [slice(None)], []
        for axis, (corner, length) in enumerate(zip(self._corner, self._shape, strict=True)):
            low, high = (first, first + planes) if axis == plan.axis else (0, plan.size[axis])
            start = max(low, corner)
            stop = max(min(high, corner + length), start)
            source.append(slice(start - low, stop - low))
            target.append(slice(start - corner, stop - corner))
        blended = sums[tuple(source)]
        if blended.numel() > 0:  # else all of it is what the image was enlarged by
            refuse_no_numbers(torch.stack([torch.stack(torch.aminmax(each)) for each in blended]))
            decided = self._decide(blended)
            if self.labels.numel() == 0:
                self.labels = decided.new_zeros(self._shape)
            self.labels[tuple(target)] = decided
        if slab.row + 1 < len(plan.rows):
            slab.next_row()

    def _counted(self, first: int, planes: int) -> Tensor:
        """The sum of the weights that met at each voxel of some planes."""
        axis, roi = self.plan.axis, self.plan.roi
        weights = self._weights.to(self._slab_device)
        shape = list(self.plan.size)
        shape[axis] = planes
        counted = torch.zeros(shape, dtype=weights.dtype, device=self._slab_device)
        for start in self.plan.touching(first, planes):
            skipped = max(first - start[axis], 0)
            begin = max(start[axis] - first, 0)
            depth = min(roi[axis] - skipped, planes - begin)
            box = list(_box(start, roi))
            box[axis] = slice(begin, begin + depth)
            counted[tuple(box)] += weights.narrow(axis, skipped, depth)
        return counted


def _triple(numbers: Sequence[int]) -> Triple:
    if len(numbers) != 3:
        raise JobRefused(
            f"a network that works on {len(numbers)} dimensions cannot be run by windows here: "
            "run this bundle in strict mode"
        )
    x, y, z = (int(number) for number in numbers)
    return x, y, z


def _window(roi_size: Sequence[int] | int, shape: Triple) -> Triple:
    sizes = [roi_size] * 3 if isinstance(roi_size, int) else roi_size
    if len(sizes) != 3:
        return _triple(sizes)
    return _triple(fall_back_tuple(sizes, shape))


def _box(start: Triple, roi: Triple) -> tuple[slice, ...]:
    return tuple(slice(low, low + size) for low, size in zip(start, roi, strict=True))


def _padded(image: Tensor, roi: Triple, windowing: Windowing) -> tuple[Tensor, Triple]:
    """The image enlarged to at least one window, and where its first voxel lies in that."""
    missing = [max(part - whole, 0) for whole, part in zip(image.shape[1:], roi, strict=True)]
    corner = _triple([number // 2 for number in missing])
    if not any(missing):
        return image, corner
    edges = [(low, number - low) for low, number in zip(corner, missing, strict=True)]
    widths = [width for edge in reversed(edges) for width in edge]  # the last axis comes first
    enlarged = pad(image[None], widths, mode=windowing.padding_mode, value=windowing.cval)[0]
    return enlarged, corner


# --- where windows lie ---


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowPlan:
    """Windows in rows: those of one row start on the same plane of ``axis``.

    Args:
        size: Voxels of the image, X, Y, Z; at least ``roi`` on each axis.
        roi: Voxels of a window, X, Y, Z.
        starts: Where windows begin, per axis, rising; every combination is a window.
        axis: The axis along which planes are finished one row after another.
    """

    size: Triple
    roi: Triple
    starts: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    axis: int

    def __post_init__(self) -> None:
        if not 0 <= self.axis < 3 or any(
            roi > size or ends[-1] + roi != size
            for size, roi, ends in zip(self.size, self.roi, self.starts, strict=True)
        ):
            raise ValueError("the windows do not cover the image")

    @property
    def rows(self) -> tuple[int, ...]:
        """The first plane of each row."""
        return self.starts[self.axis]

    @property
    def in_order(self) -> bool:
        """Whether row by row is also the order of a scan whose first axis is the slowest."""
        return all(len(starts) == 1 for starts in self.starts[: self.axis])

    def windows(self) -> list[Triple]:
        """The first voxel of every window, row by row."""
        scan = list(product(*self.starts))
        return sorted(scan, key=lambda start: start[self.axis])  # stable: a row keeps its order

    def finished(self, row: int) -> int:
        """How many planes, from the start of this row, no later row touches."""
        if row + 1 == len(self.rows):
            return self.roi[self.axis]
        return self.rows[row + 1] - self.rows[row]

    def touching(self, first: int, planes: int) -> list[Triple]:
        """The windows that hold any of these planes, slowest axis first."""
        depth = self.roi[self.axis]
        return [
            start
            for start in product(*self.starts)
            if start[self.axis] < first + planes and start[self.axis] + depth > first
        ]

    def voxels_held(self) -> int:
        """The most voxels, per channel, held at once to blend in the order of the scan."""
        depth = self.roi[self.axis]
        plane = math.prod(self.size) // self.size[self.axis]
        if self.in_order:
            return plane * depth
        across = math.prod(
            self.roi[other] * len(self.starts[other]) for other in range(3) if other != self.axis
        )
        ends = [first + self.finished(row) for row, first in enumerate(self.rows)]
        most = max(
            sum(max(first + depth - end, 0) for first in self.rows[: row + 1])
            for row, end in enumerate(ends)
        )
        return plane * depth + across * most


def plan_windows(size: Triple, roi: Triple, overlap: Sequence[float]) -> WindowPlan:
    """Lay windows as ``monai.inferers`` does; work them off along the axis that needs least memory.

    Args:
        overlap: Share of a window that the next one repeats, per axis, in [0, 1).
    """
    step = [max(int(part * (1 - share)), 1) for part, share in zip(roi, overlap, strict=True)]
    slices = dense_patch_slices(size, roi, step)
    x, y, z = (tuple(sorted({window[axis].start for window in slices})) for axis in range(3))
    plans = [WindowPlan(size=size, roi=roi, starts=(x, y, z), axis=axis) for axis in range(3)]
    return min(plans, key=WindowPlan.voxels_held)


# --- blending ---


class _Rolling:
    """Sums of the answers of windows, for the planes that windows of the present row hold."""

    def __init__(self, plan: WindowPlan, maps: int, device: torch.device) -> None:
        self._plan, self._dim = plan, plan.axis + 1
        shape = [maps, *plan.size]
        shape[self._dim] = plan.roi[plan.axis]
        self._sums = torch.zeros(shape, dtype=torch.float32, device=device)
        self.row = 0

    def add(self, start: Triple, answer: Tensor) -> None:
        """Add the answer (K, *roi) of the window that begins at ``start``, of the present row."""
        self._across(start).add_(answer)

    def finished(self) -> Tensor:
        """The sums (K, ...) of the planes that the present row finishes, to be changed at will."""
        return self._sums.narrow(self._dim, 0, self._plan.finished(self.row))

    def next_row(self) -> None:
        """Forget the finished planes."""
        gone = self._plan.finished(self.row)
        rest = self._plan.roi[self._plan.axis] - gone
        for first in range(0, rest, gone):  # in steps, since a copy must not overlap its source
            planes = min(gone, rest - first)
            moved = self._sums.narrow(self._dim, first + gone, planes)
            self._sums.narrow(self._dim, first, planes).copy_(moved)
        self._sums.narrow(self._dim, rest, gone).zero_()
        self.row += 1

    def _across(self, start: Triple) -> Tensor:
        """All planes of the slab, and across them the window's own extent."""
        sums = self._sums
        for axis in range(3):
            if axis != self._plan.axis:
                sums = sums.narrow(axis + 1, start[axis], self._plan.roi[axis])
        return sums


class _Replaying(_Rolling):
    def __init__(self, plan: WindowPlan, maps: int, device: torch.device) -> None:
        super().__init__(plan, maps, device)
        self._first_after = tuple(starts[0] for starts in plan.starts[plan.axis + 1 :])
        self._kept: dict[tuple[int, ...], list[tuple[Triple, Tensor]]] = {}

    def add(self, start: Triple, answer: Tensor) -> None:
        axis = self._plan.axis
        kept = self._kept.setdefault(start[:axis], [])
        if start[axis + 1 :] == self._first_after:
            earlier, kept[:] = kept[:], []
            for other, rest in earlier:
                self._add(other, rest, kept)
            earlier.clear()
        self._add(start, answer, kept)

    def next_row(self) -> None:
        self.finished().zero_()
        self.row += 1

    def _add(self, start: Triple, answer: Tensor, kept: list[tuple[Triple, Tensor]]) -> None:
        """Add to the planes that this row finishes; keep a copy of what reaches beyond."""
        depth = answer.shape[self._dim]
        here = min(self._plan.finished(self.row), depth)
        sums = self._across(start).narrow(self._dim, 0, here)
        sums.add_(answer.narrow(self._dim, 0, here))
        if here < depth:
            beyond = answer.narrow(self._dim, here, depth - here)
            kept.append((start, beyond.to(self._sums.dtype, copy=True).contiguous()))
