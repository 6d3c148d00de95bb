"""Sacred around every run: file records, their copies on a server, Omniboard to browse them."""

import sys
import warnings

# Sacred 0.8.7 imports pkg_resources; setuptools is pinned below the release that lacks it.
warnings.filterwarnings("ignore", message="pkg_resources is deprecated", category=UserWarning)

# Sacred also imports pandas where there is one, only to recognise its tables in a result. This
# takes a third of the start of a job.
if "pandas" not in sys.modules:
    sys.modules["pandas"] = None  # type: ignore[assignment]
    try:
        import sacred  # noqa: F401
    finally:
        del sys.modules["pandas"]
