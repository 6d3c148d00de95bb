"""Written texts with markers: a marker is a value at its place.

A text is a Jinja template, `docs/written/*.md.j2`. A marker names a value and how it is told:

    {{ conditions.vit.accuracy_at_cap | points }}             -3.5 [-5.1, -1.9]
    {{ mean("par/noise_view/mmcl_ssl", "asr_left_at_rate", rate=2.5e-4) | percent }}    12.5

A *stake* is a word that holds only while the seeds say so. Where they do not, nothing is written,
and the error has file, line and sentence:

    {{ "Yes" | if(supported("asr_left_at_rate")) }}

`names_of` says which names there are, and FILTERS how values are told. A name without a value, a
table that is not there and models that were not run are errors of the same kind.
"""

import re
import textwrap
import traceback
from collections.abc import Callable, Iterable, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from repro.markdown import filled
from repro.report import tables
from repro.report.cells import CLEANCLIP
from repro.report.comparisons import Judged, Setting, first, in_all_settings
from repro.report.format import BOUNDS, factor, percent, rate
from repro.report.measures import BY_NAME, Models, at_rate
from repro.report.results import Results, archived_results
from repro.report.seeds import SUPPORTING, Estimate, Term, contrast, estimate, seeds_of
from repro.spec import SpecError

DOCUMENTED = "mini"
"""The profile that the texts are about."""
WRITTEN = Path("docs/written")
PAGES = {"findings.md.j2": Path("docs/findings.md")}
"""Texts that are a whole page."""
BLOCKS = {
    "results.md.j2": (Path("README.md"), "results"),
    "numbers.md.j2": (Path("README.md"), "numbers"),
}
"""Texts that stand between the marks of a page."""
TABLES = {
    "views.md.j2": "Augmentation of pre-training by augmentation of cleaning",
    "remedies.md.j2": "Other ways to clean the same models",
}
"""Texts that are a table with its caption, with their titles; findings and pages show them."""


class StaleText(SpecError):
    """A text says what the seeds do not, or names what is not there."""


def holds(word: str, so: object) -> str:
    """The word, which stands only where the verdict is so."""
    if not so:
        raise StaleText(f"the text says {word!r}, and the seeds do not")
    return word


def share(value: Estimate | float) -> str:
    """A share in percent, of an estimate the mean, without the sign of percent."""
    if isinstance(value, Estimate):
        return bound(value) + plain(percent(value.mean))
    return plain(percent(value))


def points(found: Estimate) -> str:
    """A difference of shares in points with its interval: "52.5 points [44.4, 60.6]"."""
    return f"{share(found)} points{ends(found, percent)}"


def interval(found: Estimate) -> str:
    """A share in percent with its interval, which ends at 0 and 1: "26.3 [12.6, 40.0]"."""

    def cut(value: float) -> str:
        return percent(min(max(value, 0.0), 1.0))

    return share(found) + ends(found, cut)


def times(found: Estimate) -> str:
    """A difference in doublings as a factor with its interval: "5.1 [3.8, 6.9]"."""
    return f"{bound(found)}{factor(found.mean)}{ends(found, factor)}"


def logits(found: Estimate) -> str:
    """A difference in logits with its interval: "2.08 logits [0.03, 4.13]"."""
    return f"{number(found, 2)} logits{ends(found, '{:.2f}'.format)}"


def once(found: Estimate) -> str:
    """The factor of a difference in doublings alone: "5.1"."""
    return bound(found) + factor(found.mean)


def number(value: Estimate | float, digits: int = 1) -> str:
    """A value in its own unit."""
    known = value.mean if isinstance(value, Estimate) else value
    return f"{round(known, digits) + 0:.{digits}f}"


def span(values: Iterable[Estimate | float], words: Callable[[Any], str] = share) -> str:
    """The least and the most: "2.0 to 5.8"."""
    known = sorted(values, key=lambda of: of.mean if isinstance(of, Estimate) else of)
    return f"{words(known[0])} to {words(known[-1])}"


def span_of_times(values: Iterable[Estimate]) -> str:
    """The least and the most of differences in doublings, as factors."""
    return span(values, once)


def deviation(found: Estimate) -> str:
    """The standard deviation over seeds of a share, in points."""
    return share(float(tables.deviation(found)))


def bound(found: Estimate) -> str:
    """The words before a mean of which some values are bounds."""
    return BOUNDS[found.at_least, found.at_most][1]


def ends(found: Estimate, words: Callable[[float], str]) -> str:
    """The interval, behind a space; nothing for too few seeds."""
    if found.interval is None:
        return ""
    return plain(f" [{', '.join(map(words, found.interval))}]")


