"""Textual inversions where the tokenizer has no vocabulary: rows of the embedding table, tokens of the prompt."""

from __future__ import annotations

import pytest
import torch
from shallow_models import shallow_pipeline
from transformers import CLIPTokenizer

from profiler.pipelines.catalogue import tokenizer_facts
from profiler.pipelines.tokenizers import StandInTokenizer
from profiler.tracing import profile_pipeline
from profiler.virtual import VirtualGPU

pytestmark = pytest.mark.filterwarnings("ignore")


def rows(encoder):
    return encoder.get_input_embeddings().weight.shape[0]


def vectors(count, width):
    return torch.zeros(count, width, dtype=torch.float16)


@pytest.fixture(scope="module")
def real():
    """CLIP's own tokenizer code over as many words as CLIP has."""
    words = [f"word{number}" for number in range(49_406)]
    vocabulary = {
        word: number for number, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])
    }
    return CLIPTokenizer(vocab=vocabulary, merges=[])


def steps(tokenizer):
    """Yield what a tokenizer tells while tokens are added to it."""
    for new in ("<cat>", ["<cat>", "<cat>_1"], ["a dog"]):
        yield tokenizer.add_tokens(new)
        yield len(tokenizer)
        yield {token: tokenizer.get_vocab()[token] for token in tokenizer.added_tokens_encoder}
        yield {number: token.special for number, token in tokenizer.added_tokens_decoder.items()}
    yield tokenizer.convert_tokens_to_ids(["<cat>", "<cat>_1", "a dog"])
    yield tokenizer.tokenize("<cat><cat>_1 a dog")


def test_tokens_are_added_as_the_real_tokenizer_adds_them(real):
    stand_in = StandInTokenizer("CLIPTokenizer", tokenizer_facts("CLIPTokenizer"))
    assert list(steps(stand_in)) == list(steps(real))


@pytest.mark.parametrize("placed", ["", "model"])
def test_embedding_table_grows_by_a_row_a_vector_and_shrinks_again(placed):
    with VirtualGPU("rtx-4090"):
        pipe = shallow_pipeline("sdxl-base")
        if placed:
            pipe.enable_model_cpu_offload()
        before = rows(pipe.text_encoder), rows(pipe.text_encoder_2)
        pipe.load_textual_inversion({"<cat>": vectors(1, 768)})
        pipe.load_textual_inversion(vectors(3, 768), token="<dog>")
        pipe.load_textual_inversion(
            {"<cat>": vectors(2, 1280)},
            text_encoder=pipe.text_encoder_2,
            tokenizer=pipe.tokenizer_2,
        )
        assert (rows(pipe.text_encoder), rows(pipe.text_encoder_2)) == (
            before[0] + 4,
            before[1] + 2,
        )
        with pytest.raises(ValueError, match="already in tokenizer vocabulary"):
            pipe.load_textual_inversion({"<cat>": vectors(1, 768)})

        pipe.unload_textual_inversion(["<cat>"])
        assert (rows(pipe.text_encoder), rows(pipe.text_encoder_2)) == (
            before[0] + 3,
            before[1] + 2,
        )
        pipe.unload_textual_inversion()
        assert rows(pipe.text_encoder) == before[0]
        assert len(pipe.tokenizer) == before[0]


def test_prompt_has_a_token_for_each_vector_and_the_call_runs():
    with VirtualGPU("rtx-4090"):
        pipe = shallow_pipeline("sd15")
        pipe.load_textual_inversion(vectors(3, 768), token="<dog>")
        prompt = pipe.maybe_convert_prompt("a <dog>, sitting", pipe.tokenizer)
        assert prompt == "a <dog> <dog>_1 <dog>_2, sitting"
        ids = pipe.tokenizer(prompt).input_ids
        assert [number for number in ids if number > 49_407] == [49_408, 49_409, 49_410]
        profile = profile_pipeline(
            pipe, mode="model", prompt="a <dog>", height=256, width=256, num_inference_steps=1
        )
        assert profile.complete, profile.error
        encoder = next(part for part in profile.components if part.name == "text_encoder")
        assert encoder.parameters == sum(one.numel() for one in pipe.text_encoder.parameters())
