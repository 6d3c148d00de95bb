"""`repro plan`: what a profile costs, in words; in numbers it is repro/plan/forecast.py's."""

from repro.data.memory import devices
from repro.names import DATASETS
from repro.plan.assumptions import load_assumptions
from repro.plan.counted import counts_of
from repro.plan.forecast import AUTHORS_GPUS, Forecast, cost_command
from repro.profile import graph_profile
from repro.spec import Dataset, Profile
from repro.view.board import duration
from repro.view.remaining import slots
from repro.view.watched import Watched

SOON_SECONDS = 7 * 86400.0
"""Time that somebody may wait for processor cores."""


def plan_command(
    profile: str,
    as_json: bool,
    details: bool,
    gpus: int,
    utilisation: float | None,
    dataset: Dataset | None,
) -> None:
    """Print a sentence on the cost, or what repro/plan/forecast.py prints for these options."""
    if as_json or details or utilisation is not None:
        cost_command(profile, as_json, gpus, utilisation, dataset)
    else:
        print(sentence(graph_profile(profile), dataset, gpus))


def durations(low: float, high: float) -> str:
    """Two lengths of time in words, with the unit once where it is the same."""
    (first, unit), (last, other) = (duration(seconds).split() for seconds in (low, high))
    if unit != other:
        return f"{first} {unit} to {last} {other}"
    return f"{first} to {last} {unit}" if first != last else f"about {last} {unit}"


def sentence(profile: Profile, dataset: Dataset | None = None, gpus: int = AUTHORS_GPUS) -> str:
    """Time of a study from data to report, here where that ends in days or else on so many GPUs,
    and disk.
    """
    assumptions = load_assumptions()
    counts = counts_of(profile, assumptions)
    forecast = Forecast(profile, counts, gpus, assumptions, dataset)
    disk = sum(forecast.disk().values()) / 1e9
    size = f"{disk:.1f} GB" if disk < 10 else f"{disk:,.0f} GB"
    name = profile.name + (f", {DATASETS[dataset]}" if dataset else "")

    watched = Watched.of_profile(profile.name)
    if dataset:
        watched.runs = [(spec, key) for spec, key in watched.runs if spec.dataset == dataset]
    low, high = watched.from_nothing()
    here = f"these {len(devices())} GPUs" if devices() else f"these {slots()} cores"
    if low < SOON_SECONDS:
        return f"{name}: {durations(low, high)} on {here}, {size} of disk"

    costs = []
    for key in ("a100", "h100"):
        of = forecast.hours(assumptions.devices[key])
        low, middle, high = of["total"].tolist()
        _, wall_hours, _ = of["wall"].tolist()
        hours = f"{low:,.0f} to {high:,.0f} hours of {key.upper()}, in the middle {middle:,.0f}"
        costs.append(f"{hours}, which are {duration(wall_hours * 3600)} on {gpus}")
    return f"{name}: {'; '.join(costs)}; {size} of disk; out of reach of {here}"
