"""VISTA3D against MONAI's own automatic mode: the same labels but for ties, without a class map."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("monai")

from monai.apps.vista3d.transforms import (  # noqa: E402
    VistaPostTransformd,
    VistaPreTransformd,
)
from monai.bundle import ConfigParser  # noqa: E402
from monai.inferers import Inferer, SlidingWindowInfererAdapt  # noqa: E402
from monai.networks.nets import VISTA3D, SegResNetDS2, UNet  # noqa: E402
from monai.networks.nets.vista3d import ClassMappingClassify, PointMappingSAM  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from node.domain.errors import JobFailed  # noqa: E402
from node.infer.bundle.loading import load, parser_of  # noqa: E402
from node.infer.bundle.spec import Bundle  # noqa: E402
from node.infer.bundle.vista import (  # noqa: E402
    is_vista,
    prompts_of,
    vista_labels,
    vista_windowing,
)
from node.infer.report import Stopwatch  # noqa: E402
from node.infer.run_context import run_model  # noqa: E402
from tests.support.bundles import MADE_BUNDLES, write_bundle_model  # noqa: E402
from tests.support.phantoms import Phantom  # noqa: E402
from tests.support.rooms import given_files, room  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:::monai", "ignore:::torch")

Tensor = Any
Shape = tuple[int, int, int]

TIE = 1e-3  # of the range of values: closer ones may be ordered by rounding
ROI = (16, 16, 16)
FEW = (3, 1, 14, 5)
MANY = tuple(range(1, 133))


def small_vista(features: int = 8, seed: int = 0, *, use_mlp: bool = True) -> Any:
    """VISTA3D with two levels and few features, on random weights."""
    torch.manual_seed(seed)
    encoder = SegResNetDS2(
        in_channels=1,
        out_channels=features,
        init_filters=features,
        blocks_down=(1, 1, 1),
        norm="instance",
        dsdepth=1,
    )
    network = VISTA3D(
        image_encoder=encoder,
        class_head=ClassMappingClassify(n_classes=512, feature_size=features, use_mlp=use_mlp),
        point_head=PointMappingSAM(feature_size=features, n_classes=512, last_supported=132),
    )
    return network.eval()


@pytest.fixture(scope="module")
def network() -> Any:
    return small_vista()


def picture(shape: Shape, seed: int = 0) -> Tensor:
    """Blobs of several sizes in noise, in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((1, 1, 5, 4, 6), generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, shape, mode="trilinear")[0]
    return (smooth + 0.1 * torch.rand((1, *shape), generator=generator)).clamp(0, 1)


class PublishedInferer(Inferer):
    """As VISTA bundles have it: its overlap is for points only."""

    def __init__(self, padding_mode: str = "replicate", batch: int = 1) -> None:
        super().__init__()
        self.overlap, self.padding_mode, self.batch = 0.6, padding_mode, batch

    def __call__(
        self,
        inputs: Tensor,
        network: Any,
        point_coords: Any,
        point_labels: Any,
        class_vector: Any,
        labels: Any = None,
        label_set: Any = None,
        prev_mask: Any = None,
    ) -> Tensor:
        if point_coords is not None:
            raise NotImplementedError
        windows = SlidingWindowInfererAdapt(
            roi_size=ROI, sw_batch_size=self.batch, with_coord=True, padding_mode=self.padding_mode
        )
        return windows(
            inputs,
            network,
            transpose=True,
            point_coords=point_coords,
            point_labels=point_labels,
            class_vector=class_vector,
            prompt_class=class_vector,
            prev_mask=prev_mask,
            labels=labels,
            label_set=label_set,
        )


def whole_maps(network: Any, image: Tensor, inferer: Any, prompts: Sequence[int]) -> Tensor:
    """One map of values for each prompt, by the bundle's own inferer, (prompts, X, Y, Z)."""
    with torch.no_grad():
        values = inferer(
            inputs=image[None],
            network=network,
            point_coords=None,
            point_labels=None,
            class_vector=torch.tensor(prompts)[:, None],
        )
    return values[0]


def published_labels(maps: Tensor, prompts: Sequence[int]) -> Tensor:
    """What MONAI's own last step makes of the maps."""
    data = {"pred": maps.clone(), "label_prompt": torch.tensor(prompts)[:, None]}
    return VistaPostTransformd(keys="pred")(data)["pred"][0]


