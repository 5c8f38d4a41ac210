"""Tokenizers for pipelines whose vocabulary files are not there: the real lengths and padding.

A pipeline's text encoder and denoiser run over as many tokens as the tokenizer returns, so lengths
decide memory and ids do not. A stand-in adds the family's own special tokens, truncates and pads as
the real one does, and counts the tokens of a prompt by the rule of `profiler/pipelines/wording.py`.
What it assumes is one sentence, for the profile.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from transformers import BatchEncoding

from profiler.pipelines import wording
from profiler.pipelines.added_tokens import AddedTokens

# transformers writes 1e30 for a tokenizer without a limit (`VERY_LARGE_INTEGER`).
_NO_LIMIT = 10**9
_UNLIMITED = 10**30
_ASSUMED_DTYPE = "_dtype_that_is_assumed"  # an attribute of a pipeline, a sentence


class StandInTokenizer(AddedTokens):
    """Gives the lengths, padding and special tokens of a tokenizer family, without its vocabulary.

    It has what diffusers' pipelines use of a transformers tokenizer, under the same names.

    Args:
        class_name: The class it stands for.
        facts: The family's facts, as in `[tokenizers.*]` of the catalogue.
    """

    def __init__(self, class_name: str, facts: Mapping[str, Any]) -> None:
        super().__init__(facts)
        self.class_name = class_name
        self.model_max_length: int = facts.get("model_max_length", _UNLIMITED)
        self.padding_side: str = facts.get("padding_side", "right")
        self.bos_token, self.bos_token_id = facts.get("bos", (None, None))
        self.eos_token, self.eos_token_id = facts.get("eos", (None, None))
        self.pad_token, self.pad_token_id = facts["pad"]
        self._before = [self.bos_token_id] if facts.get("adds_bos") else []
        self._before += [number for _, number in facts.get("prefix", ())]
        self._after = [self.eos_token_id] if facts.get("adds_eos") else []
        self._line_breaks = bool(facts.get("line_breaks"))
        self._counts_positions = bool(facts.get("position_ids"))
        self._chat = _CHATS[facts.get("chat", "chatml")]

    @property
    def assumption(self) -> str:
        """What a profile made with this tokenizer assumes."""
        return (
            f"{self.class_name} has no vocabulary here: a prompt counts as its words and "
            f"punctuation marks, at least {wording.TOKENS_PER_WORD} tokens a word; special tokens, "
            "truncation and padding are the real ones"
        )

    def tokenize(self, text: str, **_: Any) -> list[str]:
        """Return the pieces that stand for the tokens of `text`, without special tokens."""
        return [
            piece
            for part in self._parts(text)
            for piece in (
                [part]
                if part in self._added_tokens_encoder
                else wording.tokenize(part, line_breaks=self._line_breaks)
            )
        ]

    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> Any:
        """Return the id of one token, or the ids of several."""
        if isinstance(tokens, str):
            return self._id(tokens)
        return [self._id(token) for token in tokens]

    def encode(self, text: str, *, add_special_tokens: bool = True, **_: Any) -> list[int]:
        """Return the ids of `text`, neither truncated nor padded."""
        ids = [self._id(piece) for piece in self.tokenize(text)]
        return [*self._before, *ids, *self._after] if add_special_tokens else ids

    def __call__(  # noqa: PLR0913 - the names are those of transformers' tokenizers
        self,
        text: str | Sequence[str],
        *,
        padding: bool | str = False,
        truncation: bool | str = False,
        max_length: int | None = None,
        add_special_tokens: bool = True,
        return_tensors: str | None = None,
        return_attention_mask: bool = True,
        return_length: bool = False,
        **_: Any,
    ) -> Any:
        """Return `input_ids` and what else was asked for, as a transformers `BatchEncoding`."""
        texts = [text] if isinstance(text, str) else list(text)
        limit = max_length or self.model_max_length
        rows = [self.encode(each, add_special_tokens=add_special_tokens) for each in texts]
        if truncation:
            rows = [self._truncate(row, limit, special=add_special_tokens) for row in rows]
        lengths = [len(row) for row in rows]
        width = _padded_width(lengths, padding, limit)
        padded = [self._pad(row, width, self.pad_token_id) for row in rows]
        data: dict[str, Any] = {"input_ids": padded}
        if return_attention_mask:
            data["attention_mask"] = [self._pad([1] * length, width, 0) for length in lengths]
        if self._counts_positions:
            positions = [list(range(length)) for length in lengths]
            data["position_ids"] = [self._pad(row, width, 0) for row in positions]
        if return_length:
            data["length"] = [max(length, width) for length in lengths]
        if isinstance(text, str) and return_tensors is None:
            data = {key: rows[0] for key, rows in data.items()}
        return BatchEncoding(_as_tensors(data) if return_tensors == "pt" else data)

    def apply_chat_template(
        self,
        conversation: Sequence[Any],
        *,
        tokenize: bool = True,
        add_generation_prompt: bool = False,
        enable_thinking: bool = True,
        return_dict: bool = True,
        **options: Any,
    ) -> Any:
        """Return the text of one conversation or of several in the family's form, or its tokens."""
        single = bool(conversation) and isinstance(conversation[0], Mapping)
        conversations = [conversation] if single else conversation
        texts = [
            self._chat(messages, answer=add_generation_prompt, thinking=enable_thinking)
            for messages in conversations
        ]
        if not tokenize:
            return texts[0] if single else texts
        encoded = self(texts[0] if single else texts, add_special_tokens=False, **options)
        return encoded if return_dict else encoded["input_ids"]

    def pad(
        self,
        encoded_inputs: Mapping[str, Any],
        *,
        padding: bool | str = True,
        max_length: int | None = None,
        return_tensors: str | None = None,
        **_: Any,
    ) -> BatchEncoding:
        """Return token ids, and the mask that is made for them, padded to one length."""
        rows = [list(map(int, row)) for row in encoded_inputs["input_ids"]]
        width = _padded_width(list(map(len, rows)), padding, max_length or self.model_max_length)
        data = {
            "input_ids": [self._pad(row, width, self.pad_token_id) for row in rows],
            "attention_mask": [self._pad([1] * len(row), width, 0) for row in rows],
        }
        return BatchEncoding(_as_tensors(data) if return_tensors == "pt" else data)

    def decode(self, ids: Any, **_: Any) -> str:
        """Return a text in the place of the one that only the vocabulary could give."""
        return f"[{len(ids)} tokens]"

    def batch_decode(self, sequences: Any, **_: Any) -> list[str]:
        """Return `decode` of each row."""
        return [self.decode(row) for row in sequences]

    def _id(self, piece: str) -> int:
        known = self._added_tokens_encoder.get(piece)
        return wording.token_id(piece) if known is None else known

    def _truncate(self, row: list[int], limit: int, *, special: bool) -> list[int]:
        if len(row) <= limit:
            return row
        tail = self._after if special else []
        return row[: limit - len(tail)] + tail

    def _pad(self, row: list[int], width: int, filler: int) -> list[int]:
        padding = [filler] * (width - len(row))
        return padding + row if self.padding_side == "left" else row + padding


