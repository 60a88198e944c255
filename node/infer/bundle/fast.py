"""A bundle in the warm worker: its own parts, fed from memory, without a file or a whole class map.

The network, preprocessing, inferer and postprocessing are those of the bundle's configuration. What
is ours is what lies between: the image comes from the DICOM volume, resampling goes axis by axis,
windows are decided as they are finished, and one integer label map goes back to the source grid
through the bundle's own inversion.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.compose import Compose
from monai.transforms.io.dictionary import LoadImaged
from monai.transforms.post.dictionary import Invertd
from monai.transforms.spatial.dictionary import Orientationd, Spacingd
from monai.transforms.utility.dictionary import EnsureChannelFirstd, EnsureTyped
from monai.transforms.utils import reset_ops_id
from torch import Tensor

from node.domain.errors import JobFailed
from node.domain.result import LabelArray
from node.infer.bundle.classifier import largest_by_windows
from node.infer.bundle.config import Bundle, parser_of
from node.infer.bundle.decide import Decide, mark_regions, refuse_no_numbers
from node.infer.bundle.image import Image, affine_ras
from node.infer.bundle.postprocessing import PostPlan, plan_post
from node.infer.bundle.resample import make_lean
from node.infer.bundle.vista import is_vista, prompts_of, vista_labels, vista_windowing
from node.infer.bundle.windows import Windowing, label_windows, windowing_of
from node.infer.report import Report

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}

_PRED = "pred"
_LABEL_LIMIT = 65535
_OUT_OF_MEMORY = ("out of memory", "allocate memory", "bad_alloc", "alloc_cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A bundle's parts, ready to run again and again.

    Args:
        transforms: Its preprocessing after loading.
        image_key: Under which its transforms find the image.
        channel_first: Its loader gives the image a channel axis.
        engine: What the network was optimized with; empty: it is the bundle's own.
        remark: Why an optimized network that there is was not taken.
    """

    network: torch.nn.Module
    transforms: tuple[Any, ...]
    inferer: Any
    post: PostPlan
    image_key: str
    channel_first: bool
    parser: Any
    engine: str = ""
    remark: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryMode:
    """How much memory a run may use at once.

    Args:
        single_windows: One window at a time, whatever the bundle says.
        slab_on_cpu: Sums and labels in main memory while the network is on a GPU.
    """

    device: str
    precision: str = "fp32"
    single_windows: bool = False
    slab_on_cpu: bool = False


def load(bundle: Bundle, device: str, *, regions: bool) -> Loaded:
    """Build a bundle's parts and load its weights.

    Raises:
        JobFailed: The configuration is none for inference, or the weights are not its network's;
            permanent.
    """
    parser = parser_of(bundle, device)
    for part in ("network_def", "preprocessing", "inferer", "postprocessing"):
        if part not in parser:
            raise JobFailed(
                f"{bundle.config.name} has no {part}: run this bundle in strict mode",
                permanent=True,
            )
    network = parser.get_parsed_content("network_def")
    _load_weights(network, bundle)
    network = network.to(device).eval()
    preprocessing = parser.get_parsed_content("preprocessing")
    postprocessing = parser.get_parsed_content("postprocessing")
    make_lean(preprocessing)
    for transform in postprocessing.transforms:
        if isinstance(transform, Invertd):
            make_lean(transform.transform)
    transforms, loader = _after_loading(preprocessing)
    return Loaded(
        network=network,
        transforms=transforms,
        inferer=parser.get_parsed_content("inferer"),
        post=plan_post(postprocessing.transforms, regions=regions),
        image_key=str(loader.keys[0]),
        channel_first=bool(loader._loader.ensure_channel_first),
        parser=parser,
    )