def closest_two(maps: Tensor) -> Tensor:
    """How far the best value, background's 0 among them, lies above the next, as a share of all."""
    with_background = torch.cat([torch.zeros_like(maps[:1]), maps])
    best = with_background.topk(2, dim=0).values
    return (best[0] - best[1]) / (maps.max() - maps.min())


@pytest.mark.parametrize("padding_mode", ["replicate", "constant"])
@pytest.mark.parametrize("prompts", [(7,), (345,), FEW, (300, 2, 345, 17), MANY])
@pytest.mark.parametrize("shape", [(16, 16, 16), (30, 9, 21), (21, 40, 25)])
def test_labels_are_those_of_the_whole_maps_but_for_ties(
    network: Any, shape: Shape, prompts: tuple[int, ...], padding_mode: str
) -> None:
    image, inferer = picture(shape), PublishedInferer(padding_mode)
    maps = whole_maps(network, image, inferer, prompts)

    labels = vista_labels(image, network, vista_windowing(inferer, network), prompts)

    expected = published_labels(maps, prompts)
    differing = labels.long() != expected.long()
    assert labels.shape == shape
    assert differing.double().mean() < 1e-3
    assert not (differing & (closest_two(maps) > TIE)).any()
    assert set(labels.unique().tolist()) <= {0, *prompts}


def test_it_is_worth_comparing(network: Any) -> None:
    image, inferer = picture((21, 40, 25)), PublishedInferer()

    maps = whole_maps(network, image, inferer, MANY)

    assert len(published_labels(maps, MANY).unique()) > 10
    few = published_labels(whole_maps(network, image, inferer, FEW), FEW)
    assert set(few.unique().tolist()) == {0, *FEW}


@pytest.mark.parametrize("use_mlp", [True, False])
def test_a_batch_of_windows_gives_the_labels_of_single_ones(*, use_mlp: bool) -> None:
    network = small_vista(seed=3, use_mlp=use_mlp)
    image = picture((33, 18, 30), seed=2)

    maps = whole_maps(network, image, PublishedInferer(), FEW)
    batched = vista_labels(image, network, vista_windowing(PublishedInferer(batch=4), network), FEW)

    differing = batched.long() != published_labels(maps, FEW).long()
    assert not (differing & (closest_two(maps) > TIE)).any()


def test_fewer_prompts_never_move_a_voxel_to_another_class(network: Any) -> None:
    image = picture((24, 20, 28))
    windowing = vista_windowing(PublishedInferer(), network)

    everything = vista_labels(image, network, windowing, MANY)
    narrowed = vista_labels(image, network, windowing, FEW)

    kept = torch.isin(everything.long(), torch.tensor(FEW))
    assert kept.any()
    assert torch.equal(narrowed[kept], everything[kept])
    assert (narrowed > 0).sum() > kept.sum()  # what another class had won falls to the next


def test_of_a_class_asked_for_twice_nothing_changes(network: Any) -> None:
    image = picture((20, 20, 20))
    windowing = vista_windowing(PublishedInferer(), network)

    once = vista_labels(image, network, windowing, FEW)
    twice = vista_labels(image, network, windowing, (*FEW, *FEW))

    assert torch.equal(once, twice)


def test_label_values_decide_the_type(network: Any) -> None:
    image, windowing = picture((16, 16, 16)), vista_windowing(PublishedInferer(), network)

    assert vista_labels(image, network, windowing, (255,)).dtype == torch.uint8
    assert vista_labels(image, network, windowing, (256,)).dtype == torch.int16


def test_nothing_to_ask_for_is_refused(network: Any) -> None:
    windowing = vista_windowing(PublishedInferer(), network)

    with pytest.raises(JobFailed, match="no class is asked for") as failure:
        vista_labels(picture((16, 16, 16)), network, windowing, ())

    assert failure.value.permanent


