"""A worker that joins as the real one does, and ends: for what is refused before training."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from repro.train.process import distributed

if __name__ == "__main__":
    distributed.start(json.loads(Path(sys.argv[1]).read_bytes())["devices"])
