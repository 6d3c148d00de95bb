"""Generated tables of docs/findings.md, data.md and history.md, from the archives of studies alone.

The archives are in git, so the tables are the same for everybody. The prose around them is by hand.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from repro.markdown import differences, fill
from repro.profile import load_profile
from repro.report import draws as study_of_draws
from repro.report.answer import answer
from repro.report.claims import load_claims
from repro.report.conditions import ELSEWHERE
from repro.report.contrasts import LEVEL
from repro.report.document import plain
from repro.report.format import bounds_in_words, label, percent, rate
from repro.report.judgements import stated_hypotheses
from repro.report.measures import Context, Evaluations, Models, lost_at_cap
from repro.report.pages.table import Column, Table
from repro.report.pages.tables import (
    Controlled,
    conditions,
    controls,
    draws,
    fewer_seeds,
    hypotheses,
    measure_words,
)
from repro.report.points import archived_runs, evaluations
from repro.report.reading import ALL, Entry, setting_words
from repro.report.scales import larger_scale
from repro.report.sentences import EXPLAINING
from repro.report.studies import (
    check_archives,
    read_study_results,
    studied,
    whole_seeds,
)
from repro.report.study_tables import REPLICATES
from repro.report.verdicts import scope_of, verdicts
from repro.spec import Profile

DOCUMENTED = "mini"
"""The profile that the pages are about."""
FINDINGS, DATA, HISTORY = (Path("docs", f"{name}.md") for name in ("findings", "data", "history"))
WITH_MEANS = tuple(name for name in EXPLAINING if name != "mechanism")
"""Studies of whose hypotheses the means are told that they compare."""
BLOCKS = {
    FINDINGS: (
        "answer",
        "conditions",
        "verdicts",
        "axes",
        "twins",
        "mechanism",
        *WITH_MEANS,
        "defences",
        "effects",
        "draws",
        *ELSEWHERE,
    ),
    DATA: ("rounding",),
    HISTORY: ("tries",),
}
FIRST = "first_setting.jsonl.gz"
"""Archive of the cleanings of `mini`'s first setting."""


def write_findings() -> None:
    """Write the generated tables of the pages.

    LedgerError for an archive that is not the committed one.
    """
    check_archives(DOCUMENTED)
    for (path, name), block in blocks().items():
        fill(path, name, block)
        print(f"{path}: {name}")


def stale_findings(profile: str) -> list[str]:
    """Lines of the generated tables that the archives do not give, each with its file and line.

    None for another profile, and where the pages are not there.
    """
    if profile != DOCUMENTED or not all(map(Path.is_file, BLOCKS)):
        return []

    return [
        f"{path}:{line}"
        for (path, name), block in blocks().items()
        for line in differences(path.read_text(encoding="utf-8"), name, block)
    ]


def blocks() -> dict[tuple[Path, str], str]:
    """Markdown by file and name of the block; LedgerError for an archive that cannot be used."""
    claims, profile = load_claims(), load_profile(DOCUMENTED)
    results = read_study_results(DOCUMENTED)
    frame = pd.concat([study.frame for study in results], ignore_index=True)
    by_arm = Evaluations(frame, Context.of(claims, profile))
    judged = verdicts(by_arm, claims, DOCUMENTED, whole_seeds(results), scope_of(profile))
    about = studied(results, by_arm, profile.evaluate.confidence)
    of_draws = study_of_draws.draws(results, by_arm, claims.comparisons.confirmed.get(DOCUMENTED))
    stated = stated_hypotheses(results, by_arm)
    larger = larger_scale(DOCUMENTED, claims)
    found = plain(
        {
            **vars(about),
            "leading": judged.confirmed or judged.exploratory,
            "beside": judged.beside,
            "hypotheses": stated,
            "draws": of_draws,
            "answer": answer(judged, of_draws, by_arm.context.rate, stated, larger),
            "first": list(_first_tries(profile, by_arm.context)),
        }
    )
    made = {
        table.name: "\n\n".join(filter(None, (table.markdown(), table.caption)))
        for table in markdown_tables(found)
        if table.rows
    }
    if said := found["answer"]:
        lines = [
            f"- **{of['question']}** {of['answer'].capitalize()}. {of['says']}"
            for of in said["lines"]
        ]
        made["answer"] = "\n".join([f"**{said['headline']}**", "", *lines]).replace("−", "-")
    if family := about.effects_family:
        made["effects"] = (
            f"Of {family.tested} effects, {family.intervals_beyond_zero} have an "
            f"interval that leaves zero out, where chance alone would make {family.by_chance:.0f} "
            f"do so; {family.decided} have a q value of at most {LEVEL}."
        )
    return {
        (path, name): made[name].replace("<", "&lt;")
        for path, names in BLOCKS.items()
        for name in names
        if name in made
    }


