from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Before anything imports matplotlib: tests draw into files, never onto a screen.
os.environ["MPLBACKEND"] = "agg"

# Examples are the same in every run, and a slow machine is no failure.
settings.register_profile("featlearn", deadline=None, derandomize=True)
settings.load_profile("featlearn")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Folder of the data that the package does not ship; a test that asks for it skips where there is none."""
    folder = os.environ.get("FEATLEARN_DATA")
    if not folder:
        pytest.skip("FEATLEARN_DATA is not set: this test reads data that the package does not ship")
    return Path(folder)
