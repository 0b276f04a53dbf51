"""The modules lie flat in the repository's root: tests import them by name from wherever pytest runs."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
