"""The modules lie flat in the repository's root: tests import them by name from wherever pytest runs.

They are tests of a laptop, to the last bit, also where there is a GPU; `bench.py --model` checks what is a GPU's.
"""

import os
import sys
from pathlib import Path

os.environ["CUDA_VISIBLE_DEVICES"] = ""
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
