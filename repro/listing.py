"""`repro list`: the names that specifications and commands take, each with what it is."""

import json
from collections.abc import Callable

from repro.names import DEFENCES, LOSSES, TRIGGERS
from repro.profile import SPECS, chosen_profile, profile_names
from repro.spec import SpecError
from repro.study.spec import load_study, study_names


def list_command(kind: str, as_json: bool) -> None:
    """Print the names of a kind with their descriptions, a line each or as one JSON object."""
    names = LISTS[kind]()
    if as_json:
        print(json.dumps(names, indent=1, ensure_ascii=False))
        return
    if not names:
        raise SpecError(f"{kind}: none are here; call again from the project's folder")
    width = max(map(len, names))
    for name, text in names.items():
        print(f"{name:{width}}  {text}")


def profiles() -> dict[str, str]:
    """Profiles, with the first comment of their files, and which of them params.yaml names."""
    named, found = chosen_profile(None), {}
    for name in profile_names():
        first = (SPECS / f"{name}.yaml").read_text(encoding="utf-8").partition("\n")[0]
        default = " Named in params.yaml." if name == named else ""
        found[name] = first.removeprefix(f"# Profile `{name}`: ") + default
    return found


def defences() -> dict[str, str]:
    """Defences, with their settings and the defaults of these."""
    return {
        name: ", ".join(
            [of.label, *(f"{key} {setting.default:g}" for key, setting in of.settings.items())]
        )
        for name, of in DEFENCES.items()
    }


def measures() -> dict[str, str]:
    """Measures of the report."""
    # Not at the top: pandas takes a second, which the other lists do without.
    from repro.report.measures import MEASURES

    return {measure.name: f"{measure.title}, in {measure.unit}" for measure in MEASURES}


LISTS: dict[str, Callable[[], dict[str, str]]] = {
    "profiles": profiles,
    "studies": lambda: {name: load_study(name).question for name in study_names()},
    "triggers": lambda: {str(name): label for name, label in TRIGGERS.items()},
    "objectives": lambda: {name: loss.label for name, loss in LOSSES.items()},
    "defences": defences,
    "measures": measures,
}
