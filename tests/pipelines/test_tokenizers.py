"""Stand-in tokenizers: the lengths, padding and special tokens of the real ones."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import RobertaTokenizer, VitsTokenizer

from profiler.pipelines.catalogue import tokenizer_facts
from profiler.pipelines.tokenizers import StandInTokenizer, stand_ins


def stand_in(class_name, **changes):
    return StandInTokenizer(class_name, {**tokenizer_facts(class_name), **changes})


TOKENIZERS = {name: stand_in(name) for name in ("CLIPTokenizer", "Qwen2Tokenizer")}


def pieces_of(class_name, text):
    found = TOKENIZERS[class_name]._pieces(text)
    return found.split("\x1f") if found else []


def ids(text):
    """Return the ids of a text's words: the same for each."""
    return [1000] * len(pieces_of("CLIPTokenizer", text))


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("", []),
        ("a cat", ["a", "cat", "more"]),  # 2 words, 1.3 tokens each: 2.6, so 3
        ("a, b", ["a", ",", "b"]),  # 2 words and a mark are 3 already
        ("<|im_start|>user\n\nhi", ["<|im_start|>", "user", "hi", "more"]),
        ("一只猫", ["一", "只", "猫"]),
        ("don't", ["don", "'", "t"]),
    ],
)
def test_text_falls_into_words_marks_and_characters(text, pieces):
    assert pieces_of("CLIPTokenizer", text) == pieces


def test_line_breaks_are_tokens_of_byte_level_vocabularies_only():
    assert pieces_of("Qwen2Tokenizer", "a,\n\nb,") == ["a", ",", "\n\n", "b", ","]
    assert len(stand_in("Qwen2Tokenizer")("a,\n\nb,").input_ids) == 5


def test_chat_prefix_of_qwen_image_has_the_34_tokens_that_its_pipeline_drops():
    prefix = (
        "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, "
        "quantity, text, spatial relationships of the objects and background:<|im_end|>\n"
        "<|im_start|>user\n"
    )

    assert len(stand_in("Qwen2Tokenizer").encode(prefix)) == 34


def test_template_of_hunyuanvideo_has_the_tokens_that_its_pipeline_drops():
    """It drops 95; the rule of thumb is one short, and the encoder runs over 256 + 95 either way."""
    from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE

    before, _, _ = DEFAULT_PROMPT_TEMPLATE["template"].partition("{}")
    ids = stand_in("LlamaTokenizerFast").encode(before)

    assert (len(ids), DEFAULT_PROMPT_TEMPLATE["crop_start"]) == (94, 95)


@given(st.text())
def test_any_text_has_a_token_for_each_piece(text):
    """Which is an ordinary one of the smallest vocabulary, or a special token that the text names."""
    for class_name, tokenizer in TOKENIZERS.items():
        found = tokenizer(text, add_special_tokens=False).input_ids
        assert len(found) == len(pieces_of(class_name, text))
        assert set(found) <= {1000, *tokenizer.added_tokens_decoder}


def test_clip_pads_to_77_with_the_end_token_and_marks_it():
    encoded = stand_in("CLIPTokenizer")(
        "a cat", padding="max_length", max_length=77, truncation=True, return_tensors="pt"
    )

    assert encoded.input_ids.tolist() == [[49406, *ids("a cat"), *[49407] * 73]]
    assert encoded.attention_mask.tolist() == [[1] * 5 + [0] * 72]
    # CLIP pools at the first of the highest ids, which is the end of the prompt.
    assert encoded.input_ids.argmax(dim=-1).tolist() == [4]


def test_long_prompt_is_cut_before_its_end_token():
    encoded = stand_in("CLIPTokenizer")(
        "dog " * 100, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
    )

    assert encoded.input_ids.shape == (1, 77)
    assert encoded.input_ids[0, [0, 1, 75, 76]].tolist() == [49406, *ids("dog")[:1] * 2, 49407]
    assert encoded.attention_mask.sum() == 77


def test_t5_ends_with_1_and_pads_with_0():
    encoded = stand_in("T5TokenizerFast")(["a, b", ""], padding="longest", return_tensors="pt")

    assert encoded.input_ids.tolist() == [[*ids("a, b"), 1], [1, 0, 0, 0]]
    assert encoded.attention_mask.tolist() == [[1, 1, 1, 1], [1, 0, 0, 0]]


