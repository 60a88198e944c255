"""A bundle in the warm worker: its own parts, fed from memory, without a file or a whole class map.

The network, preprocessing, inferer and postprocessing are those of the bundle's configuration. What
is ours is what lies between: the image comes from the DICOM volume, resampling goes axis by axis,
windows are decided as they are finished, and one integer label map goes back to the source grid
through the bundle's own inversion.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.spatial.dictionary import Orientationd, Spacingd
from monai.transforms.utility.dictionary import EnsureChannelFirstd, EnsureTyped
from monai.transforms.utils import reset_ops_id
from torch import Tensor

from node.domain.errors import JobRefused
from node.domain.grid import Floats, Grid
from node.domain.result import LabelArray
from node.infer.bundle.card import as_asked
from node.infer.bundle.decide import mark_regions
from node.infer.bundle.loading import Loaded
from node.infer.bundle.vista import is_vista, prompts_of, vista_labels, vista_windowing
from node.infer.bundle.windows import (
    Decide,
    Network,
    Windowing,
    label_windows,
    refuse_no_numbers,
    windowing_of,
)
from node.infer.report import Report
from node.infer.volume import Volume

PRECISIONS = {"fp32": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Name -> what autocast makes of the network's inputs and weights."""

_PRED = "pred"
_LABEL_LIMIT = 65535
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_REVERSED = [2, 1, 0, 3]  # (slice, row, column) against (column, row, slice)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryMode:
    """How much memory a run may use at once.

    Args:
        single_windows: One window at a time, whatever the bundle says.
        recorded: The network is recorded on a card, which keeps the memory of one window.
        slab_on_cpu: Sums and labels in main memory while the network is on a GPU.
    """

    device: str
    precision: str = "fp32"
    single_windows: bool = False
    recorded: bool = True
    slab_on_cpu: bool = False

    @property
    def is_cpu(self) -> bool:
        """Whether the network is on the CPU."""
        return self.device == "cpu"


def run_fast(
    loaded: Loaded,
    channels: Sequence[Volume],
    effort: MemoryMode,
    report: Report,
    region_channels: Sequence[int] = (),
    wanted: Sequence[int] = (),
) -> LabelArray:
    """The labels of an image, shape (slice, row, column) of its grid.

    Args:
        channels: As the network takes them, all on one grid.
        region_channels: Where regions are wanted: the output channel of each, in order.
        wanted: The classes to ask for, of a network that is asked; all by default.
    Raises:
        JobFailed: The bundle's answer is no label map on the image's grid.
    """
    with report.stage("prepare"):
        prepared = _preprocess(loaded, channels, effort.device)
    with report.stage("network"):
        answer = _answer(loaded, prepared, effort, region_channels, wanted, report.note)
    with report.stage("invert"):
        reset_ops_id(prepared)  # type: ignore[no-untyped-call]  # inverted by a copy of the transforms
        data = {loaded.image_key: prepared, _PRED: answer}
        if loaded.post.kind == "regions" and prepared.applied_operations:
            raise JobRefused(
                "the bundle resamples its image: its regions cannot be handed on, say outputs:"
                " [labels]"
            )
        for transform in loaded.post.rest:
            data = transform(data)
        return _as_labels(data[_PRED], channels[0].grid)


def warm_up(loaded: Loaded, effort: MemoryMode, region_channels: Sequence[int] = ()) -> None:
    """Windows of nothing: what a network sets up at its first ones, the first job then finds.

    As many as it takes until it is recorded; none where windows are as large as the image.

    Raises:
        JobFailed: As ``run_fast``; so may torch, whatever it raises.
    """
    if loaded.post.kind == "maps":
        return
    windowing = _own_windowing(loaded)
    roi = [windowing.roi_size] * 3 if isinstance(windowing.roi_size, int) else windowing.roi_size
    if min(roi) < 1:
        return
    channels = next((each.shape[1] for each in loaded.network.parameters() if each.ndim == 5), 1)
    image = MetaTensor(torch.zeros(channels, *roi[:-1], 2 * windowing.batch * roi[-1]))
    _answer(loaded, image, effort, region_channels, (), lambda _: None)


