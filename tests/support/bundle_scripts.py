"""Python code that bundles of tests bring along in ``scripts/``, as text."""

from __future__ import annotations

PROMPTED_INFERER = """
from monai.inferers import Inferer, SlidingWindowInfererAdapt


class Vista3dInferer(Inferer):
    def __init__(self, roi_size, overlap, use_point_window=False, sw_batch_size=1):
        super().__init__()
        self.roi_size, self.overlap = roi_size, overlap
        self.use_point_window, self.sw_batch_size = use_point_window, sw_batch_size

    def __call__(
        self, inputs, network, point_coords, point_labels, class_vector,
        labels=None, label_set=None, prev_mask=None,
    ):
        windows = SlidingWindowInfererAdapt(
            roi_size=self.roi_size,
            sw_batch_size=self.sw_batch_size,
            with_coord=True,
            padding_mode="replicate",
        )
        return windows(
            inputs, network, transpose=True, point_coords=point_coords, point_labels=point_labels,
            class_vector=class_vector, prompt_class=class_vector, prev_mask=prev_mask,
            labels=labels, label_set=label_set,
        )
"""

PROMPTED_EVALUATOR = """
import torch
from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents
from monai.transforms import reset_ops_id


class Vista3dEvaluator(SupervisedEvaluator):
    def __init__(self, *args, hyper_kwargs=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.device = kwargs["device"]
        self.hyper_kwargs = hyper_kwargs

    def _iteration(self, engine, batchdata):
        image = batchdata["image"].to(engine.device)
        prompts = batchdata.get("label_prompt", engine.hyper_kwargs["everything_labels"])
        prompts = torch.as_tensor(prompts).reshape(-1, 1).to(engine.device)
        engine.state.output = {"image": image, "label": None}
        with engine.mode(engine.network):
            engine.state.output["pred"] = engine.inferer(
                inputs=image, network=engine.network, point_coords=None, point_labels=None,
                class_vector=prompts,
            )
        reset_ops_id(image)
        engine.state.output["label_prompt"] = prompts.unsqueeze(0)
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output
"""

STEPS = """
import torch
from monai.transforms import MapTransform


class Shrunkd(MapTransform):
    def __init__(self, keys, label, becomes):
        super().__init__(keys)
        self.label, self.becomes = label, becomes

    def __call__(self, data):
        data = dict(data)
        for key in self.keys:
            values = data[key].clone()
            outside = (values != self.label).float()
            near = torch.nn.functional.max_pool3d(outside[None], 3, 1, 1)[0]
            values[(values == self.label) & (near > 0)] = self.becomes
            data[key] = values
        return data
"""

MESHNET = """
import torch


def network(layers):
    modules = []
    for layer in layers[:-1]:
        modules += [torch.nn.Conv3d(**layer), torch.nn.ReLU()]
    return torch.nn.Sequential(*modules, torch.nn.Conv3d(**layers[-1]))
"""

THRESHOLD = """
import torch


class Threshold(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.above = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return torch.cat([self.above - x, x - self.above], dim=1)
"""