def test_left_padding_goes_before_the_text():
    encoded = stand_in("T5Tokenizer", padding_side="left")("", padding="max_length", max_length=4)

    assert dict(encoded) == {"input_ids": [0, 0, 0, 1], "attention_mask": [0, 0, 0, 1]}


def test_without_a_limit_there_is_no_padding_to_it():
    encoded = stand_in("T5Tokenizer", model_max_length=int(1e30))("", padding="max_length")

    assert dict(encoded) == {"input_ids": [1], "attention_mask": [1]}


def test_length_and_mask_come_as_asked():
    encoded = stand_in("T5Tokenizer")(
        ["a, b"],
        padding="max_length",
        max_length=6,
        return_length=True,
        return_attention_mask=False,
    )

    assert dict(encoded) == {"input_ids": [[*ids("a, b"), 1, 0, 0]], "length": [6]}


def test_chat_template_is_chatml():
    tokenizer = stand_in("Qwen2Tokenizer")
    messages = [{"role": "user", "content": [{"type": "text", "text": "a cat"}]}]

    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    without_thinking = tokenizer.apply_chat_template(
        [messages], tokenize=False, add_generation_prompt=True, enable_thinking=False
    )

    asked = "<|im_start|>user\na cat<|im_end|>\n<|im_start|>assistant\n"
    assert text == asked
    assert without_thinking == [f"{asked}<think>\n\n</think>\n\n"]


def test_chat_template_can_be_tokenized_at_once():
    tokenizer = stand_in("Qwen2Tokenizer")
    messages = [{"role": "user", "content": "a cat"}]

    encoded = tokenizer.apply_chat_template(
        messages, padding="max_length", max_length=16, return_tensors="pt"
    )

    # <|im_start|> user \n a cat <|im_end|> \n: 7 pieces, and 3 words are 3.9 tokens, one more.
    assert encoded.input_ids[0, :6].tolist()[5] == 151645
    assert encoded.attention_mask.tolist() == [[1] * 8 + [0] * 8]


@pytest.mark.parametrize(
    ("class_name", "row"),
    [
        ("LlamaTokenizerFast", [0, 0, 1, "a", ",", "b"]),
        ("GemmaTokenizerFast", [0, 0, 2, "a", ",", "b"]),
        ("BertTokenizer", [101, "a", ",", "b", 102, 0]),
        ("ChatGLMTokenizer", [0, 64790, 64792, "a", ",", "b"]),
        ("PixtralProcessor", [11, 11, 1, "a", ",", "b"]),
    ],
)
def test_family_pads_and_marks_as_its_own_tokenizer_does(class_name, row):
    encoded = stand_in(class_name)("a, b", padding="max_length", max_length=6, truncation=True)

    assert encoded["input_ids"] == [each if isinstance(each, int) else 1000 for each in row]


def test_chatglm_counts_positions_from_the_first_token_that_is_no_padding():
    encoded = stand_in("ChatGLMTokenizer")(
        ["a, b", ""], padding="max_length", max_length=7, return_tensors="pt"
    )

    assert encoded.position_ids.tolist() == [[0, 0, 0, 1, 2, 3, 4], [0, 0, 0, 0, 0, 0, 1]]
    assert encoded.attention_mask.tolist() == [[0, 0, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1, 1]]


def test_chat_template_of_the_pixtral_processor_is_mistrals():
    tokenizer = stand_in("PixtralProcessor")
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": "a cat"},
        {"role": "assistant", "content": "Yes."},
    ]

    text = tokenizer.apply_chat_template(messages, tokenize=False)
    encoded = tokenizer.apply_chat_template(
        [messages], padding="max_length", max_length=512, truncation=True, return_tensors="pt"
    )

    assert text == "<s>[SYSTEM_PROMPT]Be brief.[/SYSTEM_PROMPT][INST]a cat[/INST]Yes.</s>"
    assert encoded.input_ids.shape == (1, 512)
    assert (encoded.input_ids == 1).sum() == 1


@pytest.mark.parametrize(
    ("class_name", "token"),
    [("LlamaTokenizerFast", "<|end_header_id|>"), ("Qwen2Tokenizer", "<|vision_start|>")],
)
def test_a_special_token_that_a_pipeline_looks_for_is_found(class_name, token):
    tokenizer = stand_in(class_name)
    assert tokenizer(f"a{token}b").input_ids.count(tokenizer.convert_tokens_to_ids(token)) == 1


