"""The command `vram`: each subcommand is a thin layer over one public function.

Only this package prints and exits. Importing it is fast; a subcommand imports what it needs when it runs, so
`vram --help` and a mistake in an option are answered at once.
"""

from __future__ import annotations

import logging


def main() -> None:
    """Run the command with the arguments of this process."""
    from profiler.cli.app import app

    logging.disable(
        logging.WARNING
    )  # log messages of torch, diffusers and torchao are not part of the answer
    app(prog_name="vram")
