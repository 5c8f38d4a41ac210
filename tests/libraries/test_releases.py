"""Releases outside of those that were tested, and private names that a release took away."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from profiler.libraries import private_names, releases
from profiler.libraries.releases import TESTED, Tested, warn_of_untested


@pytest.fixture(autouse=True)
def warned_anew():
    warn_of_untested.cache_clear()
    yield
    warn_of_untested.cache_clear()


def test_any_release_of_the_newest_is_covered_and_none_after_it():
    tested = Tested("diffusers", "0.37.0", "0.42")
    versions = ("0.36.2", "0.37.0", "0.40.1", "0.42.9", "0.43.0", "1.0.0")
    assert [tested.covers(one) for one in versions] == [False, True, True, True, False, False]
    assert (str(tested), tested.requirement) == ("0.37.0 to 0.42", "diffusers>=0.37.0,<0.43")


def test_what_is_installed_here_is_covered_and_has_every_private_name():
    assert all(one.covers(importlib.metadata.version(one.library)) for one in TESTED)
    assert private_names.gone() == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_untested()


def test_an_untested_release_is_warned_about_once_and_not_refused(monkeypatch):
    monkeypatch.setattr(
        releases, "installed", lambda library: "9.0" if library == "torch" else "1.12"
    )
    monkeypatch.setattr(releases, "TESTED", TESTED[:1])
    with pytest.warns(UserWarning, match="torch 9.0 was not tested .*2.13 to 2.14 were"):
        warn_of_untested()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_untested()


def test_every_private_name_is_one_that_this_package_imports():
    """Or the table would say that something fails which nobody asks for."""
    folder = Path(releases.__file__).parents[1]
    files = (one for one in folder.rglob("*.py") if one.name != "private_names.py")
    text = "".join(one.read_text(encoding="utf-8") for one in files)
    assert [str(one) for one in private_names.NAMES if one.name not in text] == []


def test_a_name_that_is_gone_is_named_at_first_use_and_by_the_doctor():
    code = """
import diffusers.hooks.group_offloading as module
del module.ModuleGroup
import profiler
try:
    profiler.apply
except profiler.ProfilerError as error:
    print(error)
from profiler.sizing import doctor
print(*(check.told for check in doctor.examine() if check.name == "private-name"))
"""
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second = made.stdout.splitlines()[-2:]
    name = "diffusers.hooks.group_offloading.ModuleGroup"
    version = importlib.metadata.version("diffusers")
    assert first == (
        f"diffusers {version} has no {name}, by which group offload is read; it was last seen in 0.42: "
        "install that release, or a newer vram-profiler"
    )
    assert second == f"diffusers has no {name}, last seen in 0.42: group offload cannot be read"
