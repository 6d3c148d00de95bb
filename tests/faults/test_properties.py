"""Properties of any input: specifications and identities, ledger, triggers, keyed choices."""

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from repro.data.keyed import keyed_rng
from repro.data.triggers import stamp
from repro.profile import check, clean_runs, load_profile
from repro.runs import run
from repro.spec import METRIC_FIELDS, RunSpec, SpecError, Switches, Trigger

SPECS = Path(__file__).parents[2] / "specs"
RUN = functools.cache(lambda: clean_runs(load_profile("smoke", SPECS))[0])
quick = settings(deadline=None, max_examples=50)


def leaves(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to all values of a tree."""
    inner: Any = content.items() if isinstance(content, dict) else ()
    inner = enumerate(content) if isinstance(content, list) else inner
    return [leaf for key, value in inner for leaf in leaves(value, (*path, key))] or [path]


def changed(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy with the value at `path` replaced."""
    copy = json.loads(json.dumps(content))
    holder = copy
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    return copy


WORDS = [
    *("mmcl", "ssl", "mmcl_ssl", "200k", "paper", "cc6m"),
    *("fixed", "redrawn", "wrap", "clip", "exact"),
]
values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=8),
    st.lists(st.integers(), max_size=2),
    st.sampled_from([0, 1, -1, 2, 0.5, 1.0, *WORDS]),
)


@quick
@given(data=st.data())
def test_any_field_of_a_run_changed_is_refused_or_another_identity(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Only a name, and what the reading of the ledger depends on, leave the fingerprint as it was."""
    content = RUN().model_dump(mode="json")
    path = data.draw(st.sampled_from(leaves(content)))
    try:
        other = RunSpec.model_validate(changed(content, path, data.draw(values)))
    except ValueError:
        return
    pairs = tmp_path_factory.getbasetemp() / "pairs"
    pairs.write_text("pairs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(pairs.parent)
        before, after = (
            run.identify(spec, {"pairs": pairs}, "code").fingerprint for spec in (RUN(), other)
        )
    not_computed = METRIC_FIELDS.get(path[0], set())
    left_out = path[0] == "variant" or not not_computed.isdisjoint(path[1:2])
    assert (before == after) == (other == RUN() or left_out)


PROFILE = functools.cache(lambda: load_profile("smoke", SPECS))


@quick
@given(data=st.data(), part=st.sampled_from(["data", "pretrain", "clean", "evaluate", "switches"]))
def test_any_value_of_a_profile_is_refused_by_name_or_taken(data: st.DataObject, part: str) -> None:
    valid = getattr(PROFILE(), part)
    path = data.draw(st.sampled_from(leaves(valid.model_dump(mode="json"))))
    content = changed(valid.model_dump(mode="json"), path, data.draw(values))
    problem = ""
    try:
        assert check(type(valid), content, Path("x.yaml")).model_dump(mode="json") == content
    except SpecError as error:
        problem = str(error)
    assert not problem or any(str(key) in problem for key in path)


switches = st.builds(
    lambda overflow, centre: PROFILE().switches.model_copy(
        update={"trigger_overflow": overflow, "trigger_centre": centre}
    ),
    st.sampled_from(["clip", "wrap"]),
    st.sampled_from(["zero", "mean"]),
)


@quick
@given(
    name=st.sampled_from(["badnet", "blended", "sig", "wanet", "yellow"]),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    patch=st.integers(1, 48),
    seed=st.integers(0, 2**32),
    switches=switches,
)
def test_any_trigger_on_any_image_stays_in_place(
    name: Any, height: int, width: int, patch: int, seed: int, switches: Switches
) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    before = image.copy()
    trigger = Trigger(name=name, patch_size=patch)
    # A specification with a larger patch is refused.
    assume(name not in ("badnet", "yellow") or patch <= min(height, width))
    result, place = stamp(trigger, switches, image, keyed_rng(seed))
    assert (image == before).all()
    assert result.shape == image.shape
    assert result.dtype == np.uint8
    assert (stamp(trigger, switches, image, keyed_rng(seed)).image == result).all()
    if place is not None:
        outside = np.ones((height, width), bool)
        outside[place[0] : place[0] + patch, place[1] : place[1] + patch] = False
        assert (result[outside] == image[outside]).all()
