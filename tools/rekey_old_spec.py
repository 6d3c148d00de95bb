"""Run specifications as they were recorded before defences had names, as today's `RunSpec`."""

from __future__ import annotations

from typing import Any

from repro.spec import RunSpec


def new_spec(old: dict[str, Any]) -> RunSpec:
    """Today's specification of a run that was recorded with `mitigation`, six numbers or None."""
    new = dict(old)
    mitigation = new.pop("mitigation", None)
    if mitigation is None:
        return RunSpec.model_validate(new)

    # The SSL weight stood in both places; cleaning takes it from its defence.
    del new["ssl_weight"]
    new["poisons_left"] = mitigation["poisons_left"]
    if mitigation["clusters"]:
        settings = {"clusters": mitigation["clusters"], "weight": mitigation["cluster_weight"]}
        new["defence"] = {"name": "deep_clustering", **settings}
    elif (mitigation["shrink"], mitigation["perturb"]) != (1.0, 0.0):
        settings = {"shrink": mitigation["shrink"], "perturb": mitigation["perturb"]}
        new["defence"] = {"name": "shrink_and_perturb", **settings}
    elif mitigation["ssl_weight"] != 1.0:
        new["defence"] = {"name": "cleanclip", "ssl_weight": mitigation["ssl_weight"]}
    return RunSpec.model_validate(new)