def windows_at_once(loaded: Loaded) -> int:
    """How many windows a call of the network gets; 1 also where that is not ours to change."""
    return 1 if loaded.post.kind == "maps" else _own_windowing(loaded).batch


def _preprocess(loaded: Loaded, channels: Sequence[Volume], device: str) -> MetaTensor:
    data: dict[Any, Any] = {loaded.image_key: _tensor(loaded, channels, device)}
    for transform in loaded.transforms:
        data = transform(data)
    prepared = data[loaded.image_key]
    if not isinstance(prepared, MetaTensor) or prepared.ndim != 4:
        raise JobRefused("the bundle's preprocessing does not give one 3D image")
    return prepared


def _tensor(loaded: Loaded, channels: Sequence[Volume], device: str) -> MetaTensor:
    """The image as MONAI's loader would give it, from memory."""
    arrays = [each.array.transpose() for each in channels]
    if not _resamples_first(loaded.transforms):
        arrays = [each.astype(np.float32) for each in arrays]
    array = arrays[0] if len(arrays) == 1 else np.stack(arrays)
    if loaded.channel_first and array.ndim == 3:
        array = array[None]
    affine = affine_ras(channels[0].grid)
    meta = {
        "spatial_shape": np.array(channels[0].grid.shape[::-1]),
        "original_channel_dim": 0 if array.ndim == 4 else float("nan"),
        "original_affine": affine,
        "filename_or_obj": "image",
        "space": "RAS",
    }
    return MetaTensor(torch.as_tensor(array).to(device), affine=torch.tensor(affine), meta=meta)


def affine_ras(grid: Grid) -> Floats:
    """From the index (column, row, slice, 1) to RAS mm, shape (4, 4).

    Rounded to single precision, which is what a NIfTI header keeps: an image from memory then lies
    where the same image from a file lies, to the last bit.

    Source: NIfTI-1, srow_x, srow_y and srow_z
    """
    exact = _LPS_TO_RAS @ grid.affine_lps[:, _REVERSED]
    return exact.astype(np.float32).astype(np.float64)


def _resamples_first(transforms: Sequence[Any]) -> bool:
    """Whether nothing looks at voxels before they are resampled: then they may stay integers."""
    for transform in transforms:
        if isinstance(transform, Spacingd):
            return True
        changes_type = isinstance(transform, EnsureTyped) and tuple(transform.dtype) != (None,)
        if changes_type or not isinstance(
            transform, EnsureChannelFirstd | EnsureTyped | Orientationd
        ):
            return False
    return False


def _answer(
    loaded: Loaded,
    prepared: MetaTensor,
    effort: MemoryMode,
    region_channels: Sequence[int],
    wanted: Sequence[int],
    tell: Callable[[str], None],
) -> MetaTensor:
    """Labels or regions (1, X, Y, Z), or maps (K, X, Y, Z) where the bundle wants them whole."""
    if effort.is_cpu:
        return _answer_as_set(loaded, prepared, effort, region_channels, wanted, None)
    recorded = partial(loaded.recorder.of, precision=effort.precision, tell=tell)
    record = recorded if effort.recorded and not loaded.engine else None
    with as_asked(effort.precision):
        return _answer_as_set(loaded, prepared, effort, region_channels, wanted, record)


def _answer_as_set(
    loaded: Loaded,
    prepared: MetaTensor,
    effort: MemoryMode,
    region_channels: Sequence[int],
    wanted: Sequence[int],
    record: Callable[[Network], Network] | None,
) -> MetaTensor:
    if loaded.post.kind == "maps":
        return _maps(loaded, prepared, effort)
    image, network = prepared.to(effort.device), loaded.network
    windowing = _windowing(_own_windowing(loaded), effort)
    if loaded.post.kind == "classes":
        prompts = prompts_of(loaded.parser, loaded.transforms, wanted)
        return MetaTensor(vista_labels(image, network, windowing, prompts, record)[None])
    asked: Network = loaded.headless
    decide: Decide = loaded.headless.decide
    if loaded.post.kind == "regions":
        asked, decide = network, mark_regions(loaded.post.threshold, region_channels)
    asked = record(asked) if record else asked
    return MetaTensor(label_windows(image, asked, decide, windowing)[None])