def markdown_tables(found: Mapping[str, Any]) -> list[Table]:
    """The tables of the pages; `found` is plain JSON."""
    return [
        _verdicts(found["leading"]),
        _defences(found["beside"]),
        _axes(found["responses"]),
        Table("twins", "Twins", TWINS, list(_twins(found["leading"]))),
        Table("mechanism", "Mechanism", MECHANISM, found["hypotheses"].get("mechanism", [])),
        *(Table(name, name, MEANS, found["hypotheses"].get(name, [])) for name in WITH_MEANS),
        *(_by_any_measure(name, found["hypotheses"].get(name, [])) for name in ELSEWHERE),
        Table("tries", "Tries", TRIES, [*found["first"], *_tries(found["studies"])]),
        _rounding(found["replicates"]),
        draws(found["draws"]),
        conditions(found["answer"]),
    ]


def digits(of: Entry, unit: str = "fraction") -> str:
    """A difference with one decimal and its interval; of shares in points."""
    scale = 100 if unit == "fraction" else 1
    ends = of["interval"]
    told = f" [{scale * ends[0]:.1f}, {scale * ends[1]:.1f}]" if ends else ""
    return f"{bounds_in_words(of)}{scale * of['mean']:+.1f}{told}"


def _with_ends(value: float, ends: Sequence[float] | None) -> str:
    """A share in percent with its interval."""
    return percent(value) + (f" [{', '.join(map(percent, ends))}]" if ends else "")


def _mean_with_ends(found: Entry) -> str:
    return "–" if found["mean"] is None else _with_ends(found["mean"], found["ci"])


def _measure(of: Entry) -> str:
    unit = "points" if of["unit"] == "fraction" else of["unit"]
    return f"{of['title']} ({unit})"


def _by_setting(measure: Entry) -> dict[str, Entry]:
    """The cells against the first comparator, by setting."""
    first = measure["cells"][0]["comparator"]
    cells = [cell for cell in measure["cells"] if cell["comparator"] == first]
    return {setting_words(cell): cell for cell in filter(None, [*cells, measure["pooled"]])}


def _verdicts(measures: Sequence[Entry]) -> Table:
    """The differences by measure, a column a setting, against the first comparator."""
    by_setting = [_by_setting(measure) for measure in measures]
    seeds = _most_seeds(measures)
    columns = [Column("measure", _measure)]
    for setting in dict.fromkeys(name for cells in by_setting for name in cells):
        weak = any("weak backdoor" in of.get(setting, {"marks": []})["marks"] for of in by_setting)
        head = "mean of the settings" if setting == ALL else setting
        mark = " (weak backdoor)" if weak and setting != ALL else ""
        columns.append(Column(head + mark, partial(_verdict_in, setting, seeds)))
    return Table("verdicts", "Verdicts", columns, measures)


def _most_seeds(measures: Sequence[Entry]) -> int:
    """Seeds of the measure that has the most."""
    return max(
        (cell["difference"]["seeds"] for measure in measures for cell in measure["cells"]),
        default=0,
    )


def _verdict_in(setting: str, seeds: int, measure: Entry) -> str | None:
    cell = _by_setting(measure).get(setting)
    if cell is None:
        return None
    of = cell["difference"]
    return f"{digits(of, measure['unit'])}{fewer_seeds(of, seeds)}: {cell['verdict']}"


def _defences(beside: Sequence[Entry]) -> Table:
    """The differences by measure, a column a comparison within one arm."""
    columns = [Column("measure", _measure)]
    columns += [Column(entry["name"], partial(_within, entry["measures"])) for entry in beside]
    return Table("defences", "Defences", columns, beside[0]["measures"] if beside else [])


def _within(measures: Sequence[Entry], row: Entry) -> str | None:
    seeds = _most_seeds(measures)
    cells = [
        digits(cell["difference"], row["unit"]) + fewer_seeds(cell["difference"], seeds)
        for measure in measures
        if measure["measure"] == row["measure"]
        for cell in measure["cells"]
    ]
    return " ".join(cells) or None