def paragraphs(text: str) -> str:
    """A text with lines of README's width; items keep their indent."""

    def wrapped(part: str) -> str:
        indent = "  " if part.startswith("- ") else ""
        return textwrap.fill(
            " ".join(part.split()), 110, break_on_hyphens=False, subsequent_indent=indent
        )

    parts = re.split(r"\n\n|\n(?=- )", text.strip())
    first, *items = map(wrapped, parts)
    # The line break after the filter's end is the template's, and is not written.
    return "\n\n".join([first, "\n".join(items)]) + "\n"


def plain(text: str) -> str:
    """Signs that are in ASCII, as Markdown is read in terminals too."""
    return text.translate(str.maketrans("–−", "--"))


FILTERS: dict[str, Callable[..., str]] = {
    "if": holds,
    "percent": share,
    "points": points,
    "interval": interval,
    "times": times,
    "logits": logits,
    "once": once,
    "number": number,
    "rate": rate,
    "span": span,
    "span_of_times": span_of_times,
    "deviation": deviation,
    "paragraphs": paragraphs,
}


class Named:
    """The functions that a text may call."""

    def __init__(self, results: Results) -> None:
        self.results = results
        self.tables = tables.written(results)

    def table(self, name: str) -> str:
        """A table in Markdown with its caption below."""
        if name not in self.tables:
            raise StaleText(f"table {name!r} (allowed: {', '.join(self.tables)})")
        return self.tables[name].markdown()

    def mean(
        self, model: str, measure: str, setting: str = "", rate: float | None = None
    ) -> Estimate:
        """A measure of some models over seeds: `model` is `<study>/<variant>/<objective>`."""
        return self._estimate({model: 1.0}, measure, setting, rate)

    def less(
        self, model: str, other: str, measure: str, setting: str = "", rate: float | None = None
    ) -> Estimate:
        """A measure of some models less that of others of the same seeds."""
        return self._estimate({model: 1.0, other: -1.0}, measure, setting, rate)

    def _estimate(
        self, weights: Mapping[str, float], measure: str, setting: str, rate: float | None
    ) -> Estimate:
        if measure not in BY_NAME:
            raise StaleText(f"measure {measure!r} (allowed: {', '.join(BY_NAME)})")
        name = measure if rate is None else at_rate(rate)
        place = self._setting(next(iter(weights)), setting)
        terms = {}
        for model, weight in weights.items():
            arm, _, objective = model.rpartition("/")
            terms[model] = Term(Models((arm,), objective, *place, CLEANCLIP), weight)  # type: ignore[arg-type]
        found = seeds_of(contrast(self.results.values, terms), name)
        if found.empty:
            of = " less ".join(weights)
            raise StaleText(f"{of}: no seed has {name} in {place.dataset}, {place.clean_size}")
        return estimate(found)

    def _setting(self, model: str, setting: str) -> Setting:
        """The setting that is named, or the only one in which the models are cleaned."""
        arm, _, objective = model.rpartition("/")
        known = self.results.values.index.to_frame(index=False)
        of_model = known[
            (known.arm == arm) & (known.pretrain_objective == objective) & (known.clean_size != "")
        ]
        places = of_model[["dataset", "clean_size"]].drop_duplicates()
        allowed = [Setting(*place) for place in places.itertuples(index=False, name=None)]
        chosen = [place for place in allowed if setting in ("", ", ".join(place))]
        if len(chosen) != 1:
            listed = "; ".join(", ".join(place) for place in allowed) or "no such models"
            raise StaleText(f"{model}: setting {setting!r} (allowed: {listed})")
        return chosen[0]

    def supported(self, *measures: str) -> bool:
        """Whether MMCL + SSL models are higher by these measures over all settings, by what counts:
        the pooled verdict supports it, and is not negligible.
        """
        return all(
            word.startswith(("supported", "MMCL + SSL higher")) and "negligible" not in word
            for word in map(self.verdict, measures)
        )

    def verdict(self, measure: str, setting: str = "") -> str:
        """The verdict by a measure in a setting, or over all of them."""
        return self._cell(measure, setting).verdict

    def difference(
        self, measure: str, setting: str = "", objective: str = "difference"
    ) -> Estimate:
        """The difference by a measure against the first comparator, or the mean of the models of
        one objective.
        """
        found: Estimate = getattr(self._cell(measure, setting), objective)
        return found

    def _cell(self, measure: str, setting: str) -> Judged:
        leading = self.results.verdicts.leading
        if setting:
            cells = {", ".join(of.of.setting or ()): of for of in first(leading, measure)}
            if setting in cells:
                return cells[setting]
        elif cell := in_all_settings(leading, measure):
            return cell
        raise StaleText(f"no verdict by {measure!r} in {setting or 'all settings'}")

    def by_setting(self, measure: str, objective: str = "difference") -> list[Estimate]:
        """A measure in every setting against the first comparator: of the models of one objective,
        or their difference.
        """
        return [getattr(of, objective) for of in first(self.results.verdicts.leading, measure)]

    def starts(self, measure: str, objective: str = "") -> list[float]:
        """Mean accuracy (`accuracy`) or ASR (`asr`) before cleaning, by setting; of the models of
        both objectives where none is named.
        """
        cells = first(self.results.verdicts.leading, "asr_left_at_rate")
        every = [getattr(of.of, f"start_{measure}") for of in cells]
        return [value for of in every for name, value in of.items() if objective in ("", name)]

    def cleaned(self, objective: str = "mmcl_ssl") -> tuple[int, int]:
        """In how many cases some learning rate cleans the models, and of how many."""
        cells = first(self.results.verdicts.leading, "lost_at_cap")
        controls = [of.of.controls[objective] for of in cells]  # type: ignore[index]
        return sum(of.cleaned for of in controls), sum(of.seeds for of in controls)

    def ahead(self, measure: str) -> tuple[int, int]:
        """In how many pairs of equal seed and setting the MMCL + SSL model is higher, and of how
        many.
        """
        cells = first(self.results.verdicts.leading, measure)
        signs = [value > 0 for of in cells for value in of.difference.by_seed.values()]
        return sum(signs), len(signs)

    def others(self, measure: str, *but: str) -> list[Estimate]:
        """The difference by a measure under all conditions of CleanCLIP but some."""
        return [
            of.differences[measure]
            for name, of in self.results.conditions.items()
            if name not in but and not of.condition.defence and measure in of.differences
        ]

    def hypothesis(self, study: str, place: int) -> Any:
        """A hypothesis of a study by its place in the file, from 1, or -1 for the last: `sum`,
        `means`, `verdict`.
        """
        known = self.results.hypotheses.get(study, [])
        if not 1 <= place <= len(known) and not (place == -1 and known):
            raise StaleText(f"hypothesis {study!r} {place} (allowed: 1 to {len(known)}, -1)")
        return known[place - 1 if place > 0 else place]

    def family(self, study: str, name: str) -> list[str]:
        """The different verdicts on the hypotheses of a family."""
        known = self.results.hypotheses.get(study, [])
        found = {of.verdict for of in known if of.hypothesis.family == name}
        if not found:
            allowed = ", ".join(sorted({of.hypothesis.family for of in known})) or "none"
            raise StaleText(f"family {name!r} of {study} (allowed: {allowed})")
        return sorted(found)


