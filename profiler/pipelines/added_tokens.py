"""The tokens that a tokenizer has beside its words: special ones, and those that textual inversions add.

diffusers' loader (0.42, `loaders/textual_inversion.py`) takes away what it added from `_added_tokens_encoder` and
`_added_tokens_decoder` themselves, under transformers' names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import AddedToken

_SPECIAL = ("bos", "eos", "pad")


class AddedTokens:
    """What a stand-in tokenizer inherits of its vocabulary.

    Args:
        facts: The tokenizer family's facts, as in `[tokenizers.*]` of the catalogue.
    """

    def __init__(self, facts: Mapping[str, Any]) -> None:
        special = {
            number: token for token, number in (facts[name] for name in _SPECIAL if name in facts)
        }
        self._added_tokens_decoder = {
            number: AddedToken(token, special=True) for number, token in special.items()
        }
        self._added_tokens_encoder = {token: number for number, token in special.items()}
        self._own_length: int = facts.get("vocabulary", max(special) + 1)

    def __len__(self) -> int:
        """Return the size of the vocabulary, added tokens included."""
        return max(self._own_length, *(number + 1 for number in self._added_tokens_decoder))

    @property
    def added_tokens_encoder(self) -> dict[str, int]:
        """The tokens beside words, in the order of their ids."""
        return {token.content: number for number, token in self.added_tokens_decoder.items()}

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """The same by id."""
        return dict(sorted(self._added_tokens_decoder.items()))

    def get_vocab(self) -> dict[str, int]:
        """Return the tokens whose ids are known: those beside words."""
        return self.added_tokens_encoder

    def add_tokens(
        self,
        new_tokens: str | AddedToken | Sequence[str | AddedToken],
        special_tokens: bool = False,
    ) -> int:
        """Give tokens that are new the next ids, and return how many there are."""
        new = [new_tokens] if isinstance(new_tokens, str | AddedToken) else new_tokens
        added = 0
        for token in new:
            content = str(token)
            if content not in self._added_tokens_encoder:
                number = len(self)
                self._added_tokens_decoder[number] = AddedToken(content, special=special_tokens)
                self._added_tokens_encoder[content] = number
                added += 1
        return added

    def _parts(self, text: str) -> list[str]:
        """Return the text cut before and after each token that was added."""
        own = [
            token
            for token, number in self._added_tokens_encoder.items()
            if number >= self._own_length
        ]
        if not own:
            return [text]
        longest_first = sorted(own, key=len, reverse=True)
        return [
            part for part in re.split(f"({'|'.join(map(re.escape, longest_first))})", text) if part
        ]
