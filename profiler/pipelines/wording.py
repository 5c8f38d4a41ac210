"""How many tokens a text has, without a vocabulary.

The rule: a special token of a chat template is one token; a punctuation mark is one; a Chinese,
Japanese or Korean character is one; words are 1.3 tokens each, and a text never has fewer tokens
than words and marks. It is close for plain English with the vocabularies of today (a few per cent
of a sentence), and cannot know rare words.
"""

from __future__ import annotations

import math
import re
import zlib

# Rule of thumb of the vendors of byte-pair vocabularies: a token is about three quarters of a word.
TOKENS_PER_WORD = 1.3

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_PIECE = re.compile(
    rf"(<\|[^|<>]*\|>|<[/a-z_]+>|\[/?[A-Z_]+\])|([{_CJK}])|([^\W{_CJK}]+)|([^\w\s])|(\n+)"
)
_SPECIAL, _CHARACTER, _WORD, _MARK, _BREAK = range(1, 6)

# Ordinary ids start above the special tokens and stay below the smallest vocabulary (T5: 32,100).
_FIRST_ID = 1_000
_IDS = 30_000


def tokenize(text: str, *, line_breaks: bool = False) -> list[str]:
    """Return the pieces that stand for the tokens of `text`.

    Args:
        text: Any text.
        line_breaks: Whether a run of line breaks is a token (byte-level vocabularies) or vanishes
            (CLIP, T5).
    """
    found = [match for match in _PIECE.finditer(text) if line_breaks or match.lastindex != _BREAK]
    pieces = [match.group() for match in found]
    words = sum(match.lastindex == _WORD for match in found)
    marks = sum(match.lastindex == _MARK for match in found)
    missing = math.ceil(TOKENS_PER_WORD * words - 1e-9) - words - marks
    return pieces + [f"##{index}" for index in range(missing)]


def token_id(piece: str) -> int:
    """Return the id that stands for `piece`: always the same, and valid everywhere."""
    return _FIRST_ID + zlib.crc32(piece.encode()) % _IDS
