"""The notebook runs as it stands, and what is committed with it is what it shows.

`REFRESH_NOTEBOOKS=1 pytest tests/documents/test_notebook.py` writes the outputs anew.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
REFRESH = "REFRESH_NOTEBOOKS" in os.environ


def executed(path: Path) -> Any:
    """Return the notebook at `path`, run in a kernel of its own, as one would commit it."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(ROOT)}})
    client.execute()
    for cell in code_cells(notebook):
        cell.metadata = {}
        # Progress bars and the libraries' notes differ from run to run and name paths.
        cell.outputs = [one for one in cell.outputs if one.get("name") != "stderr"]
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(cell: Any) -> list[str]:
    """Return what the cell shows as text; pictures depend on fonts, and are left out."""
    plain = [output.get("data", {}).get("text/plain", "") for output in cell.outputs]
    streams = [output.text for output in cell.outputs if output.output_type == "stream"]
    return [text for text in (*plain, *streams) if text]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebook_runs_and_shows_what_is_committed(path: Path) -> None:
    fresh = executed(path)
    if REFRESH:
        nbformat.write(fresh, path)
    committed = nbformat.read(path, as_version=4)
    assert [texts(cell) for cell in code_cells(fresh)] == [
        texts(cell) for cell in code_cells(committed)
    ], "the committed outputs are old: run with REFRESH_NOTEBOOKS=1"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_committed_outputs_are_clean(path: Path) -> None:
    """Every cell has run in order, nothing went to standard error, and no path of a machine is shown."""
    cells = code_cells(nbformat.read(path, as_version=4))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        assert [output for output in cell.outputs if output.get("name") == "stderr"] == []
        shown = "\n".join(texts(cell))
        assert re.findall(r"(?:/home|/root|/work|/usr|/tmp|[A-Z]:\\)\S*", shown) == []
