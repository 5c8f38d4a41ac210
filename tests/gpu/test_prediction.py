"""On a real card: the tracer counts what it should, and the prediction for the same card is near."""

import pytest
import torch
from transformers import PreTrainedModel

from profiler.errors import InputError
from profiler.hardware import card
from profiler.modes import Mode, enable_mode
from profiler.pipelines import load_pipeline
from profiler.tracing import profile_pipeline
from profiler.tracing.parts import components_of

pytestmark = pytest.mark.gpu


def with_random_weights(model, dtype):
    """Return a catalogue pipeline whose modules were really built, on the CPU."""
    pipe = load_pipeline(model, dtype=dtype)
    for name, part in components_of(pipe).items():
        make = type(part) if isinstance(part, PreTrainedModel) else type(part).from_config
        setattr(pipe, name, make(part.config).to(getattr(torch, dtype)).eval())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def this_card():
    try:
        return card(torch.cuda.get_device_name())
    except InputError as unknown:
        pytest.skip(f"no facts about this card: {unknown}")


@pytest.mark.parametrize("mode", ["resident", "model", "sequential", "group-leaf"])
def test_a_prediction_is_within_five_percent_and_moves_the_same_bytes(mode):
    virtual = this_card()
    call = {"prompt": "a cat", "num_inference_steps": 2}
    predicted = profile_pipeline(
        with_random_weights("sd15", "float16"), mode=mode, gpu=virtual, **call
    )
    pipe = with_random_weights("sd15", "float16")
    enable_mode(pipe, Mode(name=mode))
    measured = profile_pipeline(pipe, **call)
    assert (measured.source, measured.complete) == ("measured", True)
    assert measured.totals.peak_allocated_bytes == pytest.approx(
        predicted.totals.peak_allocated_bytes, rel=0.05
    )
    moves = [
        [
            (e.kind, e.component, e.bytes)
            for e in profile.events
            if e.kind in ("onload", "offload") and e.call == 0
        ]
        for profile in (measured, predicted)
    ]
    assert moves[0] == moves[1]
