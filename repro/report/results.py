"""What a report of a profile says, computed once: tables, figures and texts read it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from repro.profile import load_profile, profile_names
from repro.report import comparisons, statements
from repro.report.claims import Claims, load_claims
from repro.report.comparisons import Scope, UnderCondition, Verdicts, scope_of
from repro.report.evidence import Evidence
from repro.report.measures import Context, Evaluations, measured
from repro.report.points import joined
from repro.report.statements import JudgedClaim, JudgedHypothesis, OwnValue
from repro.report.studies import (
    LARGER,
    StudyResults,
    read_study_results,
    whole_seeds,
)
from repro.spec import Profile


@dataclass(frozen=True)
class Results:
    """The evidence of a report and what follows from it; each part is computed when it is asked
    for first.
    """

    evidence: Evidence
    claims: Claims
    studies: Sequence[StudyResults]
    """Of the profile, those of most seeds first."""
    larger: Sequence[StudyResults]
    """Of the scale LARGER; none in a report of that scale itself."""

    @property
    def profile(self) -> Profile:
        """The profile of the report."""
        return self.evidence.profile

    @property
    def scope(self) -> Scope:
        """Whether the data are the paper's."""
        return scope_of(self.profile)

    @cached_property
    def evaluations(self) -> Evaluations:
        """Rows of all arms: of the own runs (arm "/") and of studies."""
        own = self.evidence.frame
        # Runs of an archive that stand for the profile's own are a study of their own, and those of
        # another profile than the one that is named are of none.
        if self.evidence.archived or self.evidence.departures:
            own = own[:0]
        frames = [study.frame for study in (*self.studies, *self.larger)]
        context = Context.of(self.claims, self.profile)
        return Evaluations(joined(own, *frames), context)

    @cached_property
    def values(self) -> pd.DataFrame:
        """Every measure of every model, as `measured` has them."""
        return measured(self.evaluations)

    @cached_property
    def verdicts(self) -> Verdicts:
        """MMCL + SSL against MMCL."""
        whole = whole_seeds(self.studies)
        return comparisons.verdicts(
            self.values, self.evaluations, self.claims, self.profile.name, whole
        )

    @cached_property
    def of_larger(self) -> list[comparisons.Judged]:
        """Exploratory verdicts at the scale LARGER."""
        arms = self.claims.comparisons.exploratory.get(LARGER)
        if arms is None or not self.larger:
            return []
        context = Context.of(self.claims, load_profile(LARGER))
        frame = joined(*(study.frame for study in self.larger))
        evaluations = Evaluations(frame, context)
        return comparisons.judged_cells(measured(evaluations), evaluations, arms, self.claims.rules)

    @property
    def predicted_of_larger(self) -> str:
        """What the study of these verdicts expected."""
        arms = self.claims.comparisons.exploratory.get(LARGER)
        name = arms.study if arms else ""
        return "".join(of.spec.predicted for of in self.larger if of.name == name)

    @cached_property
    def conditions(self) -> dict[str, UnderCondition]:
        """The difference under each condition; none before the confirmation is whole."""
        if not self.verdicts.confirmed:
            return {}
        listed = self.claims.comparisons.conditions.get(self.profile.name, [])
        whole = {of.name for of in (*self.studies, *self.larger) if not of.seeds_due}
        return comparisons.under_conditions(self.values, listed, self.claims.rules, whole)

    @cached_property
    def hypotheses(self) -> dict[str, list[JudgedHypothesis]]:
        """Those of studies, by the name of the study."""
        studies = [(of.name, of.spec, of.seeds_due) for of in self.studies]
        return statements.stated(studies, self.values, self.claims.rules.weak_start)

    @cached_property
    def judged_claims(self) -> list[JudgedClaim]:
        """The paper's claims."""
        exploratory = self.claims.comparisons.exploratory.get(self.profile.name)
        return statements.judged_claims(
            self.values, self.claims, self.verdicts, self.scope, exploratory
        )

    @cached_property
    def own(self) -> list[OwnValue]:
        """The own run beside the archived seeds."""
        arms = self.verdicts.arms
        return list(statements.own_values(self.evaluations, arms, self.claims.rules))


def results_of(
    evidence: Evidence,
    claims: Claims | None = None,
    studies: Sequence[StudyResults] | None = None,
) -> Results:
    """The results of a profile's own runs and of its studies, by default all that are archived."""
    name = evidence.profile.name
    others = name in profile_names() and name != LARGER
    return Results(
        evidence=evidence,
        claims=claims or load_claims(),
        studies=read_study_results(name) if studies is None else studies,
        larger=read_study_results(LARGER) if others else [],
    )


def archived_results(profile: str) -> Results:
    """The results of the archives of a profile, without own runs."""
    return results_of(Evidence(load_profile(profile)))
