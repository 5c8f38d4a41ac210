"""Checks of the words in a profile, which is a file that people send each other and whose names become code."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from profiler.checking.code_words import check_names, check_words, is_advice
from profiler.record.setting_words import check_settings

if TYPE_CHECKING:
    from profiler.record.profile import Profile

_COMPONENT, _CLASS, _DTYPE = "a component", "a class", "a dtype"


def check_profile(profile: Profile) -> None:
    """Raise ValueError if a word of `profile` that a fix, a plan or a command repeats is not a plain name."""
    parts, events = profile.components, profile.events
    check_names(
        _CLASS, [profile.pipeline_class, *(one.pipeline_class for one in profile.signatures)]
    )
    check_names(_COMPONENT, [part.name for part in parts])
    asked = (*profile.dtypes, *profile.quantization)
    check_names(_COMPONENT, (*profile.sequence, *profile.denoisers, *asked))
    check_settings(profile.settings)
    check_names(_COMPONENT, {event.component for event in events}, empty=True)
    check_names(_COMPONENT, {one.component for one in profile.conditions}, empty=True)
    dtypes = {
        profile.dtype,
        *profile.dtypes.values(),
        *(part.dtype for part in parts),
        *(event.dtype for event in events),
    }
    check_names(_DTYPE, dtypes, empty=True)
    check_words("quantisation", profile.quantization.values())
    for arguments in (profile.call, *(one.call for one in profile.signatures)):
        check_names("an argument", arguments)
    if profile.failure is not None:
        check_names(_COMPONENT, [profile.failure.component], empty=True)


def without_strange_advice(profile: Profile) -> Profile:
    """Return the profile without advice that this package would not write; findings then give their own."""
    failure = profile.failure
    if failure is None or is_advice(failure.remedy_code):
        return profile
    return replace(profile, failure=replace(failure, remedy_code=""))
