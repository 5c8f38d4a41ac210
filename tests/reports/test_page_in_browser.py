"""The page in a real browser: it needs no network, runs without errors, and shows what it should at any width."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from profile_worlds import sdxl_model_offload

import reports
from profiler.planning import plan_offload
from profiler.units import GIB

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="needs chromium to look at the page")

# Asks the page about itself after the pointer went over the middle of the first figure, and leaves the answers in
# an attribute of the body.
PROBE = """
<script>
addEventListener("load", () => {
  const figure = document.querySelector("[data-figure]");
  const svg = figure.querySelector("svg");
  const box = svg.getBoundingClientRect();
  const at = { clientX: box.left + box.width * 0.5, clientY: box.top + 60, bubbles: true };
  svg.dispatchEvent(new PointerEvent("pointermove", at));
  document.body.dataset.found = JSON.stringify({
    tip: figure.querySelector(".tip").innerText,
    overflow: document.documentElement.scrollWidth - innerWidth,
    fetched: performance.getEntriesByType("resource").map((entry) => entry.name),
    text: document.querySelector("main").innerText,
    ground: getComputedStyle(document.body).backgroundColor,
  });
});
</script>
"""


def look_at(folder: Path, *options: str) -> tuple[dict[str, Any], str]:
    """Return what the page says about itself, and what the browser logged."""
    profile = sdxl_model_offload(steps=30)
    several = [profile, sdxl_model_offload(steps=4)]
    page = folder / "report.html"
    page.write_text(reports.render_html(several, plan=plan_offload(profile, 8 * GIB)) + PROBE)
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"]
    command += ["--no-first-run", "--disable-background-networking", "--disable-component-update"]
    command += [
        "--disable-sync",
        f"--user-data-dir={folder / 'profile'}",
        "--enable-logging=stderr",
    ]
    command += [*options, "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=90)
    (found,) = re.findall(r'data-found="([^"]*)"', done.stdout)
    return json.loads(html.unescape(found)), done.stderr


@pytest.mark.parametrize("width", [400, 1200])
def test_the_page_needs_no_network_and_runs_without_errors(tmp_path: Path, width: int) -> None:
    found, log = look_at(tmp_path, f"--window-size={width},1000")
    facts = ("Fits the 8.00 GiB RTX 4060", "4.99 GiB", "keep text_encoder", "5,357,174,784")
    assert [fact for fact in facts if fact not in found["text"]] == []
    assert found["fetched"] == []
    assert found["overflow"] <= 0
    assert [line for line in log.splitlines() if "CONSOLE" in line] == []


def test_the_pointer_tells_what_is_under_it(tmp_path: Path) -> None:
    """The middle of the figure is inside denoise step 1 or 2, where only the denoiser is on the GPU."""
    found, _ = look_at(tmp_path, "--window-size=1200,1000")
    assert "unet" in found["tip"]
    assert "allocated, at most" in found["tip"]
    assert "vae" not in found["tip"]


def test_the_page_is_dark_where_the_reader_wants_it_dark(tmp_path: Path) -> None:
    light, _ = look_at(tmp_path, "--blink-settings=preferredColorScheme=1")
    dark, _ = look_at(tmp_path, "--blink-settings=preferredColorScheme=0")
    assert (light["ground"], dark["ground"]) == ("rgb(251, 250, 248)", "rgb(19, 21, 23)")
