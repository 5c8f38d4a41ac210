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
        # The refiner runs only the last three tenths of the steps that it is asked for.
        steps = 7 if name == "sdxl-refiner" else 2

        pipe(prompt="a cat in the snow", num_inference_steps=steps, **images)

        weights = [
            sum(each.numel() * each.element_size() for each in module.parameters())
            for module in pipe.components.values()
            if isinstance(module, torch.nn.Module)
        ]
        assert torch.cuda.max_memory_allocated() > max(weights)
