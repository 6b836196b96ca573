"""Where things are on this machine."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]  # the checkout
SHARED = Path(os.environ.get("FEDROUTER_SHARED", ROOT.parent / "shared"))  # real data, if any