def assume_dtype(pipe: Any, dtype: str, components: Sequence[str]) -> None:
    """Remember with `pipe` that these components are loaded in a dtype that their files do not tell."""
    if components:
        told = f"{dtype} for {', '.join(components)}, which their files do not name: choose with dtype= or --dtype"
        setattr(pipe, _ASSUMED_DTYPE, told)


def stand_ins(pipe: Any) -> list[str]:
    """Return what was assumed in the place of files that were not there, a sentence each."""
    dtype = vars(pipe).get(_ASSUMED_DTYPE)
    found = [] if dtype is None else [dtype]
    found += [
        f"{name}: {component.assumption}"
        for name, component in pipe.components.items()
        if isinstance(component, StandInTokenizer)
    ]
    return sorted(found)


def _padded_width(lengths: Sequence[int], padding: object, limit: int) -> int:
    """Return the length that rows are padded to; 0 where they are not."""
    if padding == "max_length":
        return limit if limit < _NO_LIMIT else 0
    return max(lengths, default=0) if padding in {True, "longest"} else 0


def _as_tensors(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: torch.tensor(value, dtype=torch.int64) for key, value in data.items()}


def _chatml(messages: Sequence[Mapping[str, Any]], *, answer: bool, thinking: bool) -> str:
    turns = ((message["role"], _plain(message["content"])) for message in messages)
    text = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)
    if answer:
        text += "<|im_start|>assistant\n"
        text += "" if thinking else "<think>\n\n</think>\n\n"
    return text


def _mistral(messages: Sequence[Mapping[str, Any]], *, answer: bool, thinking: bool) -> str:
    """Return the form of Mistral Small 3: the answer needs no mark, and thinking is not offered."""
    return "<s>" + "".join(
        _MISTRAL_TURNS[message["role"]].format(_plain(message["content"])) for message in messages
    )


def _plain(content: str | Sequence[Mapping[str, Any]]) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


_MISTRAL_TURNS = {
    "system": "[SYSTEM_PROMPT]{}[/SYSTEM_PROMPT]",
    "user": "[INST]{}[/INST]",
    "assistant": "{}</s>",
}
_CHATS = {"chatml": _chatml, "mistral": _mistral}