def negligible(found: Estimate, least: float) -> bool:
    """Whether a difference is surely smaller than what counts."""
    return found.limits is not None and -least < found.limits[0] and found.limits[1] < least


def below_zero(found: Estimate) -> bool:
    """Whether a difference is surely below zero."""
    return found.limits is not None and found.limits[1] < 0


def above_zero(found: Estimate) -> bool:
    """Whether a difference is surely above zero."""
    return found.limits is not None and found.limits[0] > 0


def names_of(results: Results) -> dict[str, Any]:
    """Everything that a text may name."""
    named = Named(results)
    functions = ("table", "mean", "less", "supported", "verdict", "difference", "by_setting")
    more = ("starts", "cleaned", "ahead", "others", "hypothesis", "family")
    return {
        **{name: getattr(named, name) for name in (*functions, *more)},
        "conditions": {name: of.differences for name, of in results.conditions.items()},
        "rules": results.claims.rules,
        "rate": f"{results.evaluations.context.rate:g}",
        "seeds": len(results.verdicts.seeds),
    }


def environment(folder: Path = WRITTEN) -> jinja2.Environment:
    """Where texts are found, and how their values are told; a text is Markdown."""
    made = jinja2.Environment(  # noqa: S701 (Markdown; what pages show of it they escape)
        loader=jinja2.FileSystemLoader(folder),
        # A misspelt name is an error and not an empty place.
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_value,
    )
    made.filters |= FILTERS
    made.tests |= {
        "negligible": negligible,
        "below_zero": below_zero,
        "above_zero": above_zero,
        "in_favour": SUPPORTING.__contains__,
    }
    return made


def _value(value: Any) -> Any:
    """A marker gives words: an estimate that no filter has told is a mistake of the text."""
    if isinstance(value, jinja2.Undefined | str | int):
        return value
    raise StaleText(f"{value!r} has no filter (allowed: {', '.join(FILTERS)})")


