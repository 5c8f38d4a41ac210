"""Stand-ins for processors of text and pictures: transformers' own class, around a tokenizer without a vocabulary.

The processor's own code puts as many placeholder tokens into the text as the picture has patches, and its image
processor resizes the picture, so the text encoder runs over as many tokens as with the real files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import transformers

from profiler.pipelines.tokenizers import StandInTokenizer

_PICTURES = "image_processor"


def stand_in_processor(cls: Any, facts: Mapping[str, Any], config: Mapping[str, Any]) -> Any:
    """Return a processor of a subclass of `cls` that has a `StandInTokenizer`, and takes no videos.

    Args:
        cls: transformers' processor class.
        facts: The facts of its tokenizer, with the class of its image processor as `image_processor`.
        config: The model's own configuration; its `image_processor` is that of `preprocessor_config.json`.
    """
    # Its check of argument classes would refuse a processor without the library that decodes videos.
    lenient = type(cls.__name__, (cls,), {"check_argument_for_proper_class": _accept})
    pictures = getattr(transformers, facts[_PICTURES]).from_dict(dict(config.get(_PICTURES, {})))
    tokenizer = StandInTokenizer(cls.__name__, facts)
    without = dict.fromkeys(set(cls.get_attributes()) - {_PICTURES, "tokenizer"})
    return lenient(
        **{_PICTURES: pictures, "tokenizer": tokenizer, **without},
        chat_template=tokenizer.chat_template,
    )


def _accept(processor: Any, name: str, argument: Any) -> None:
    """Accept any argument of a processor."""
