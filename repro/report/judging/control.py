"""The positive control of a claim: which claims need one, and what it says in words.

That CleanCLIP fails on an MMCL + SSL model tells something only where CleanCLIP works at all: where
it cleans the poisoned MMCL model of the same dataset, with as many pairs, at hardly any loss.
"""

from __future__ import annotations

from repro.report.judging.claims import ABOUT_BOTH, ABOUT_START, Claim
from repro.report.numbers.cells import CLEANCLIP
from repro.report.schema.judged import Untested
from repro.report.schema.results import PositiveControl
from repro.spec import Objective


def needs_control(claim: Claim, objective: Objective) -> bool:
    """Whether a claim says something of CleanCLIP on an MMCL + SSL model; `objective`: its cell's.

    A claim about MMCL models alone is what the control itself asks.
    """
    of_cleanclip = claim.loss == CLEANCLIP and claim.metric not in ABOUT_START
    return of_cleanclip and (claim.metric in ABOUT_BOTH or objective == "mmcl_ssl")


def without_control(control: PositiveControl | None) -> Untested | None:
    """The verdict where the control does not hold; None where it does."""
    if control is None:
        return "not tested: control not run"
    return None if control["holds"] else "not tested: control failed"


def control_words(control: PositiveControl | None) -> str:
    """What came of the control, with its loss and ASR in percent."""
    if control is None:
        return "not run"
    said = "holds" if control["holds"] else "fails"
    lost, asr = f"{100 * control['loss']:.1f}%", f"{100 * control['asr']:.1f}%"

    # One seed is its own mean.
    seeds = control["seeds"]
    mean = f", mean of {seeds} seeds" if seeds > 1 else ""
    if control["cleaned"] == 0:
        return f"{said}: no learning rate reaches the cap, lowest ASR {asr}{mean}"
    if control["cleaned"] < seeds:
        mean = f", mean of {seeds} seeds, {control['cleaned']} of them cleaned"

    # Whatever cleaning did to a model without a backdoor, there was none to remove.
    poisoned = f" from a start ASR of {100 * control['start_asr']:.1f}%"
    return f"{said}: {lost} of the accuracy lost at ASR {asr}{poisoned}{mean}"
