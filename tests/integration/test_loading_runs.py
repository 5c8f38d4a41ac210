"""Every entry of the catalogue runs, as the user would call it, on the virtual GPU."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from profiler.pipelines import catalogue, load_pipeline
from profiler.virtual import VirtualGPU


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", list(catalogue()))
def test_entry_runs_two_steps(name):
    required = catalogue()[name].required_call
    with VirtualGPU("h100"):
        pipe = load_pipeline(name)
        pipe.set_progress_bar_config(disable=True)
        pipe.enable_model_cpu_offload()
        images = {argument: Image.new("RGB", (1024, 1024)) for argument in required}

        pipe("a cat in the snow", num_inference_steps=2, **images)

        weights = [
            sum(each.numel() * each.element_size() for each in module.parameters())
            for module in pipe.components.values()
            if isinstance(module, torch.nn.Module)
        ]
        assert torch.cuda.max_memory_allocated() > max(weights)
