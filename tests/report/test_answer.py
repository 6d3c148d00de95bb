"""The answer in six lines: the same words in all four places, computed from the verdicts."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from repro.profile import load_profile
from repro.report.answer import Answer, answer
from repro.report.claims import Claims, load_claims
from repro.report.contrasts import Verdict, estimate
from repro.report.document import plain
from repro.report.draws import DrawRow, Draws, draws
from repro.report.judgements import JudgedHypothesis, stated_hypotheses
from repro.report.measures import Context, Evaluations, Value
from repro.report.pages.html import jinja_environment
from repro.report.pages.latex import escape
from repro.report.pages.tables import conditions
from repro.report.scales import larger_scale
from repro.report.studies import read_study_results, whole_seeds
from repro.report.verdicts import verdicts
from tests.support.curves import CONTEXT, arm, evaluated


@pytest.fixture(scope="module")
def claims() -> Claims:
    return load_claims()


@pytest.fixture(scope="module")
def archived(claims: Claims) -> Answer:
    names = ("confirm", "draws", "matched", "mechanism", "bench", "reversal", "scenes", "vit")
    studies = [of for of in read_study_results("mini") if of.name.startswith(names)]
    frame = pd.concat([study.frame for study in studies], ignore_index=True)
    evaluations = Evaluations(frame, Context.of(claims, load_profile("mini")))
    judged = verdicts(evaluations, claims, "mini", whole_seeds(studies), "proxy")
    of_draws = draws(studies, evaluations, claims.comparisons.confirmed["mini"])
    found = answer(
        judged,
        of_draws,
        5e-4,
        stated_hypotheses(studies, evaluations),
        larger_scale("mini", claims),
    )
    assert found is not None
    return found


def plain_text(text: str) -> str:
    return re.sub(r"\s+", " ", re.sub("<[^>]+>", "", text.replace("−", "-")))


def test_readme_and_findings_say_what_the_archives_give(archived: Answer, root: Path) -> None:
    for page in ("README.md", "docs/findings.md"):
        text = plain_text((root / page).read_text())
        assert archived.headline in text, page
        for line in archived.lines:
            assert f"**{line.question}** {line.answer.capitalize()}" in text, page
            assert line.says.replace("−", "-") in text, page


@pytest.mark.parametrize("name", ["index.html.j2", "report.tex.j2"])
def test_page_and_article_place_every_line(archived: Answer, root: Path, name: str) -> None:
    """The part of the template that shows the answer, rendered by itself."""
    source = (root / "repro/report/pages/templates" / name).read_text()
    if name == "index.html.j2":
        environment = jinja_environment(autoescape=True)
        head = re.search(r"<p class=.lead.>.*answer.headline.*</p>", source)
        part = re.search(r"<ul class=.answer.>.*?</ul>", source, re.DOTALL)
        assert head
        assert part
        template = head[0] + part[0]
        expected = [line.says for line in archived.lines]
    else:
        environment = jinja_environment(
            finalize=escape,
            block_start_string="<%",
            block_end_string="%>",
            variable_start_string="<<",
            variable_end_string=">>",
        )
        part = re.search(r"<% if answer %>.*?<% else %>", source, re.DOTALL)
        assert part
        template = part[0] + "<% endif %>"
        expected = [escape(line.says) for line in archived.lines]

    text = environment.from_string(template).render(answer=archived)

    text = plain_text(text.replace("&#39;", "'"))
    assert archived.headline in text
    for says in expected:
        assert plain_text(says) in text


def test_the_answer_has_at_most_six_lines_and_ranges_over_all_conditions(archived: Answer) -> None:
    assert len(archived.lines) == 6
    words = {line.question: line.answer for line in archived.lines}
    assert [*words.values()][:3] == ["yes", "yes", "no"]
    harder, cleaned, deployed, defences, *_ = (line.says for line in archived.lines)
    for said in (
        "5.8% on MMCL models: a mean difference of 52.5 points [44.4, 60.6], and 40.0 to 52.8 under",
        "in place of the ResNet, with a weak backdoor, 31.7 at a rate of 0.00025; at the larger",
        "at the larger scale, midi, with a weak backdoor, 26.4 at a rate of 0.00035 (exploratory).",
        "at least 5.1 [3.8, 6.9] times the learning rate, and 1.5 to at least 6.9 under other",
    ):
        assert said in harder
    for said in (
        "30 of 30 cases (10 seeds in 3 settings; those of CC6M clean the same models), and on 5 ",
        "other seeds in 4. They lose 11.1",
        "The mean difference is 8.8 points [5.7, 11.8], and 5.5 to 13.3 under other conditions.",
        "In the 100K settings it is 9.9 (CC3M) and 9.4 (CC6M); in the paper 20 and 46.",
    ):
        assert said in cleaned
    for said in (
        "the difference is −0.1 points [−1.7, 1.5]: neither is ahead",
        "It is otherwise with a vision transformer, which has no BatchNorm, in place of the",
        "at one rate for both CleanCLIP leaves more of the backdoor on MMCL + SSL models.",
    ):
        assert said in deployed
    for said in (
        "46.1 points [31.2, 61.0] when cleaned by CleanCLIP (48.6 and 2.5%) and 0.8 points",
        "when cleaned by PAR (1.1 and 0.4%), at a learning rate of 0.0005 (exploratory;",
        "PAR leaves 40.9 points [24.6, 57.3] more on the MMCL models (learning rate 0.00025",
    ):
        assert said in defences


def test_every_condition_is_told_by_the_same_measures(archived: Answer, root: Path) -> None:
    found = {of.name: of.differences for of in archived.conditions}

    lost = {name: round(100 * of["lost_at_cap"].mean, 1) for name, of in found.items()}
    assert lost["confirmed"] == 8.8
    assert lost["norm_groups_64"] == 7.1
    assert lost["matched"] == 5.7
    assert lost["held_out"] == 13.3
    assert [of.name for of in archived.conditions if of.exploratory] == [
        "midi",
        "cleaned by CleanCLIP",
        "cleaned by PAR",
    ]
    rows = conditions(plain(archived)).markdown()
    for page in ("README.md", "docs/findings.md"):
        assert rows in (root / page).read_text(), page


def test_an_estimate_over_fewer_seeds_than_its_condition_says_so() -> None:
    of = {"mean": 0.1, "interval": [0.0, 0.2], "at_least": False, "at_most": False}
    differences = {"asr_left_at_rate": of | {"seeds": 5}, "lost_at_cap": of | {"seeds": 3}}
    row = {"says": "x", "settings": "y", "seeds": 5, "exploratory": False, "rate": None}
    table = conditions({"conditions": [row | {"differences": differences}]}).markdown()
    assert "| +10.0 [0.0, 20.0] |" in table
    assert "| +10.0 [0.0, 20.0], 3 seeds |" in table


def confirmed(
    claims: Claims,
    outcome: Any,
    of_draws: Draws | None = None,
    hypotheses: Mapping[str, Sequence[JudgedHypothesis]] | None = None,
    further: Sequence[pd.DataFrame] = (),
) -> Answer:
    """The answer if all arms of the confirmation behave like `outcome`; `further` are others."""
    seeds = claims.rules.seeds["mini"]
    arms = claims.comparisons.confirmed["mini"]
    names = sorted({arms.mmcl_ssl, *arms.mmcl.values(), *arms.twins})
    frames = [arm(outcome, seeds, name) for name in names]
    evaluations = evaluated(pd.concat([*frames, *further], ignore_index=True))
    done = {name.split("/")[0]: seeds for name in names}

    judged = verdicts(evaluations, claims, "mini", done, "exact")

    found = answer(judged, of_draws, 5e-4, hypotheses or {}, None)
    assert found is not None
    return found


def of_defences(claims: Claims, *outcomes: Any) -> str:
    """Whether it holds for another defence, if cleaning on five seeds ends like `outcomes`."""
    arms = claims.comparisons.beside["mini"].values()
    frames = [
        arm(outcome, range(25, 30), name, rates=[CONTEXT.rate])
        for name, outcome in zip(arms, outcomes, strict=False)
    ]
    lines = confirmed(claims, lambda *_: (0.4, 0.01), further=frames).lines
    answers = {line.question: line.answer for line in lines}
    return answers.get("Does it hold for another defence?", "")


def test_another_defence_is_told_by_what_its_interval_shows(claims: Claims) -> None:
    def clean(*_: Any) -> tuple[float, float]:
        return 0.4, 0.01

    def more(objective: str, seed: int, rate: float) -> tuple[float, float]:
        return 0.4, 0.01 if objective == "mmcl" else 0.5 + 0.01 * seed

    def between(objective: str, seed: int, rate: float) -> tuple[float, float]:
        return 0.4, 0.5 if objective == "mmcl" else 0.9 * (seed % 2)

    assert of_defences(claims, more, more) == "yes"
    assert of_defences(claims, more, clean) == "not for the one that was tried"
    assert of_defences(claims, more, between) == "undecided"
    assert of_defences(claims, more) == ""


def test_other_data_give_another_answer(claims: Claims) -> None:
    """No rate cleans MMCL + SSL models; and both objectives are alike."""

    def stuck(objective: str, seed: int, rate: float) -> tuple[float, float]:
        between_seeds = 0.001 * seed
        if objective == "mmcl":
            return 0.4, between_seeds
        return 0.1 - between_seeds, 0.9

    worst = confirmed(claims, stuck)
    assert worst.lines[1].answer == "no"
    assert "0 of 30" in worst.lines[1].says
    assert "takes at least" in worst.lines[0].says
    assert "They lose at least" in worst.lines[1].says

    # No rate cleans the models of either objective: the control fails.
    neither = confirmed(claims, lambda *_: (0.4, 0.5))
    assert [line.answer for line in neither.lines[1:3]] == ["no", "undecided"]
    assert "That cleaning them costs more accuracy is not shown." in neither.headline

    alike = confirmed(claims, lambda *_: (0.4, 0.01))
    assert alike.lines[0].answer in ("no", "undecided")
    assert alike.lines[2].answer == "undecided"
    assert "at least" not in alike.lines[0].says
    assert "as the paper says" not in alike.headline
    assert "at one rate for both" not in alike.lines[2].says


def over_draws(complete: int) -> Draws:
    """A study of four draws: 10, 20, 30, 40 points of the ASR, a doubling, 0.1 to 0.4 points."""
    seeds = (1, 2, 3, 4)
    by_measure = {
        "asr_left_at_rate": {seed: Value(0.1 * seed) for seed in seeds},
        "rate_doublings": {seed: Value(1.0, at_least=seed == 1) for seed in seeds},
        "lost_at_cap": {seed: Value(0.001 * seed) for seed in seeds},
    }
    rows = []
    for measure, values in by_measure.items():
        row = DrawRow(
            measure=measure,
            title="",
            unit="",
            dataset="cc6m",
            clean_size="200k",
            draws=complete,
            difference=estimate(values),
            seeds=None,
            ratio=None,
            share=None,
        )
        rows.append(row)
    return Draws(complete, 4, 2, rows)


def told(found: Answer, name: str) -> dict[str, tuple[float, bool]]:
    """Mean and whether it is a lower bound, by measure, under one condition."""
    return {
        measure: (round(of.mean, 6), of.at_least)
        for condition in found.conditions
        if condition.name == name
        for measure, of in condition.differences.items()
    }


def test_a_whole_study_of_draws_is_told_and_an_unfinished_one_is_not(claims: Claims) -> None:
    def of_draws(complete: int) -> Answer:
        return confirmed(claims, lambda *_: (0.4, 0.01), over_draws(complete))

    whole = of_draws(4)
    [condition] = [of for of in whole.conditions if of.name == "draws"]
    assert condition.says == "over 4 other draws of poisons, 2 with another target class"
    assert condition.settings == "CC6M, 200K"
    assert told(whole, "draws") == {
        "asr_left_at_rate": (0.25, False),
        "rate_doublings": (1.0, True),
        "lost_at_cap": (0.0025, False),
    }
    assert "to at least 2.0 under other conditions" in whole.lines[0].says
    assert "Each of the 4 other draws has a seed of its own" in whole.lines[3].says

    part = of_draws(3)
    assert not told(part, "draws")
    assert "other draws" not in part.lines[3].says


def of_scenes(verdict: str) -> list[JudgedHypothesis]:
    sums = {"asr_left_at_rate": 0.3, "rate_doublings": 2.0, "lost_at_cap": 0.1}
    return [
        JudgedHypothesis(
            family="scenes",
            says="",
            setting=("cc6m", "200k"),
            measure=measure,
            contrast={"scenes/mmcl_ssl": 1.0, "scenes/mmcl": -1.0},
            expect="above",
            negligible=0.1,
            means={},
            weak=False,
            sum=estimate({seed: Value(mean) for seed in range(5)}),
            p=0.01,
            verdict=verdict,
            seeds_needed=None,
        )
        for measure, mean in sums.items()
    ]


def test_what_is_left_at_another_rate_is_told_with_it(claims: Claims) -> None:
    """And not among what is left at the rate of the sentence."""
    rows = [
        row.model_copy(update={"rate": 2.5e-4 if row.measure == "asr_left_at_rate" else None})
        for row in of_scenes(Verdict.SUPPORTED)
    ]
    answered = confirmed(claims, lambda *_: (0.4, 0.01), None, {"vit": rows})
    assert told(answered, "vit").keys() == {"asr_left_at_rate", "rate_doublings", "lost_at_cap"}
    (row,) = [of for of in answered.conditions if of.name == "vit"]
    assert row.rate == 2.5e-4
    says = answered.lines[0].says
    assert f"; {row.says}, 30.0 at a rate of 0.00025." in says
    assert "weak" not in row.says
    weak = [row.model_copy(update={"weak": True}) for row in rows]
    answered = confirmed(claims, lambda *_: (0.4, 0.01), None, {"vit": weak})
    assert f"; {row.says}, with a weak backdoor, 30.0 at" in answered.lines[0].says
    same = confirmed(claims, lambda *_: (0.4, 0.01), None, {"scenes": of_scenes("supported")})
    assert "30.0 at a rate of" not in same.lines[0].says


def test_another_task_is_told_when_all_of_its_seeds_are_there(claims: Claims) -> None:
    def of_task(verdict: str) -> dict[str, tuple[float, bool]]:
        hypotheses = {"scenes": of_scenes(verdict)}
        return told(confirmed(claims, lambda *_: (0.4, 0.01), None, hypotheses), "scenes")

    assert of_task(Verdict.SUPPORTED) == {
        "asr_left_at_rate": (0.3, False),
        "rate_doublings": (2.0, False),
        "lost_at_cap": (0.1, False),
    }
    assert not of_task(Verdict.INCOMPLETE)


def test_there_is_no_answer_before_the_confirmation_is_whole(claims: Claims) -> None:
    evaluations = evaluated(arm(lambda *_: (0.4, 0.01), range(3)))
    found = verdicts(evaluations, claims, "mini", {}, "proxy")
    assert answer(found, None, None, {}, None) is None