AXES = (
    Column("what varies", "axis"),
    Column("number", "number", rate),
    Column(label("mmcl"), "mmcl", _mean_with_ends),
    Column(label("mmcl_ssl"), "mmcl_ssl", _mean_with_ends),
)


def _axes(responses: Sequence[Entry]) -> Table:
    rows = []
    for entry in responses:
        if not entry["clean_size"]:
            continue
        at: dict[float, dict[str, Any]] = {}
        for objective, points in entry["curves"].items():
            for point in points:
                at.setdefault(point["number"], {})[objective] = point["measures"].get("asr_left")
        for place, number in enumerate(sorted(at)):
            rows.append({"axis": "" if place else entry["axis"], "number": number, **at[number]})
    return Table("axes", "What varies", AXES, rows)


TWINS = (
    Column("model", lambda of: f"{of.setting}, {of.model}"),
    Column("share lost", "control.loss", lambda of: _with_ends(of["mean"], of["interval"])),
    Column("more than its twin", "control.twin", digits),
)


def _twins(measures: Sequence[Entry]) -> Iterator[Controlled]:
    for of in controls(measures):
        if of.control["loss"] and of.control["twin"] and ", groups" not in of.setting:
            yield of


MECHANISM = (
    Column("hypothesis", "says"),
    Column("difference in ASR left (points)", "sum", digits),
    Column("verdict", "verdict"),
)
MEANS = (
    MECHANISM[0],
    Column("ASR left", lambda row: " and ".join(map(percent, row["means"].values()))),
    *MECHANISM[1:],
)


def _by_any_measure(study: str, rows: Sequence[Entry]) -> Table:
    """Hypotheses about several measures, each in the unit of its own."""
    shown = hypotheses(study, rows).only("Hypothesis", "Contrast", "Verdict")
    return replace(shown, name=study, caption="")


TRIES = (
    Column("try", "try"),
    Column("seeds", "seeds"),
    Column("accuracy before", "accuracy"),
    Column("cleaned", "cleaned"),
    Column("accuracy lost", "lost"),
)


def _first_tries(profile: Profile, context: Context) -> Iterator[Entry]:
    """Models of `mini`'s first setting, MMCL on CC6M, cleaned with 200K."""
    runs = archived_runs(REPLICATES / FIRST)
    evaluated = Evaluations(evaluations(runs, profile.switches.asr_denominator), context)
    for arm in dict.fromkeys(evaluated.frame.arm):
        for seed, model in evaluated.models(Models((arm,), "mmcl", "cc6m", "200k")).items():
            lost = lost_at_cap(model)
            yield {
                "try": "the first setting: 12 epochs of pre-training and of cleaning",
                "seeds": str(seed),
                "accuracy": percent(model.start.accuracy),
                "cleaned": f"{int(model.best is not None)} of 1",
                "lost": percent(lost.value if lost else None),
            }


def _tries(studies: Sequence[Entry]) -> Iterator[Entry]:
    for study in studies:
        if study["name"] != "regime":
            continue
        for row in study["rows"]:
            bound = "at least " if row["not_cleaned"] else ""
            yield {
                "try": study["variants"][row["variant"]],
                "seeds": ", ".join(map(str, row["seeds"])),
                "accuracy": _mean_with_ends(row["measures"]["accuracy"]),
                "cleaned": f"{row['tried'] - row['not_cleaned']} of {row['tried']}",
                "lost": bound + _mean_with_ends(row["measures"]["lost"]),
            }


def _rounding(replicates: Sequence[Entry]) -> Table:
    """Standard deviations by measure, a column a model."""
    rows: dict[str, dict[str, Any]] = {}
    for of in replicates:
        keys = ("dataset", "clean_size", "pretrain_objective")
        model = ", ".join(label(of[key]) for key in keys)
        row = rows.setdefault(of["measure"], {"measure": of["measure"]})
        row[model] = f"{percent(of['sd'])} / {percent(of['sd_seeds'])}"
    models = dict.fromkeys(name for row in rows.values() for name in row if name != "measure")
    columns = [Column("measure", "measure", measure_words)]
    columns += [Column(model, model) for model in models]
    return Table("rounding", "Rounding", columns, list(rows.values()))
