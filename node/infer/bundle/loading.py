"""Loading a bundle: its configuration, the network with its weights, what is done before and after.

Configuration is code: ``_target_`` and ``$`` expressions are executed when it is read, so a bundle
is loaded only after every file of it was held to the hash in model.yaml. An optimized network takes
the place of the bundle's own only where it was compared and nothing changed since; else that is told.

What a bundle does with its network's answer is sorted into what can be done window by window:

labels     [softmax] argmax, then anything: windows decide, the rest works on the label map
regions    sigmoid, [Invertd of nothing], threshold: windows decide, one bit for each region
classes    VistaPostTransformd, then anything: as labels, of the classes that are asked for
maps       anything else: in the bundle's order, on the maps of the whole image
"""

from __future__ import annotations

import importlib
import pickle
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch
from monai.apps.vista3d.transforms import VistaPostTransformd
from monai.bundle.config_parser import ConfigParser
from monai.transforms.compose import Compose
from monai.transforms.io.dictionary import LoadImaged, SaveImaged
from monai.transforms.post.dictionary import Activationsd, AsDiscreted, Invertd
from torch import Tensor

from node.domain.errors import JobRefused
from node.infer.assets import FileHashes
from node.infer.bundle.card import Recorder
from node.infer.bundle.decide import Headless
from node.infer.bundle.resample import make_lean
from node.infer.bundle.spec import Bundle, Optimized
from node.infer.registry import ModelSpec

LIBRARIES = ("torch", "torch_tensorrt")