def run_fast(
    loaded: Loaded,
    image: Image,
    effort: MemoryMode,
    report: Report,
    region_channels: Sequence[int] = (),
    wanted: Sequence[int] = (),
) -> LabelArray:
    """The labels of an image, shape (slice, row, column) of its grid.

    Args:
        region_channels: Where regions are wanted: the output channel of each, in order.
        wanted: The classes to ask for, of a network that is asked; all by default.
    Raises:
        JobFailed: The bundle's answer is no label map on the image's grid.
    """
    with report.stage("prepare"):
        prepared = _preprocess(loaded, image, effort.device)
    with report.stage("network"):
        answer = _answer(loaded, prepared, effort, region_channels, wanted)
    with report.stage("invert"):
        reset_ops_id(prepared)  # type: ignore[no-untyped-call]  # inverted by a copy of the transforms
        data = {loaded.image_key: prepared, _PRED: answer}
        for transform in _rest(loaded.post, prepared):
            data = transform(data)
        return _as_labels(data[_PRED], image)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice, as Python or torch put it."""
    return isinstance(error, MemoryError) or any(
        words in str(error).lower() for words in _OUT_OF_MEMORY
    )


def _after_loading(preprocessing: Compose) -> tuple[tuple[Any, ...], LoadImaged]:
    transforms = preprocessing.transforms
    for index, transform in enumerate(transforms):
        if isinstance(transform, LoadImaged) and len(transform.keys) == 1:
            return tuple(transforms[index + 1 :]), transform
    raise JobFailed(
        "the bundle's preprocessing does not load one image: run it in strict mode", permanent=True
    )


def _load_weights(network: torch.nn.Module, bundle: Bundle) -> None:
    try:
        checkpoint = torch.load(bundle.weights, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError) as error:
        if is_out_of_memory(error):
            raise
        raise JobFailed(
            f"{bundle.weights.name} cannot be loaded as plain weights: convert it once to a state"
            " dictionary of tensors",
            permanent=True,
        ) from error
    state = checkpoint.get("model", checkpoint) if isinstance(checkpoint, dict) else checkpoint
    try:
        network.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        if is_out_of_memory(error):
            raise
        raise JobFailed(
            f"the weights in {bundle.weights.name} are not those of the bundle's network"
            f"{_misfit(network, state)}",
            permanent=True,
        ) from error


def _misfit(network: torch.nn.Module, state: object) -> str:
    """What does not fit, with an example of each kind."""
    if not isinstance(state, dict):
        return ": they are no dictionary of tensors"
    due = network.state_dict()
    shapes = {
        name: f"{name} is {_shape(state[name])}, not {_shape(due[name])}"
        for name in due.keys() & state.keys()
        if _shape(state[name]) != _shape(due[name])
    }
    found = [
        ("missing", sorted(due.keys() - state.keys())),
        ("not of this network", sorted(map(str, state.keys() - due.keys()))),
        ("of another shape", sorted(shapes.values())),
    ]
    told = [f"{len(names)} {what} ({names[0]})" for what, names in found if names]
    return f": of {len(due)} tensors {', '.join(told)}" if told else ""


def _shape(value: object) -> str:
    return "x".join(map(str, value.shape)) if isinstance(value, Tensor) else type(value).__name__


def _preprocess(loaded: Loaded, image: Image, device: str) -> MetaTensor:
    data: dict[Any, Any] = {loaded.image_key: _tensor(loaded, image, device)}
    for transform in loaded.transforms:
        data = transform(data)
    prepared = data[loaded.image_key]
    if not isinstance(prepared, MetaTensor) or prepared.ndim != 4:
        raise JobFailed("the bundle's preprocessing does not give one 3D image", permanent=True)
    return prepared


def _tensor(loaded: Loaded, image: Image, device: str) -> MetaTensor:
    """The image as MONAI's loader would give it, from memory."""
    arrays = [each.array.transpose() for each in image.channels]
    if not _resamples_first(loaded.transforms):
        arrays = [each.astype(np.float32) for each in arrays]
    is_one = len(arrays) == 1
    array = arrays[0] if is_one else np.stack(arrays)
    if is_one and loaded.channel_first:
        array = array[None]
    has_channels = not is_one or loaded.channel_first
    meta = {
        "spatial_shape": np.array(image.grid.shape[::-1]),
        "original_channel_dim": 0 if has_channels else float("nan"),
        "original_affine": affine_ras(image.grid),
        "filename_or_obj": "image",
        "space": "RAS",
    }
    affine = torch.as_tensor(affine_ras(image.grid))
    return MetaTensor(torch.as_tensor(array).to(device), affine=affine, meta=meta)