def render(name: str, values: Mapping[str, Any], folder: Path = WRITTEN) -> str:
    """The text of a template; StaleText with file, line and sentence where it does not hold."""
    try:
        return environment(folder).get_template(name).render(values)
    except (SpecError, jinja2.TemplateError) as error:
        raise StaleText(f"{_place(error, folder / name)}: {error}") from None


def _place(error: Exception, path: Path) -> str:
    """The innermost place in a text that an error comes from, with its sentence."""
    if isinstance(error, jinja2.TemplateNotFound):
        return path.as_posix()
    if isinstance(error, jinja2.TemplateSyntaxError):
        return f"{error.filename or path}:{error.lineno}"
    frames = [of for of in traceback.extract_tb(error.__traceback__) if of.filename.endswith(".j2")]
    if not frames:
        return path.as_posix()
    last = frames[-1]
    lines = Path(last.filename).read_text(encoding="utf-8").splitlines()
    return f"{last.filename}:{last.lineno}: {_sentence(lines, (last.lineno or 1) - 1)!r}"


def _sentence(lines: list[str], place: int) -> str:
    """The paragraph's part around a line, from one full stop to the next."""
    begin = max((at + 1 for at in range(place) if not lines[at].strip()), default=0)
    before = " ".join(lines[begin:place])
    started = re.split(r"(?<=[.:?]) ", before)[-1] if before else ""
    return f"{started} {lines[place].strip()}".strip()


ITEM = re.compile(r"(?:-|\d+\.) \*\*(?P<question>.+?)\*\* (?P<says>.+)")


def answer_of(text: str) -> tuple[str, list[tuple[str, str]]]:
    """The headline of an answer, and its questions with what is said of each, as plain text.

    Pages and article show them escaped for their medium. StaleText for a text of another form.
    """
    headline, *items = (
        " ".join(part.split()) for part in re.split(r"\n\n|\n(?=- |\d+\. )", text.strip())
    )
    found = [ITEM.fullmatch(item) for item in items]
    if not (headline.startswith("**") and headline.endswith("**") and found and all(found)):
        raise StaleText(
            f"{WRITTEN / 'answer.md.j2'}: a headline `**...**` and items "
            "`- **Question?** Word. Sentences.` are allowed"
        )
    return headline.strip("*"), [(of["question"], of["says"]) for of in found if of]


def answer(results: Results) -> tuple[str, list[tuple[str, str]]] | None:
    """What is said first, as `answer_of` has it; None before the confirmation is whole."""
    if not results.conditions:
        return None
    return answer_of(render("answer.md.j2", names_of(results)))


def written_tables(results: Results) -> list[tables.Table]:
    """TABLES; none before the confirmation is whole."""
    if not results.conditions:
        return []
    values = names_of(results)
    return [table_of(name, title, render(name, values)) for name, title in TABLES.items()]


def table_of(name: str, title: str, text: str) -> tables.Table:
    """A table in Markdown with its caption below, as other tables are."""
    table, _, caption = text.strip().partition("\n\n")
    heads, _, *rows = [line.strip("| ").split(" | ") for line in table.splitlines()]
    words = pd.DataFrame(rows, columns=heads)
    return tables.Table(name.partition(".")[0], title, words, " ".join(caption.split()))


def stale(profile: str) -> list[str]:
    """A line for each page of docs/written that the archives do not give; none for another profile
    than DOCUMENTED, and where the pages are not there.
    """
    paths = [*PAGES.values(), *(path for path, _ in BLOCKS.values())]
    if profile != DOCUMENTED or not all(path.is_file() for path in paths):
        return []

    try:
        return differences(written(archived_results(profile)))
    except StaleText as error:
        return [str(error)]


def differences(pages: Mapping[Path, str]) -> list[str]:
    """A line for each page whose file says something else: its first line that does."""
    lines = []
    for path, text in pages.items():
        here = path.read_text(encoding="utf-8").splitlines()
        for number, (shown, expected) in enumerate(zip_longest(here, text.splitlines()), start=1):
            if shown != expected:
                lines.append(f"{path}:{number}: {shown!r} on the page, {expected!r} expected")
                break
    return lines


def written(results: Results) -> dict[Path, str]:
    """The content of every page with a text of its own or a block of one, by path; StaleText before
    anything is written where one of them does not hold.
    """
    values = names_of(results)
    pages = {path: render(name, values) for name, path in PAGES.items()}
    for name, (path, block) in BLOCKS.items():
        text = pages.get(path) or path.read_text(encoding="utf-8")
        pages[path] = filled(path, text, block, render(name, values))
    return pages
