"""Sacred around every run: the records, their copies on a server, and the pages that show them."""

import sys
import time
import warnings

STARTED = time.process_time()
"""Processor seconds of this process before anything of tracking was imported."""

# Sacred 0.8.7 imports pkg_resources; setuptools is pinned below the release that lacks it.
warnings.filterwarnings("ignore", message="pkg_resources is deprecated", category=UserWarning)

# It also imports pandas where there is one, only to know its tables in a result:
# a third of a pack's start, so not here.
if "pandas" not in sys.modules:
    sys.modules["pandas"] = None  # type: ignore[assignment]
    try:
        import sacred  # noqa: F401
    finally:
        del sys.modules["pandas"]