def _resamples_first(transforms: Sequence[Any]) -> bool:
    """Whether nothing looks at voxels before they are resampled: then they may stay integers."""
    for transform in transforms:
        if isinstance(transform, Spacingd):
            return True
        harmless = isinstance(transform, EnsureChannelFirstd | Orientationd) or (
            isinstance(transform, EnsureTyped) and tuple(transform.dtype) == (None,)
        )
        if not harmless:
            return False
    return False


def _answer(
    loaded: Loaded,
    prepared: MetaTensor,
    effort: MemoryMode,
    region_channels: Sequence[int],
    wanted: Sequence[int],
) -> MetaTensor:
    """Labels or regions (1, X, Y, Z), or maps (K, X, Y, Z) where the bundle wants them whole."""
    if loaded.post.kind == "maps":
        return _maps(loaded, prepared, effort)
    if loaded.post.kind == "classes":
        return _of_classes(loaded, prepared, effort, wanted)
    windowing, image = _windowing(windowing_of(loaded.inferer), effort), prepared.to(effort.device)
    if loaded.post.kind == "regions":
        decide = _chosen(region_channels, mark_regions(loaded.post.threshold))
        labels = label_windows(image, loaded.network, decide, windowing)
    else:
        labels = largest_by_windows(image, loaded.network, windowing)
    return MetaTensor(labels[None])


def _of_classes(
    loaded: Loaded, prepared: MetaTensor, effort: MemoryMode, wanted: Sequence[int]
) -> MetaTensor:
    """Labels (1, X, Y, Z) of a network that is asked for classes by number."""
    if not is_vista(loaded.network):
        raise JobFailed(
            "the bundle asks for classes as VISTA3D is asked, of another network: run it in strict"
            " mode",
            permanent=True,
        )
    prompts = prompts_of(loaded.parser, loaded.transforms, wanted)
    windowing = _windowing(vista_windowing(loaded.inferer, loaded.network), effort)
    labels = vista_labels(prepared.to(effort.device), loaded.network, windowing, prompts)
    return MetaTensor(labels[None])


def _chosen(channels: Sequence[int], decide: Decide) -> Decide:
    """Decide on some maps in another order."""

    def chosen(maps: Tensor) -> Tensor:
        if max(channels) >= len(maps):
            raise JobFailed(
                f"the network has {len(maps)} output channels, region_channels names"
                f" {max(channels)}",
                permanent=True,
            )
        return decide(maps[list(channels)])

    return chosen if channels else decide


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
        raise JobFailed(
            "the network does not answer with maps of its image's size: run this bundle in strict"
            " mode",
            permanent=True,
        )
    refuse_no_numbers(answer)
    return MetaTensor(answer[0].as_subclass(Tensor).float().clone())


def _rest(post: PostPlan, prepared: MetaTensor) -> Sequence[Any]:
    """What is left to do; regions on a resampled grid could not be inverted as bits."""
    if post.kind == "regions" and prepared.applied_operations:
        raise JobFailed(
            "the bundle resamples its image: its regions cannot be handed on, say outputs: [labels]",
            permanent=True,
        )
    return () if post.kind == "regions" else post.rest


def _as_labels(pred: Tensor, image: Image) -> LabelArray:
    values = torch.as_tensor(pred).as_subclass(Tensor).cpu()
    if values.ndim != 4 or len(values) != 1 or tuple(values.shape[:0:-1]) != image.grid.shape:
        given = " x ".join(str(size) for size in values.shape)
        raise JobFailed(
            f"the bundle made {given} values, not one label for each voxel of its image",
            permanent=True,
        )
    if values.dtype.is_floating_point:
        if not bool(torch.isfinite(values).all()):
            raise JobFailed("the bundle returned values that are not numbers", permanent=True)
        if bool((values != values.floor()).any()):
            raise JobFailed("the bundle returned values that are no labels", permanent=True)
    if int(values.min()) < 0 or int(values.max()) > _LABEL_LIMIT:
        raise JobFailed("the bundle returned values that are no labels", permanent=True)
    array = values[0].numpy().transpose()
    if int(values.max()) < 256:
        return np.ascontiguousarray(array, np.uint8)
    return np.ascontiguousarray(array, np.uint16)