class _Largest(TorchDispatchMode):
    """The most values that one tensor holds."""

    def __init__(self) -> None:
        super().__init__()
        self.values = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.values = max(self.values, tensor.untyped_storage().nbytes() // 4)
        return result


def test_no_tensor_grows_with_the_number_of_classes_times_voxels(network: Any) -> None:
    shape = (16, 16, 240)
    image, windowing = picture(shape), vista_windowing(PublishedInferer(), network)
    voxels = image.numel()

    with _Largest() as ours:
        vista_labels(image, network, windowing, MANY)
    with _Largest() as theirs:
        whole_maps(network, image, PublishedInferer(), MANY)

    assert theirs.values >= len(MANY) * voxels
    # one window of features or a chunk of scores, whatever the length of the image
    assert ours.values < 2 * voxels


# --- what the bundle says ----------------------------------------------------------------------


def test_windows_are_those_that_the_inferer_makes_not_those_of_its_overlap(network: Any) -> None:
    windowing = vista_windowing(PublishedInferer("constant", 3), network)

    assert (windowing.roi_size, windowing.batch, windowing.overlap) == (ROI, 3, 0.25)
    assert (windowing.mode, windowing.padding_mode) == ("constant", "constant")


def test_the_inferer_is_as_before_once_it_was_asked(network: Any) -> None:
    inferer, image = PublishedInferer(), picture((16, 16, 16))
    before = whole_maps(network, image, inferer, FEW)

    vista_windowing(inferer, network)

    assert torch.equal(whole_maps(network, image, inferer, FEW), before)


def test_a_sliding_window_of_monais_own_is_taken_at_its_word(network: Any) -> None:
    own = SlidingWindowInfererAdapt(ROI, 2, 0.5, mode="gaussian", with_coord=True)

    windowing = vista_windowing(own, network)

    assert (windowing.overlap, windowing.mode, windowing.batch) == (0.5, "gaussian", 2)


class _Other(Inferer):
    def __call__(self, inputs: Tensor, network: Any) -> Any:
        SlidingWindowInfererAdapt(ROI)(inputs, network)


@pytest.mark.parametrize("inferer", [_Other(), object()])
def test_an_inferer_that_takes_no_classes_is_refused(network: Any, inferer: Any) -> None:
    with pytest.raises(JobFailed, match="strict mode") as failure:
        vista_windowing(inferer, network)

    assert failure.value.permanent


def test_only_vista_is_vista(network: Any) -> None:
    assert is_vista(network)
    assert not is_vista(UNet(3, 1, 2, (4, 8), (2,)))


EVALUATOR = """
class Evaluator:
    def check_prompts_format(self, label_prompt, points, point_labels):
        if not all(len(each) == 1 and each.item() in (1, 5, 14, 23) for each in label_prompt):
            raise ValueError("Undefined label prompt detected.")
        return label_prompt, points, point_labels


class Trusting:
    pass
"""
PREPROCESSING = [VistaPreTransformd(keys="image", subclass={"2": [14, 5]})]


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The configuration of a bundle that refuses some classes."""
    (tmp_path / "code_of_a_bundle.py").write_text(EVALUATOR)
    monkeypatch.syspath_prepend(tmp_path)
    evaluator = {
        "_target_": "code_of_a_bundle.Evaluator",
        "hyper_kwargs": {"user_prompt": True, "everything_labels": "@everything_labels"},
    }
    return ConfigParser({"everything_labels": "$list(range(1, 4))", "evaluator": evaluator})


def test_everything_is_what_the_configuration_names(configured: Any) -> None:
    assert prompts_of(configured, PREPROCESSING, []) == [1, 2, 3]


@pytest.mark.parametrize(
    ("wanted", "asked"), [([1], [1]), ([2], [14, 5]), ([5, 2, 1], [5, 14, 1]), ([23], [23])]
)
def test_classes_are_named_as_the_bundle_divides_them(
    configured: Any, wanted: list[int], asked: list[int]
) -> None:
    assert prompts_of(configured, PREPROCESSING, wanted) == asked


def test_a_class_that_the_bundle_refuses_is_never_asked_for(configured: Any) -> None:
    with pytest.raises(JobFailed, match="does not know 16, 129 as") as failure:
        prompts_of(configured, PREPROCESSING, [16, 1, 129])

    assert failure.value.permanent


def test_without_a_check_of_its_own_everything_is_the_limit(configured: Any) -> None:
    configured["evaluator"]["_target_"] = "code_of_a_bundle.Trusting"

    assert prompts_of(configured, [], [3, 1]) == [3, 1]
    with pytest.raises(JobFailed, match="does not know 4 as"):
        prompts_of(configured, [], [4])


def test_an_evaluator_that_cannot_be_imported_is_told(configured: Any) -> None:
    configured["evaluator"]["_target_"] = "code_of_no_bundle.Evaluator"

    with pytest.raises(JobFailed, match=r"segnode\[monai\]") as failure:
        prompts_of(configured, PREPROCESSING, [1])

    assert failure.value.permanent


# --- bundles ------------------------------------------------------------------------------------


def test_labels_by_name_are_asked_of_the_bundle_as_its_publisher_asks(tmp_path: Path) -> None:
    pytest.importorskip("ignite")
    made = write_bundle_model(tmp_path, "prompted", MADE_BUNDLES["prompted"]())
    phantom = Phantom(plane="sagittal", shape=(26, 24, 28), spacing_mm=(7.0, 8.0, 7.5))
    inputs = {"image": given_files(phantom, tmp_path / "series")}
    place = room(tmp_path, weights_dir=made.weights_dir)
    wanted = {"labels": ["Structure 2", "Structure 3"]}  # the bundle divides 2 into 14 and 5

    fast = run_model(made.spec, inputs, place, Stopwatch(), wanted).labels
    strict = run_model(made.spec, inputs, place, Stopwatch(), {**wanted, "mode": "strict"}).labels

    assert set(np.unique(fast).tolist()) == {0, 3, 5, 14}
    assert np.array_equal(fast, strict)


PUBLISHED = {
    "vista3d": ("vista3d", {}, 117),
    "CT_BODY": ("NV-Segment-CTMR", {"modality": "CT_BODY"}, 117),
    "MRI_BODY": ("NV-Segment-CTMR", {"modality": "MRI_BODY"}, 50),
    "MRI_BRAIN": ("NV-Segment-CTMR", {"modality": "MRI_BRAIN"}, 132),
}


def published(folder: Path, overrides: dict[str, Any]) -> Bundle:
    return Bundle(
        root=folder,
        config=folder / "configs" / "inference.json",
        overrides={"patch_size": [64, 64, 64], **overrides},
        weights=folder / "models" / "model.pt",
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_bundles_tell_their_windows_and_classes(test_bundles: Path, name: str) -> None:
    folder, overrides, classes = PUBLISHED[name]
    parser = parser_of(published(test_bundles / folder, overrides), "cpu")
    inferer, transforms = (parser.get_parsed_content(part) for part in ("inferer", "preprocessing"))

    windowing = vista_windowing(inferer, small_vista())
    prompts = prompts_of(parser, transforms.transforms, [])

    assert windowing.padding_mode == ("constant" if name == "vista3d" else "replicate")
    assert (windowing.roi_size, windowing.overlap) == ([64, 64, 64], 0.25)
    assert (windowing.mode, windowing.batch) == ("constant", 1)
    assert len(set(prompts)) == len(prompts) == classes
    assert prompts_of(parser, transforms.transforms, [2, 3]) == [14, 5, 3]
    with pytest.raises(JobFailed, match="does not know 16, 129, 131 as"):
        prompts_of(parser, transforms.transforms, [16, 1, 129, 131])


@pytest.mark.long
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks_agree_but_for_ties(
    test_bundles: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, overrides, _ = PUBLISHED[name]
    loaded = load(published(test_bundles / folder, overrides), "cpu", regions=False)
    prompts = prompts_of(loaded.parser, loaded.transforms, [])
    image = picture((96, 60, 80))
    windowing = vista_windowing(loaded.inferer, loaded.network)

    started = process_time()
    labels = vista_labels(image, loaded.network, windowing, prompts)
    between = process_time()
    maps = whole_maps(loaded.network, image, loaded.inferer, prompts)
    expected = published_labels(maps, prompts)
    ended = process_time()

    differing = labels.long() != expected.long()
    gap = closest_two(maps)[differing].max().item() if differing.any() else 0.0
    with capsys.disabled():
        print(
            f"\n{name}: {int(differing.sum())} of {differing.numel()} voxels differ, values there"
            f" at most {gap:.1e} of the range apart; {len(labels.unique())} labels;"
            f" {between - started:.1f} s of CPU, whole maps {ended - between:.1f} s"
        )
    assert len(labels.unique()) > 2
    assert differing.double().mean() < 1e-3
    assert gap <= TIE
