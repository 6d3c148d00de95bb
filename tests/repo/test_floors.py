"""What the full scale needs of its environment is demanded where it is installed."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement


def test_torch_is_one_whose_torchrun_waits_for_a_checkpoint(root: Path) -> None:
    """`--shutdown-timeout` is there from 2.12 on; before, torchrun kills after 30 s."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (torch,) = (
        requirement
        for requirement in map(Requirement, project["dependencies"])
        if requirement.name == "torch"
    )
    assert "2.11.0" not in torch.specifier and "2.12.0" in torch.specifier
    setup = (root / "setup.sh").read_text(encoding="utf-8")
    assert re.search(r"^TORCH_FLOOR=2\.12$", setup, re.MULTILINE), "the floor for CPU builds"


def test_the_image_has_what_binds_ranks_and_builds_kernels(root: Path) -> None:
    text = (root / "Dockerfile").read_text(encoding="utf-8")
    install = re.search(r"apt-get install (.*?)&&", text, re.DOTALL)
    assert install and {"numactl", "gcc", "python3-dev"} <= set(install[1].split())
