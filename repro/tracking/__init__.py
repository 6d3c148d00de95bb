"""Sacred around every run: the records, their copies on a server, and the pages that show them."""

import warnings

# Sacred 0.8.7 imports pkg_resources; setuptools is pinned below the release that lacks it.
warnings.filterwarnings("ignore", message="pkg_resources is deprecated", category=UserWarning)
