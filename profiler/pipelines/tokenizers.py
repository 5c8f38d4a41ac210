"""Stand-in tokenizers for pipelines without vocabulary files, with the real lengths and padding.

A pipeline's text encoder and denoiser run over as many tokens as the tokenizer returns, so lengths determine memory and
ids do not. A stand-in is transformers' own tokenizer with the special tokens of its family; all words share one id. The
number of tokens of a text follows a rule: a special token of a chat template is one; a punctuation mark is one; a
Chinese, Japanese or Korean character is one; words are 1.3 tokens each, and a text never has fewer tokens than words
and marks. The rule is close for plain English with today's vocabularies (within a few per cent of a sentence), and
cannot account for rare words.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import transformers
from tokenizers import Encoding, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import CharDelimiterSplit
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from profiler.libraries.text_models import EXTRA_TOKENS, IN_BATCHES

_ASSUMED = "_assumed_in_loading"  # an attribute of a pipeline, sentences

# Rule of thumb of the vendors of byte-pair vocabularies: a token is about three quarters of a word.
_TOKENS_PER_WORD = 1.3
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_PIECE = (
    rf"<\|[^|<>]*\|>|<[/a-z_]+>|\[/?[A-Z_]+\]|[{_CJK}]|(?P<word>[^\W{_CJK}]+)|(?P<mark>[^\w\s])"
)
_BORDER = "\x1f"  # between pieces, and never inside one: it is white space
# Above the special tokens, and inside the smallest vocabulary (T5: 32,100).
_ANY_WORD, _ANY_WORD_ID = "[word]", 1_000

_TEXT = (
    "{%- set text = m.content if m.content is string"
    " else m.content | map(attribute='text', default='PICTURE') | join -%}"
)
_CHATS = {
    "chatml": "{%- for m in messages -%}"
    + _TEXT
    + "{{ '<|im_start|>' + m.role + '\n' + text + '<|im_end|>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}"
    "{%- if not enable_thinking | default(true) -%}{{ '<think>\n\n</think>\n\n' }}{%- endif -%}{%- endif -%}",
    # Mistral Small 3: the answer needs no mark, and thinking is not offered.
    "mistral": "{{ '<s>' }}{%- for m in messages -%}"
    + _TEXT
    + "{{ {'system': '[SYSTEM_PROMPT]%s[/SYSTEM_PROMPT]', 'user': '[INST]%s[/INST]', 'assistant': '%s</s>'}"
    "[m.role] | format(text) }}{%- endfor -%}",
}


class StandInTokenizer(PreTrainedTokenizerFast):
    """A tokenizer with the lengths, padding and special tokens of a family, but without its vocabulary.

    Args:
        class_name: The class that it stands in for.
        facts: The family's facts, as in `[tokenizers.*]` of the catalogue.
    """

    def __init__(self, class_name: str, facts: Mapping[str, Any]) -> None:
        named = {name: facts[name] for name in ("bos", "eos", "pad") if name in facts}
        own, prefix = dict(facts.get("special", ())), dict(facts.get("prefix", ()))
        numbers = {**dict(named.values()), **own, **prefix}
        # Each number is taken, so that textual inversions get the next ones.
        words = {number: f"[{number}]" for number in range(facts.get("vocabulary", 0))}
        words |= {_ANY_WORD_ID: _ANY_WORD, **{number: token for token, number in numbers.items()}}
        before = [named["bos"][0]] if facts.get("adds_bos") else []
        after = [named["eos"][0]] if facts.get("adds_eos") else []
        vocabulary = {token: number for number, token in words.items()}
        backend = Tokenizer(WordLevel(vocabulary, unk_token=_ANY_WORD))
        backend.pre_tokenizer = CharDelimiterSplit(_BORDER)
        backend.post_processor = TemplateProcessing(
            single=[*before, *prefix, "$A", *after], special_tokens=list(numbers.items())
        )
        # A run of line breaks is one token in byte-level vocabularies; for CLIP and T5 it vanishes.
        self._piece = _PIECE + r"|\n+" * bool(facts.get("line_breaks"))
        self._counts_positions = bool(facts.get("position_ids"))
        super().__init__(
            tokenizer_object=backend,
            model_max_length=facts.get("model_max_length"),
            padding_side=facts.get("padding_side", "right"),
            model_input_names=["input_ids", "attention_mask"],
            chat_template=_CHATS[facts.get("chat", "chatml")].replace(
                "PICTURE", facts.get("picture", "")
            ),
            **{EXTRA_TOKENS: list(own)},
            **{f"{name}_token": token for name, (token, _) in named.items()},
        )
        self.class_name = class_name

    @property  # type: ignore[misc]
    def __class__(self) -> type[Any]:
        """Tell `isinstance` the class that it stands in for, by which pipelines choose what to give a tokenizer."""
        return getattr(transformers, vars(self).get("class_name", ""), StandInTokenizer)

    def __len__(self) -> int:
        """Return the size of the vocabulary, including added tokens."""
        return max(self.get_vocab().values()) + 1

    @property
    def assumption(self) -> str:
        """The assumption of a profile made with this tokenizer."""
        return (
            f"{self.class_name} has no vocabulary here: a prompt counts as its words and "
            f"punctuation marks, at least {_TOKENS_PER_WORD} tokens a word; special tokens, "
            "truncation and padding are the real ones"
        )

    def _encode_plus(self, text: str | Sequence[str], *args: Any, **options: Any) -> Any:
        if not IN_BATCHES:
            text = self._pieces(text) if isinstance(text, str) else [*map(self._pieces, text)]
        return super()._encode_plus(text, *args, **options)

    def _batch_encode_plus(
        self, batch_text_or_text_pairs: Sequence[str], *args: Any, **options: Any
    ) -> Any:
        pieces = [*map(self._pieces, batch_text_or_text_pairs)]
        return super()._batch_encode_plus(pieces, *args, **options)

    def _pieces(self, text: str) -> str:
        """Return the text that stands in for the tokens of `text`, with a border between any two."""
        added = (one.content for one in self.added_tokens_decoder.values() if not one.special)
        longest_first = sorted(map(re.escape, added), key=len, reverse=True)
        found = list(re.finditer("|".join([*longest_first, self._piece]), text))
        kinds = [match.lastgroup for match in found]
        words, marks = kinds.count("word"), kinds.count("mark")
        missing = math.ceil(_TOKENS_PER_WORD * words - 1e-9) - words - marks
        return _BORDER.join([match.group() for match in found] + ["more"] * missing)

    def _convert_encoding(self, encoding: Encoding, **asked: Any) -> Any:
        data, encodings = super()._convert_encoding(encoding, **asked)
        if self._counts_positions:  # from the first token that is not padding
            data["position_ids"] = [
                [max(at - one.attention_mask.count(0), 0) for at in range(len(one))]
                for one in encodings
            ]
        return data, encodings

    def _decode(self, token_ids: Any, *_: Any, **__: Any) -> str:
        """Return a placeholder for the text, which only the vocabulary could give."""
        return f"[{len(token_ids)} tokens]"


def assume(pipe: Any, sentences: Sequence[str]) -> None:
    """Record on `pipe` what loading assumes because the model's files do not tell."""
    if sentences:
        setattr(pipe, _ASSUMED, tuple(sentences))


def stand_ins(pipe: Any) -> list[str]:
    """Return the assumptions made for missing files, one sentence each."""
    found = list(vars(pipe).get(_ASSUMED, ()))
    for name, component in pipe.components.items():
        tokenizer = getattr(component, "tokenizer", component)  # of a processor
        if isinstance(tokenizer, StandInTokenizer):
            found.append(f"{name}: {tokenizer.assumption}")
    return sorted(found)
