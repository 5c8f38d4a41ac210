"""Processors of text and pictures without their files: the picture's tokens are as many as the real class makes."""

from __future__ import annotations

import json

import pytest
from transformers import Qwen2VLProcessor

from profiler.pipelines import load_pipeline, stand_ins
from profiler.pipelines.blank_inputs import blank_picture
from profiler.pipelines.catalogue import tokenizer_facts
from profiler.pipelines.processors import stand_in_processor

TOKEN = "<|image_pad|>"
TEXT = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>a cat<|im_end|>\n"


def processor(**pictures):
    facts = tokenizer_facts("Qwen2VLProcessor")
    return stand_in_processor(Qwen2VLProcessor, facts, {"image_processor": pictures})


@pytest.mark.parametrize(
    ("size", "pictures", "grid"),
    [
        ((280, 280), {}, (1, 20, 20)),  # patches of 14 pixels
        ((560, 280), {}, (1, 20, 40)),
        ((2800, 2800), {}, (1, 70, 70)),  # at most 1280 tokens of 28 x 28 pixels
        ((2800, 2800), {"min_pixels": 3136, "max_pixels": 12845056}, (1, 200, 200)),
        ((14, 14), {}, (1, 4, 4)),  # at least 56 x 56 pixels
    ],
)
def test_picture_is_as_many_tokens_as_two_by_two_patches(size, pictures, grid):
    made = processor(**pictures)

    read = made(text=[TEXT], images=[blank_picture(*size)], padding=True, return_tensors="pt")

    assert tuple(read["image_grid_thw"][0].tolist()) == grid
    tokens = (read["input_ids"] == made.tokenizer.convert_tokens_to_ids(TOKEN)).sum()
    assert tokens == grid[1] * grid[2] // 4


def test_picture_is_written_into_the_chat():
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a cat"}]}
    made = processor()

    assert made.apply_chat_template([message], tokenize=False) == TEXT


def test_folder_of_an_edit_pipeline_needs_no_files_of_its_processor(tmp_path):
    folder = tmp_path / "processor"
    folder.mkdir()
    index = {
        "_class_name": "QwenImageEditPipeline",
        "processor": ["transformers", "Qwen2VLProcessor"],
    }
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    (folder / "preprocessor_config.json").write_text(json.dumps({"max_pixels": 12845056}))

    pipe = load_pipeline(tmp_path)

    assert pipe.processor.image_processor.size["longest_edge"] == 12845056
    assert [one.partition(" ")[0] for one in stand_ins(pipe)] == ["processor:"]