def test_what_does_not_fit_can_be_had_as_rows_of_its_own():
    encoded = stand_in("CLIPTokenizer")(
        "dog, " * 8, max_length=10, truncation=True, return_overflowing_tokens=True
    )
    assert [len(row) for row in encoded.input_ids] == [10, 10]


def test_prompt_conversion_of_diffusers_accepts_it():
    from diffusers.loaders import TextualInversionLoaderMixin

    convert = TextualInversionLoaderMixin().maybe_convert_prompt

    assert convert(["a cat"], stand_in("CLIPTokenizer")) == ["a cat"]


def test_real_clip_tokenizer_lays_out_rows_the_same_way(tmp_path):
    """The texts have as many words and marks as tokens, so that only the ids' values differ."""
    real = _real_clip(tmp_path)
    ours = stand_in(
        "CLIPTokenizer",
        bos=["<|startoftext|>", 2],
        eos=["<|endoftext|>", 3],
        pad=["<|endoftext|>", 3],
    )
    options = [
        {"padding": "max_length", "max_length": 8, "truncation": True},
        {"padding": "max_length", "max_length": 4, "truncation": True},
        {"padding": True},
        {"padding": "longest", "add_special_tokens": False},
        {"padding": "max_length", "max_length": 8, "return_attention_mask": False},
    ]

    for option in options:
        layouts = [
            {
                key: (rows if key == "attention_mask" else _specials(rows))
                for key, rows in found.items()
            }
            for found in (each(["a, a", ","], **option) for each in (real, ours))
        ]
        assert layouts[0] == layouts[1], option


def test_configuration_of_a_tokenizer_changes_its_family():
    from profiler.pipelines.loading import _own_facts

    own = _own_facts({"add_bos_token": False, "add_eos_token": True, "model_max_length": 1e30})

    assert stand_in("LlamaTokenizer", **own)("a")["input_ids"] == [*ids("a"), 2]


def test_stand_ins_of_a_pipeline_are_told_in_sentences():
    clip, t5 = stand_in("CLIPTokenizer"), stand_in("T5Tokenizer")
    pipe = SimpleNamespace(components={"tokenizer_2": t5, "tokenizer": clip, "unet": object()})

    told = stand_ins(pipe)

    assert [sentence.split(" has no")[0] for sentence in told] == [
        "tokenizer: CLIPTokenizer",
        "tokenizer_2: T5Tokenizer",
    ]


def _real_clip(folder):
    from transformers import CLIPTokenizer

    words = ["a</w>", ",</w>", "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: n for n, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer.from_pretrained(folder)


def _specials(rows):
    return [[number if number in {2, 3} else "word" for number in row] for row in rows]


def test_rows_of_ids_are_padded_as_a_call_pads_them():
    tokenizer = stand_in("Qwen2Tokenizer")
    rows = [[5, 6], [7]]
    padded = tokenizer.pad(
        {"input_ids": rows}, max_length=4, padding="max_length", return_tensors="pt"
    )
    filler = tokenizer.pad_token_id
    assert padded.input_ids.tolist() == [[5, 6, filler, filler], [7, filler, filler, filler]]
    assert padded.attention_mask.tolist() == [[1, 1, 0, 0], [1, 0, 0, 0]]
    assert tokenizer.pad({"input_ids": rows})["input_ids"] == [[5, 6], [7, filler]]


def test_a_stand_in_is_an_instance_of_the_class_that_it_stands_in_for():
    """AudioLDM 2's pipeline gives the prompt to tokenizers of two classes, and the transcription to others."""
    tokenizer = stand_in("RobertaTokenizer")

    assert isinstance(tokenizer, RobertaTokenizer)
    assert isinstance(tokenizer, StandInTokenizer)
    assert not isinstance(tokenizer, VitsTokenizer)


def test_part_can_name_the_family_of_a_class_that_says_nothing():
    assert tokenizer_facts("PreTrainedTokenizerFast") is None
    assert stand_in("glm4")("a cat").input_ids == [151331, 151333, 1000, 1000, 1000]
    assert stand_in("llama3")("a cat").input_ids == [128000, 1000, 1000, 1000]
