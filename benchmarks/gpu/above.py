"""Lets the scripts here import those one folder up: importing this does it."""

import sys
from pathlib import Path

FOLDERS = tuple(str(folder) for folder in Path(__file__).resolve().parents[:2])

sys.path.extend(folder for folder in FOLDERS if folder not in sys.path)
