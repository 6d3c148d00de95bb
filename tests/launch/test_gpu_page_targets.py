"""What docs/gpu.md names behind `dvc` and `python -m tests...` is there: stages and modules."""

import itertools
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from repro.profile import load_profile, profile_names
from tests.launch.test_gpu_page import blocks


@pytest.fixture(scope="module")
def graph(request: pytest.FixtureRequest) -> dict[str, Any]:
    text = (request.config.rootpath / "dvc.yaml").read_text(encoding="utf-8")
    return dict(YAML(typ="safe", pure=True).load(text)["stages"])


def entries(graph: dict[str, Any], profile: str) -> dict[str, list[str]]:
    """Outputs by the name of each stage at a profile."""
    found = {}
    for name, stage in graph.items():
        axes = {key: [str(v) for v in values] for key, values in stage["matrix"].items()}
        axes = {key: [profile] if key == "profile" else values for key, values in axes.items()}
        for values in itertools.product(*axes.values()):
            outs = [next(iter(out)) if isinstance(out, dict) else out for out in stage["outs"]]
            for key, value in zip(axes, values, strict=True):
                outs = [out.replace(f"${{item.{key}}}", value) for out in outs]
            found[f"{name}@{'-'.join(values)}"] = outs
    return found


def test_every_stage_and_output_asked_of_dvc_exists(root: Path, graph: dict[str, Any]) -> None:
    text = "\n".join(blocks(root)).replace("\\\n", " ")
    text += "\n".join(re.findall(r"`(dvc repro [^`]+)`", (root / "docs/gpu.md").read_text()))
    asked = set(re.findall(r"\b(?:clean|pretrain|data|poison|report)@[\w-]+", text))
    assert "data@paper_lean" in asked
    for stage in asked:
        profile = re.split("[@-]", stage)[1]
        assert stage in entries(graph, profile), stage


def test_every_profile_and_module_that_is_named_is_there(root: Path) -> None:
    text = "\n".join(blocks(root))
    for name in re.findall(r"profile: (\w+)|PROFILE=(\w+)|--profile (\w+)", text):
        assert "".join(name) in profile_names(root / "specs")
    for module in re.findall(r"python -m (tests[\w.]+)", text):
        assert find_spec(module) is not None
    # `rehearsal` takes its noise from where the block puts it.
    source = load_profile("rehearsal").data.source
    assert "incoming/rehearsal" in text
    assert source.evaluation.startswith("incoming/rehearsal")
