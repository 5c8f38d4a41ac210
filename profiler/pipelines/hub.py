"""A pipeline's JSON and tokenizer files from the Hugging Face hub, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from huggingface_hub.utils import tqdm

from profiler.errors import InputError
from profiler.pipelines.catalogue import name_of_hub_id

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")

# Vocabularies beside the JSON files: CLIP's and Qwen's merges, BERT's words, SentencePiece models
# and chat templates. The indices of sharded weights are JSON too, but not needed.
_WANTED = ["*.json", "*merges.txt", "*vocab.txt", "*spiece.model", "*tokenizer.model", "*.jinja"]
_UNWANTED = ["*.safetensors.index*.json", "*.bin.index*.json"]

_ANSWER_SECONDS = 3.0  # a hub that has not answered by then counts as unreachable


def is_hub_id(model: str) -> bool:
    """Tell whether `model` has the form of a hub id, `org/name`."""
    return _HUB_ID.fullmatch(model) is not None


def fetch_configuration(hub_id: str) -> Path:
    """Return the local folder with the repository's JSON and tokenizer files, fetched or cached.

    Raises:
        InputError: They are neither on the hub, as far as it can be reached, nor in the cache.
    """
    try:
        folder = huggingface_hub.snapshot_download(
            hub_id,
            allow_patterns=_WANTED,
            ignore_patterns=_UNWANTED,
            local_files_only=not _is_reachable(hub_id),
            tqdm_class=_NoBar,
        )
    except Exception as error:
        known = name_of_hub_id(hub_id)
        hint = f" (the catalogue has it as {known!r}, no network needed)" if known else ""
        raise InputError(f"cannot fetch {hub_id!r}: {_reason(error)}{hint}") from error
    return Path(folder)


def _is_reachable(hub_id: str) -> bool:
    """Tell whether the hub answers in time; `snapshot_download` would wait for minutes."""
    try:
        huggingface_hub.HfApi().model_info(hub_id, timeout=_ANSWER_SECONDS)
    except RepositoryNotFoundError:
        raise
    except Exception:  # noqa: BLE001 - whatever it was, the cache is the next thing to try
        return False
    return True


class _NoBar(tqdm):  # type: ignore[type-arg]
    """A progress bar that is never shown: a few small files need none."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "disable": True})


def _reason(error: Exception) -> str:
    """Return a one-line reason for the user; huggingface_hub writes paragraphs."""
    if isinstance(error, GatedRepoError):
        return "it asks for an agreement; accept it on its page and log in with hf auth login"
    if isinstance(error, RepositoryNotFoundError):
        return "the Hugging Face hub has no such public repository"
    return (
        "the Hugging Face hub cannot be reached and it is not in the cache; "
        "check the network, or give a local folder"
    )