def _own_windowing(loaded: Loaded) -> Windowing:
    """How the bundle's own inferer cuts windows."""
    if loaded.post.kind != "classes":
        return windowing_of(loaded.inferer)
    if not is_vista(loaded.network):
        raise JobRefused(
            "the bundle asks for classes as VISTA3D is asked, of another network: run it in"
            " strict mode"
        )
    return vista_windowing(loaded.inferer, loaded.network)


def _windowing(windowing: Windowing, effort: MemoryMode) -> Windowing:
    return replace(
        windowing,
        batch=1 if effort.single_windows else windowing.batch,
        window_device=effort.device,
        slab_device="cpu" if effort.slab_on_cpu else effort.device,
        autocast=PRECISIONS[effort.precision],
    )


def _maps(loaded: Loaded, prepared: MetaTensor, effort: MemoryMode) -> MetaTensor:
    """The answer of the bundle's own inferer."""
    dtype = PRECISIONS[effort.precision]
    kind = torch.device(effort.device).type
    batch = prepared.to(effort.device)[None].as_subclass(Tensor)
    with torch.inference_mode(), torch.autocast(kind, dtype=dtype, enabled=dtype is not None):
        answer = loaded.inferer(batch, loaded.network)
    if not isinstance(answer, Tensor) or answer.shape[2:] != batch.shape[2:]:
        raise JobRefused(
            "the network does not answer with maps of its image's size: run this bundle in strict"
            " mode"
        )
    refuse_no_numbers(answer)
    return MetaTensor(answer[0].as_subclass(Tensor).float().clone())


def _as_labels(pred: Tensor, grid: Grid) -> LabelArray:
    values = torch.as_tensor(pred).as_subclass(Tensor)
    if values.ndim != 4 or len(values) != 1 or tuple(values.shape[:0:-1]) != grid.shape:
        given = " x ".join(str(size) for size in values.shape)
        raise JobRefused(
            f"the bundle made {given} values, not one label for each voxel of its image"
        )
    if values.dtype.is_floating_point:
        if not bool(torch.isfinite(values).all()):
            raise JobRefused("the bundle returned values that are not numbers")
        if bool((values != values.floor()).any()):
            raise JobRefused("the bundle returned values that are no labels")
    least, largest = (int(end) for end in torch.stack(torch.aminmax(values)).tolist())
    if least < 0 or largest > _LABEL_LIMIT:
        raise JobRefused("the bundle returned values that are no labels")
    return turned(values[0], np.uint8 if largest < 256 else np.uint16)


def turned(values: Tensor, dtype: Any) -> LabelArray:
    """Values (column, row, slice) as labels (slice, row, column), in the order of memory."""
    if values.device.type != "cpu":
        return turned_by_torch(values, dtype)
    given = values.numpy()
    labels: LabelArray = np.empty(given.shape[::-1], dtype)
    for row in range(given.shape[1]):  # what is read and written then fits into the cache
        labels[:, row, :] = given[:, row, :].T
    return labels


def turned_by_torch(values: Tensor, dtype: Any) -> LabelArray:
    """The same, done where the values are: on a CPU slower, on a card a hundred times as fast."""
    # torch knows little of uint16: the same bits as int16; float to int16 would not wrap
    small = values.to(torch.uint8) if dtype is np.uint8 else values.to(torch.int32).to(torch.int16)
    labels: LabelArray = small.permute(2, 1, 0).contiguous().cpu().numpy().view(dtype)
    return labels