# of cuBLAS and cuDNN, too; cuDNN has no engine where none of them gets its workspace
_OUT_OF_MEMORY = (
    *("out of memory", "allocate memory", "bad_alloc", "alloc_cpu"),
    *("cublas_status_alloc_failed", "cudnn_status_alloc_failed", "unable to find an engine"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PostPlan:
    """How to get from blended answers to labels.

    Args:
        rest: Transforms that follow on the whole.
        threshold: Of regions, on the sigmoid of an answer.
    """

    kind: Literal["labels", "classes", "regions", "maps"]
    rest: tuple[Any, ...]
    threshold: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A bundle's parts, ready to run again and again.

    Args:
        headless: The network again, without its last layer where that is a matrix.
        transforms: Its preprocessing after loading.
        image_key: Under which its transforms find the image.
        channel_first: Its loader gives the image a channel axis.
        engine: What the network was optimized with; empty: it is the bundle's own.
        remark: Why an optimized network that there is was not taken.
        recorder: Of the network on a card.
    """

    network: torch.nn.Module
    headless: Headless
    transforms: tuple[Any, ...]
    inferer: Any
    post: PostPlan
    image_key: str
    channel_first: bool
    parser: Any
    engine: str = ""
    remark: str = ""
    recorder: Recorder = field(default_factory=Recorder, compare=False)


def load(bundle: Bundle, device: str, *, regions: bool) -> Loaded:
    """Build a bundle's parts and load its weights.

    Raises:
        JobFailed: The configuration is none for inference, or the weights are not its network's;
            permanent.
    """
    parser = parser_of(bundle, device)
    for part in ("network_def", "preprocessing", "inferer", "postprocessing"):
        if part not in parser:
            raise JobRefused(f"{bundle.config.name} has no {part}: run this bundle in strict mode")
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
        headless=Headless(network),
        transforms=transforms,
        inferer=parser.get_parsed_content("inferer"),
        post=plan_post(postprocessing.transforms, regions=regions),
        image_key=str(loader.keys[0]),
        channel_first=bool(loader._loader.ensure_channel_first),
        parser=parser,
    )


def with_optimized(
    loaded: Loaded,
    entry: Optimized,
    spec: ModelSpec,
    bundle: Bundle,
    device: str,
    hashes: FileHashes,
) -> Loaded:
    """The bundle with its optimized network, or as it is, with a remark where one cannot be used."""
    stale = _stale(entry, spec, bundle, device, hashes)
    if stale:
        remark = f"the optimized network is not used: {stale}; segnode models optimize {spec.name}"
        return replace(loaded, remark=remark)
    if "torch_tensorrt" in entry.made_with:
        importlib.import_module("torch_tensorrt")  # registers what its networks are made of
    network = torch.jit.load(str(bundle.root / entry.file), map_location=device)  # type: ignore[no-untyped-call]
    network = network.eval()
    return replace(loaded, network=network, headless=Headless(network), engine=entry.engine)


def _stale(
    entry: Optimized, spec: ModelSpec, bundle: Bundle, device: str, hashes: FileHashes
) -> str:
    """What changed since it was made and compared; nothing where it may be used."""
    here = made_with(device)
    for name in sorted({*here, *entry.made_with}):
        then, now = entry.made_with.get(name, "none"), here.get(name, "none")
        if then != now:
            return f"it was made with {name} {then}, here is {now}"
    if entry.model_digest != spec.digest:
        return "the model, or segnode, changed since it was compared"
    if hashes.of(bundle.weights) != entry.weights_sha256:
        return "it was made of other weights"
    path = bundle.root / entry.file
    if not path.is_file() or hashes.of(path) != entry.sha256:
        return "its file is missing or changed"
    return ""


def made_with(device: str) -> dict[str, str]:
    """What an optimized network depends on, as it is here."""
    kind, _, number = device.partition(":")
    name = torch.cuda.get_device_name(int(number or 0)) if kind == "cuda" else kind
    found = {"device": name}
    for library in LIBRARIES:
        with suppress(PackageNotFoundError):
            found[library] = version(library)
    return found


def parser_of(bundle: Bundle, device: str) -> Any:
    """MONAI's parser over the configuration, with the bundle's own code within reach.

    Raises:
        JobRefused: The configuration cannot be read.
    """
    _reach_code(bundle.root)
    parser = ConfigParser()
    try:
        parser.read_config(str(bundle.config))
        metadata = bundle.config.parent / "metadata.json"
        if metadata.is_file():
            parser.read_meta(str(metadata))
    except (ValueError, OSError) as error:
        raise JobRefused(f"{bundle.config.name} of the bundle cannot be read") from error
    parser["bundle_root"] = str(bundle.root)
    if "device" in parser:
        parser["device"] = f"$torch.device('{device}')"
    for name, value in bundle.overrides.items():
        parser[name.replace("::", "#")] = value
    return parser


# as global as sys.path, of which it says what is on it: the bundle whose code this process imports
_reachable: list[Path] = []


def _reach_code(root: Path) -> None:
    """Let ``import scripts`` mean the code of this bundle, and of no other one.

    Nor a package of that name that is installed and was imported.
    """
    if "scripts" in sys.modules and not _lies_in(root, sys.modules["scripts"]):
        for name in [each for each in sys.modules if each.partition(".")[0] == "scripts"]:
            del sys.modules[name]
    if _reachable == [root] and str(root) in sys.path:
        return
    for previous in _reachable:
        with suppress(ValueError):  # code of a bundle may have changed the path
            sys.path.remove(str(previous))
        for name, module in list(sys.modules.items()):
            if _lies_in(previous, module):
                del sys.modules[name]
    _reachable[:] = [root]
    sys.path.insert(0, str(root))
    importlib.invalidate_caches()


def _lies_in(root: Path, module: object) -> bool:
    """Whether a module is code below a folder."""
    said = getattr(module, "__dict__", {})  # some answer to every name, as torch.classes
    # a folder of code without __init__.py has a path and no file
    places = [said.get("__file__"), *said.get("__path__", ())]
    return any(str(place).startswith(f"{root}/") for place in places)


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
    raise JobRefused("the bundle's preprocessing does not load one image: run it in strict mode")


def _load_weights(network: torch.nn.Module, bundle: Bundle) -> None:
    try:
        checkpoint = torch.load(bundle.weights, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError) as error:
        if is_out_of_memory(error):
            raise
        raise JobRefused(
            f"{bundle.weights.name} cannot be loaded as plain weights: convert it once to a state"
            " dictionary of tensors"
        ) from error
    state = checkpoint.get("model", checkpoint) if isinstance(checkpoint, dict) else checkpoint
    try:
        network.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        if is_out_of_memory(error):
            raise
        raise JobRefused(
            f"the weights in {bundle.weights.name} are not those of the bundle's network"
            f"{_misfit(network, state)}"
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


def plan_post(transforms: Sequence[Any], *, regions: bool) -> PostPlan:
    """Sort the transforms of a bundle.

    Args:
        regions: The model hands on regions: everything up to the threshold counts.
    Raises:
        JobRefused: Regions are wanted of a bundle that has no threshold.
    """
    kept = tuple(each for each in transforms if not isinstance(each, SaveImaged))
    if regions:
        return _plan_regions(kept)
    if kept and isinstance(kept[0], VistaPostTransformd):
        return PostPlan(kind="classes", rest=kept[1:])
    start = 1 if kept and _is_activation(kept[0], softmax=True) else 0
    if len(kept) > start and _is_argmax(kept[start]):
        return PostPlan(kind="labels", rest=kept[start + 1 :])
    return PostPlan(kind="maps", rest=kept)


def _plan_regions(kept: Sequence[Any]) -> PostPlan:
    then = next((each for each in kept[1:] if not isinstance(each, Invertd)), None)
    if kept and _is_activation(kept[0], sigmoid=True) and isinstance(then, AsDiscreted):
        threshold = _threshold(then)
        if threshold is not None:
            # regions on a resampled grid could not be inverted as bits: nothing is left to do
            return PostPlan(kind="regions", rest=(), threshold=threshold)
    raise JobRefused(
        "the bundle's postprocessing is not sigmoid and threshold: this model cannot hand on"
        " regions, say outputs: [labels]"
    )


def _is_activation(transform: Any, *, softmax: bool = False, sigmoid: bool = False) -> bool:
    return (
        isinstance(transform, Activationsd)
        and transform.softmax == (softmax,)
        and transform.sigmoid == (sigmoid,)
        and transform.other == (None,)
    )


def _is_argmax(transform: Any) -> bool:
    return (
        isinstance(transform, AsDiscreted)
        and transform.argmax == (True,)
        and list(transform.to_onehot) == [None]
        and list(transform.threshold) == [None]
        and not any(transform.rounding)
        and not transform.converter.kwargs
    )


def _threshold(transform: Any) -> float | None:
    if any(transform.argmax) or list(transform.to_onehot) != [None] or any(transform.rounding):
        return None
    (threshold,) = transform.threshold
    return None if threshold is None else float(threshold)
