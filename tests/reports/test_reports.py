"""Every report is rendered from the same recording; its data is asserted apart from its form."""

from __future__ import annotations

import dataclasses
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from profile_worlds import GPU, Story, sdxl_model_offload
from rich.console import Console

import reports
from profiler.errors import InputError
from profiler.planning import Plan, plan_offload
from profiler.record.profile import CallSignature, PeakItem, Profile
from profiler.units import GIB, MIB
from reports import story
from reports.plan_view import plan_view

if TYPE_CHECKING:
    from collections.abc import Callable

FACTS = ("8.00 GiB", "4.99 GiB", "unet", "text_encoder_2", "denoise")


@pytest.fixture(scope="module")
def profile() -> Profile:
    return sdxl_model_offload(steps=30)


@pytest.fixture(scope="module")
def plan(profile: Profile) -> Plan:
    return plan_offload(profile, 8 * GIB)


def as_text(profile: Profile, **options: Any) -> str:
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(reports.render_text(profile, **options))
    return console.export_text()


def as_notebook(profile: Profile, **_: Any) -> str:
    return profile._repr_html_()


FORMS = {"html": reports.render_html, "text": as_text, "notebook": as_notebook}
CHANGES: dict[str, dict[str, Any]] = {
    "plain": {},
    "out of memory": {"complete": False, "error": "CUDA out of memory. <b>Tried</b> 2 GiB."},
    "measured": {"source": "measured", "error_band": 0.0},
    "empty": {"events": (), "bill": (), "components": ()},
    "large GPU": {"gpu": dataclasses.replace(GPU, capacity_bytes=80 * GIB)},
    "small GPU": {"gpu": dataclasses.replace(GPU, capacity_bytes=GIB)},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_tells_the_same_facts(form: str, profile: Profile, plan: Plan) -> None:
    shown = FORMS[form](profile, plan=plan)
    assert [fact for fact in FACTS if fact not in shown] == []


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("change", CHANGES)
def test_every_form_survives_every_recording(form: str, change: str) -> None:
    shown = FORMS[form](dataclasses.replace(sdxl_model_offload(steps=2), **CHANGES[change]))
    assert ("<b>Tried</b>" in shown) == (form == "text" and change == "out of memory")


@pytest.mark.parametrize("change", CHANGES)
def test_the_picture_survives_every_recording(change: str, tmp_path: Path) -> None:
    profile = dataclasses.replace(sdxl_model_offload(steps=2), **CHANGES[change])
    reports.write_png(tmp_path / "p.png", profile)
    assert (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"


class Page(HTMLParser):
    """Counts tags that are open, and keeps every attribute that could name an address."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [
            value or "" for name, value in attrs if name in ("src", "href", "action")
        ]
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_refers_to_nothing_outside(profile: Profile, plan: Plan) -> None:
    text = reports.render_html([profile, sdxl_model_offload(steps=1, calls=2)], plan=plan)
    page = Page(text)
    assert page.open == []
    assert set(page.addresses) == {"data:,", "#run-1", "#run-2"}
    assert re.findall(r"url\((?!#)|@import|https?://|//cdn", text) == []


def test_names_in_a_recording_cannot_become_markup() -> None:
    evil = "</script><script>alert(1)</script>"
    profile = dataclasses.replace(sdxl_model_offload(steps=1), model=evil, pipeline_class=evil)
    parts = tuple(dataclasses.replace(p, name=evil + p.name) for p in profile.components)
    events = tuple(e._replace(component=evil + e.component) for e in profile.events)
    text = reports.render_html(dataclasses.replace(profile, components=parts, events=events))
    assert "<script>alert" not in text
    assert Page(text).open == []


def test_the_answer_says_where_and_who(profile: Profile) -> None:
    answer = story.answer(profile)
    assert answer.headline == "Fits the 8.00 GiB RTX 4060 with 2.51 GiB to spare"
    assert answer.peak == (
        "The peak of 4.99 GiB allocated comes in denoise step 1, while unet runs."
    )
    assert answer.basis == (
        "Predicted for NVIDIA GeForce RTX 4060, no GPU was used, error band ± 3 %."
    )


def test_the_bill_adds_up_to_the_peak_to_the_last_byte(profile: Profile) -> None:
    rows = story.peak_breakdown(profile)
    assert sum(row.bytes for row in rows) == profile.totals.peak_allocated_bytes
    assert rows[-1][:3] == ("", "unattributed", -77)


def test_what_the_bill_does_not_name_is_unattributed_not_dropped(profile: Profile) -> None:
    item = PeakItem(holder="unet", what="weights", bytes=4897 * MIB)
    rows = story.peak_breakdown(dataclasses.replace(profile, bill=(item,)))
    assert [row[:3] for row in rows] == [
        ("unet", "weights", 4897 * MIB),
        ("", "unattributed", 212 * MIB),
    ]


def test_the_plan_is_shown_beside_stock_with_its_arithmetic(plan: Plan) -> None:
    view = plan_view(plan)
    assert [row.label for row in view.rows] == [
        "as it is",
        "this plan",
        "runner-up",
        "smallest that runs",
    ]
    assert sum(term.bytes for term in view.terms) == view.needed_bytes
    assert view.needed_bytes + view.left_bytes == view.budget_bytes == 8 * GIB
    assert view.headline == (
        "Within 8.00 GiB: keep text_encoder and text_encoder_2 on the GPU for good, "
        "offload the rest"
    )


@pytest.mark.parametrize("held", [True, False])
def test_the_verification_is_told_in_every_form(held: bool, profile: Profile, plan: Plan) -> None:
    complaints = () if held else ("the peak was 9.00 GiB",)
    found = SimpleNamespace(
        held=held,
        promised=plan.predicted,
        found=plan.predicted,
        differences=complaints,
        drift=(),
        source="predicted",
        profile=sdxl_model_offload(steps=2, calls=2),
    )
    words = "it held" if held else "it did not hold"
    for render in (reports.render_html, as_text):
        shown = render(profile, plan=plan, verification=found)
        assert words in shown
        assert [complaint for complaint in complaints if complaint not in shown] == []


WRITERS: dict[str, Callable[[Path, Profile], None]] = {
    "html": reports.write_html,
    "png": reports.write_png,
}


@pytest.mark.parametrize("form", WRITERS)
def test_an_unwritable_path_is_one_clear_line_and_nothing_is_written(
    form: str, profile: Profile, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="does not exist"):
        WRITERS[form](tmp_path / "missing" / "report", profile)
    assert list(tmp_path.iterdir()) == []


def test_the_picture_leaves_matplotlib_as_it_was(profile: Profile, tmp_path: Path) -> None:
    import matplotlib as mpl

    mpl.rcParams["font.size"] = 17.0
    before = dict(mpl.rcParams)
    try:
        reports.write_png(tmp_path / "p.png", profile)
        assert dict(mpl.rcParams) == before
    finally:
        mpl.rcParams["font.size"] = mpl.rcParamsDefault["font.size"]


def test_the_same_recording_gives_the_same_files(profile: Profile, tmp_path: Path) -> None:
    for name in ("a", "b"):
        reports.write_png(tmp_path / f"{name}.png", profile)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert reports.render_html(profile) == reports.render_html(sdxl_model_offload(steps=30))


def test_one_line_in_a_prompt() -> None:
    assert repr(Story(()).profile(model="sd15")) == (
        "<Profile sd15, model, predicted for NVIDIA GeForce RTX 4060: "
        "peak 0 B, on the GPU 300.0 MiB, 0 events>"
    )


def test_several_calls_are_told_one_by_one() -> None:
    call = {"height": 512, "cached_prompt": True}
    signatures = (
        CallSignature(pipeline_class="FluxPipeline", call={"height": 1024}, weight=3),
        CallSignature(pipeline_class="FluxPipeline", call=call),
        CallSignature(pipeline_class="FluxImg2ImgPipeline", call={"strength": 0.6}, weight=2),
    )
    profile = dataclasses.replace(sdxl_model_offload(steps=1, calls=3), signatures=signatures)
    for told in (
        "3 x pipe(height=1024)",
        "1 x pipe(height=512, cached_prompt=True)",
        "2 x FluxImg2ImgPipeline(strength=0.6)",
    ):
        assert told in reports.render_html([profile])
        assert told in as_text(profile)


def test_bytes_that_values_are_read_through_are_not_called_pinned_memory():
    profile = sdxl_model_offload(steps=1)
    for pinned_bytes, words in ((9, ""), (3 * GIB, "3.00 GiB pinned")):
        totals = dataclasses.replace(profile.totals, host_pinned_bytes=pinned_bytes)
        assert story.pinned_words(dataclasses.replace(profile, totals=totals)) == words
