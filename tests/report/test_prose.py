"""Written texts: markers, stakes, and what happens where one of them does not hold."""

from pathlib import Path

import pytest

from repro.report.prose import StaleText, answer_of, render
from repro.report.seeds import Estimate

FOUND = Estimate(
    mean=0.525,
    interval=(0.444, 0.606),
    lower=0.45,
    upper=0.59,
    by_seed={1: 0.5, 2: 0.55},
    at_least=True,
    at_most=False,
    seeds=2,
)


def said(folder: Path, text: str, **values: object) -> str:
    (folder / "text.md.j2").write_text(text)
    return render("text.md.j2", values, folder)


def test_a_marker_is_a_value_at_its_place(tmp_path: Path) -> None:
    text = 'It is {{ a | points }}, {{ [0.058, 0.02] | span }}%, {{ "Yes" | if(a is above_zero) }}.'
    assert said(tmp_path, text, a=FOUND) == (
        "It is at least 52.5 points [44.4, 60.6], 2.0 to 5.8%, Yes."
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('One is left.\nMore: {{ "No" | if(a is below_zero) }}.', "the text says 'No'"),
        ("One is left.\nMore: {{ b | points }}.", "'b' is undefined"),
        ("One is left.\nMore: {{ a }}.", "has no filter"),
        ("One is left.\nMore: {{ a | points }", "unexpected"),
    ],
)
def test_what_does_not_hold_is_named_with_its_line(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(StaleText, match=rf"text\.md\.j2:2.*{problem}"):
        said(tmp_path, text, a=FOUND)


def test_a_stake_names_its_sentence(tmp_path: Path) -> None:
    text = 'A. Before that\nthe seeds say {{ "no" | if(false) }}.\n'
    with pytest.raises(StaleText, match="'Before that the seeds say"):
        said(tmp_path, text)


def test_an_answer_is_a_headline_and_questions() -> None:
    text = "**It is\nharder.**\n\n- **Is it?** Yes.\n  By far.\n- **Why?** Not known.\n"
    assert answer_of(text) == (
        "It is harder.",
        [("Is it?", "Yes. By far."), ("Why?", "Not known.")],
    )
    with pytest.raises(StaleText, match="headline"):
        answer_of("It is harder.")
