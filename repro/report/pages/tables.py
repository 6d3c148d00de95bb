"""Tables of page and article: their columns, and their rows from report.json.

Those of README.md and docs/ are in repro/report/tables.py.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import Any

from repro.report.cells import OBJECTIVES
from repro.report.format import (
    amount,
    bounds,
    factor,
    interval,
    label,
    level,
    percent,
    short,
)
from repro.report.measures import BEFORE, BY_NAME, MAIN
from repro.report.pages.table import Column, Table, Words
from repro.report.reading import (
    Document,
    Entry,
    Judged,
    Verdicts,
    base_verdict,
    judged,
    over_seeds,
    secondary,
    setting_words,
    verdicts_of,
)

UNITS = {"fraction": "%", "doublings": "times", "logits": "logits"}
SETTING = Column("Setting", setting_words)
MODEL = Column("Pre-trained with", "pretrain_objective", label)


def share(head: str, value: Any, name: str = "") -> Column:
    """A share in percent."""
    return Column(head, value, percent, name, number=True)


def estimate(found: Entry, unit: str = "fraction", signed: bool = False) -> Words:
    """A mean over seeds with its interval, in the unit of its measure; doublings as a factor."""
    ends = found["interval"]
    if unit == "doublings":
        text = f"{bounds(found)}{factor(found['mean'])} times"
        return Words(text, f"[{', '.join(map(factor, ends))}]" if ends else "")
    text = bounds(found) + amount(found["mean"], unit, signed)
    return Words(text, interval(ends, unit) if ends else "")


difference = partial(estimate, signed=True)
points = partial(amount, unit="fraction", signed=True)
"""A difference of shares."""


def share_estimate(found: Entry) -> Words:
    """An estimate of a share, whose interval ends at 0 and 1."""
    if found["interval"] is None:
        return estimate(found)
    low, high = found["interval"]
    return estimate({**found, "interval": [max(low, 0), min(high, 1)]})


def verdict(text: str) -> Words:
    """A verdict with its colour."""
    return Words(text, tone=base_verdict(text).replace(",", "").split(" ")[0])


def tables(document: Document) -> dict[str, Table]:
    """Every table that the document has rows for, by name."""
    verdicts = verdicts_of(document)
    made = [
        *_verdict_tables(document, verdicts),
        _own_run(document),
        thresholds(document),
        _table1(document),
        _table2(document),
        *(hypotheses(name, rows) for name, rows in document["hypotheses"].items()),
        _scales(document),
        Table("settings", "Settings", SETTINGS, document["settings_table"], SETTINGS_CAPTION),
        *map(_study, document["studies"]),
        Table("claims", "The paper's claims", CLAIMS, document["claims"]),
        _switches(document),
        _of_words(document["conditions"], widths=(0.2, 0.11, 0, 0.12, 0.12, 0.12, 0.12)),
        *(_of_words(of, widths=[0] * len(of["heads"])) for of in document["written"]),
    ]
    return {table.name: table for table in made if table.rows}


def _of_words(of: Entry, widths: Sequence[float]) -> Table:
    """A table whose words stand in report.json."""
    columns = [
        Column(head, partial(_at, place), width=width)
        for place, (head, width) in enumerate(zip(of["heads"], widths, strict=False))
    ]
    return Table(of["name"], of["title"], columns, of["rows"], of["caption"])


def _at(place: int, row: Sequence[str]) -> str:
    return row[place]


def _level(objective: str, of: Judged) -> str:
    """The value of the models of one objective."""
    found = of.cell[objective]
    return bounds(found) + level(found["mean"], of.unit)


def _measure(of: Judged) -> str:
    return f"{of.measure['title']} ({UNITS[of.unit]})"


def _difference(of: Judged) -> Words:
    return estimate(of.cell["difference"], of.unit, signed=True)


def _verdict(of: Judged) -> Words:
    words = verdict(of.cell["verdict"])
    return Words(words.text, "; ".join(of.cell["marks"]), words.tone)


VERDICTS = (
    Column("Measure", _measure, width=0.18),
    Column("Setting", "setting", width=0.17),
    Column("Seeds", "cell.difference.seeds", number=True),
    Column("MMCL", partial(_level, "mmcl"), number=True),
    Column("MMCL + SSL", partial(_level, "mmcl_ssl"), number=True),
    Column("Difference", _difference),
    Column("Verdict", _verdict, width=0.165),
)
STARTS = (
    Column("Setting", "setting"),
    share("Accuracy: MMCL", "cell.start_accuracy.mmcl"),
    share("Accuracy: MMCL + SSL", "cell.start_accuracy.mmcl_ssl"),
    share("ASR: MMCL", "cell.start_asr.mmcl"),
    share("ASR: MMCL + SSL", "cell.start_asr.mmcl_ssl"),
)


def _verdict_tables(document: Document, verdicts: Verdicts | None) -> Iterator[Table]:
    every = document["verdicts"]
    found = verdicts.measures if verdicts else ()
    yield Table("verdicts", "All verdicts", VERDICTS, judged(found))
    yield Table(
        "starts",
        "Models before cleaning",
        STARTS,
        [Judged(of, cell) for of in list(found)[:1] for cell in of["cells"]],
        "Accuracy and attack success rate (ASR) of the models before cleaning, in percent.",
    )
    reasons = [f"{label(of['name']).capitalize()}: {of['why']}." for of in every["secondary"]]
    yield Table(
        "secondary",
        "Secondary comparisons",
        (Column("Comparison", "comparison", label), *VERDICTS),
        [of for of in secondary(document) if of.cell["dataset"]],
        "MMCL + SSL less MMCL, with BatchNorm groups of 32 pairs in MMCL models. "
        + " ".join(reasons),
    )
    larger = [of for of in judged(document["larger"]["measures"]) if of.cell["dataset"]]
    yield Table("larger", "Verdicts at the larger scale", VERDICTS, larger)
    yield Table(
        "controls",
        "Positive controls",
        CONTROLS,
        list(controls(found)),
        "Does CleanCLIP clean the models, at no greater loss than that of the same finetuning of a "
        "model that was never poisoned (its twin)? Shares in percent. What MMCL + SSL models lose "
        "decides nothing.",
    )


def _own_level(value: float, row: Entry) -> str:
    unit = BY_NAME[row["measure"]].unit
    return f"{percent(value)}%" if unit == "fraction" else level(value, unit)


def _of_archive(row: Entry) -> Words:
    low, high = (_own_level(end, row) for end in row["interval"])
    return Words(_own_level(fmean(row["archived"]), row), f"[{low}, {high}]")


OWN = (
    Column("Measure", lambda row: BY_NAME[row["measure"]].title),
    SETTING,
    Column("Pre-trained with", "of", label),
    Column("Your run", lambda row: _own_level(row["value"], row), number=True),
    Column("Archived seeds", _of_archive),
    Column("Your run lies", lambda row: "inside" if row["inside"] else "outside"),
)
OWN_CAPTION = (
    "Your run beside the other seeds of the archive: their mean, and the interval in which one "
    "more seed lies in 95 of 100 cases."
)


def _own_run(document: Document) -> Table:
    rows = [
        row
        for row in document["own_run"]
        if row["of"] in OBJECTIVES and row["measure"] in (*MAIN, *BEFORE)
    ]
    return Table("own", "Your run", OWN, rows, OWN_CAPTION)


def csv(name: str, value: Any) -> Column:
    """A column of a CSV that no page shows."""
    return Column("", value, name=name)


def _place(of: Judged) -> str:
    return "-".join(filter(None, (of.cell["dataset"], of.cell["clean_size"]))) or "pooled"


def _by_seed(of: Judged) -> str:
    by_seed = of.cell["difference"]["by_seed"]
    return "; ".join(f"{seed}: {value:.4g}" for seed, value in by_seed.items())


def _end(place: int, of: Judged) -> float | None:
    ends = of.cell["difference"]["interval"]
    return ends[place] if ends else None


VERDICTS_CSV = (
    csv("comparison", "comparison"),
    csv("fixed", "measure.fixed"),
    csv("measure", "measure.measure"),
    csv("setting", _place),
    csv("comparator", "cell.comparator"),
    csv("unit", "unit"),
    csv("seeds", "cell.difference.seeds"),
    csv("mmcl", "cell.mmcl.mean"),
    csv("mmcl_ssl", "cell.mmcl_ssl.mean"),
    csv("difference", "cell.difference.mean"),
    csv("low", partial(_end, 0)),
    csv("high", partial(_end, 1)),
    csv("at_least", "cell.difference.at_least"),
    csv("at_most", "cell.difference.at_most"),
    csv("p", "cell.p"),
    csv("p_holm", "cell.p_holm"),
    csv("verdict", "cell.verdict"),
    csv("reason", "cell.reason"),
    csv("start_accuracy_mmcl", "cell.start_accuracy.mmcl"),
    csv("start_accuracy_mmcl_ssl", "cell.start_accuracy.mmcl_ssl"),
    csv("start_asr_mmcl", "cell.start_asr.mmcl"),
    csv("start_asr_mmcl_ssl", "cell.start_asr.mmcl_ssl"),
    csv("marks", lambda of: "; ".join(of.cell["marks"])),
    csv("by_seed", _by_seed),
)
"""Of verdicts.csv; `low` and `high` are the 95% interval of the difference."""


def verdict_table(document: Document) -> Table:
    """Every verdict of ours, as verdicts.csv has them."""
    verdicts = document["verdicts"]
    rows = [
        *judged([*(verdicts["confirmed"] or []), *verdicts["exploratory"]]),
        *secondary(document),
        *judged(document["larger"]["measures"], "midi"),
    ]
    return Table("verdicts", "All verdicts", VERDICTS_CSV, rows)


@dataclass(frozen=True)
class Controlled:
    """The positive control of one objective in one setting."""

    setting: str
    model: str
    control: Entry
    decides: bool

    @property
    def cleaned(self) -> str:
        """How many seeds were."""
        return f"{self.control['cleaned']} of {self.control['seeds']}"

    @property
    def holds(self) -> Words:
        """Whether it holds, and why."""
        if not self.decides:
            return Words("decides nothing")
        words = {True: "holds", False: "fails", None: "not known"}[self.control["holds"]]
        return Words(words, self.control["reason"])


CONTROLS = (
    Column("Setting", "setting"),
    Column("Models", "model"),
    Column("Cleaned", "cleaned", number=True),
    Column("Accuracy lost", "control.loss", estimate),
    Column("More than the twin", "control.twin", difference),
    Column("Control", "holds", width=0.27),
)


def controls(measures: Iterable[Entry]) -> Iterator[Controlled]:
    """Of all settings; the controls are those of every measure, and stand with one of them."""
    for measure in measures:
        if measure["measure"] != "lost_at_cap":
            continue
        for cell in measure["cells"]:
            of = Judged(measure, cell)
            yield Controlled(of.setting, label("mmcl"), cell["control"], True)
            if cell["comparator"] == of.first and cell["control_ssl"]["loss"]:
                yield Controlled(of.setting, label("mmcl_ssl"), cell["control_ssl"], False)


def _gain(of: Entry) -> float | None:
    accuracy = of["accuracy"]
    return None if accuracy["mmcl"] is None else accuracy["mmcl_ssl"] - accuracy["mmcl"]


THRESHOLDS = (
    Column("Setting", "setting"),
    Column("ASR at most (%)", "cap", short, number=True),
    Column("Cleaned: MMCL", "cleaned.mmcl", number=True),
    Column("Cleaned: MMCL + SSL", "cleaned.mmcl_ssl", number=True),
    share("Accuracy (%): MMCL", "accuracy.mmcl"),
    share("Accuracy (%): MMCL + SSL", "accuracy.mmcl_ssl"),
    Column("Difference (points)", _gain, points, number=True),
    share("Lost (%): MMCL", "lost.mmcl"),
    share("Lost (%): MMCL + SSL", "lost.mmcl_ssl"),
)


def thresholds(document: Document) -> Table:
    """The best models at several ASR thresholds."""
    rows = [
        {"setting": setting_words(cell), **of}
        for cell in document["resistance"]["cells"]
        for of in cell["thresholds"]
    ]
    return Table(
        "thresholds",
        "Best models by threshold",
        THRESHOLDS,
        rows,
        "The most accurate models by ASR threshold: seeds that are cleaned, then means over the "
        "seeds on which both models are.",
    )


def _own(cell: Entry) -> Words | None:
    """A value of one seed with its interval over images."""
    if cell["reproduced"] is None:
        return Words("not cleaned") if cell.get("evaluations") else None
    ends = interval(cell["ci95"], "fraction") if cell["ci95"] else ""
    return Words(percent(cell["reproduced"]), ends)


def _paper_cleaned(row: Entry) -> str:
    paper = row["clean_accuracy"]["paper"]
    return "not printed" if paper is None else percent(paper)


def _lowest(row: Entry) -> Any:
    """The ASR of the best cleaned model, or the lowest of all where none was cleaned."""
    after = row["clean_accuracy"]
    return after["lowest_asr"] if after["asr"] is None else after["asr"]


TABLE1 = (
    SETTING,
    MODEL,
    share("Before: paper", "original_accuracy.paper"),
    share("Before: authors' files", "original_accuracy.authors_points"),
    Column("Before: over seeds", "over.accuracy", over_seeds, number=True),
    Column("Before: one seed", lambda row: _own(row["original_accuracy"]), number=True),
    Column("Cleaned: paper", _paper_cleaned, number=True),
    share("Cleaned: authors' files", "clean_accuracy.authors_points"),
    Column("Cleaned: over seeds", "over.cleaned_accuracy", over_seeds, number=True),
    Column("Cleaned: one seed", lambda row: _own(row["clean_accuracy"]), number=True),
    share("Its ASR (%)", _lowest),
)
"""Columns of Table 1; one with a `name` stands in table1.csv too."""


def _over(document: Document) -> dict[tuple[str, str, str], Entry]:
    """The measures over the seeds of the archive by dataset, cleaning size and objective."""
    return {
        (row["dataset"], row["clean_size"], row["pretrain_objective"]): row["measures"]
        for study in document["studies"]
        if study["name"] == document["resistance"]["study"]
        for row in study["rows"]
        if row["variant"] == study["reference"] and row["clean_size"]
    }


def _table1(document: Document) -> Table:
    cap, over = short(document["settings"]["asr_cap"]), _over(document)
    keys = ("dataset", "clean_size", "pretrain_objective")
    rows = [
        {**row, "over": over.get(tuple(row[key] for key in keys), {})}
        for row in document["tables"]["table1"]["rows"]
    ]
    seeds = next((len(row["over"]["accuracy"]["values"]) for row in rows if row["over"]), 0)
    caption = (
        f"Table 1. Zero-shot accuracy (%) before cleaning, and the best among evaluations with an "
        f"ASR of at most {cap}% after it. Rows as corrected (errata 1 to 3)."
    )
    if seeds:
        caption += (
            f" Over seeds: mean ± standard deviation over {seeds} archived seeds, or the values of "
            "those that were cleaned."
        )
    if any(row["original_accuracy"]["reproduced"] is not None for row in rows):
        seed = document["settings"]["seeds"][0]
        caption += f" One seed: seed {seed}, with the 95% interval over images."
    return Table("table1", "Table 1", TABLE1, rows, caption).filled()


TABLE2 = (
    Column("Dataset", "dataset", label),
    MODEL,
    share("Accuracy: paper", "accuracy.paper"),
    Column("Accuracy: over seeds", "over.accuracy", over_seeds, number=True),
    Column("Accuracy: one seed", lambda row: _own(row["accuracy"]), number=True),
    share("ASR: paper", "asr.paper"),
    Column("ASR: over seeds", "over.asr", over_seeds, number=True),
    Column("ASR: one seed", lambda row: _own(row["asr"]), number=True),
)


def _table2(document: Document) -> Table:
    # Models before cleaning are the same whatever the number of cleaning pairs.
    over = {(dataset, objective): of for (dataset, _, objective), of in _over(document).items()}
    rows = [
        {**row, "over": over.get((row["dataset"], row["pretrain_objective"]), {})}
        for row in document["tables"]["table2"]["rows"]
    ]
    caption = "Table 2. Accuracy and ASR (%) of the poisoned models before cleaning."
    return Table("table2", "Table 2", TABLE2, rows, caption).filled()


def _p(value: float) -> str:
    return f"{value:.2g}"


def _contrast(row: Entry) -> Words | None:
    if not row["sum"]:
        return None
    words = estimate(row["sum"], row["unit"], signed=True)
    if row["unit"] == "logits":
        words = replace(words, text=f"{words.text} logits")
    if row["unit"] == "fraction" and [*row["contrast"].values()] == [1, -1]:
        # Of which two means it is the difference.
        less = " less ".join(map(percent, row["means"].values()))
        return replace(words, soft=f"{words.soft}, {less}")
    return words


def _hypothesis_verdict(row: Entry) -> Words:
    words = verdict(row["verdict"])
    if row["seeds_needed"]:
        return replace(words, soft=f"{row['seeds_needed']} seeds would tell")
    return words


HYPOTHESES = (
    Column("Hypothesis", "says", width=0.4),
    Column("Expected", "expect", {"above": "higher", "below": "lower"}.__getitem__),
    Column("Contrast", _contrast),
    Column("p", "p", _p, number=True),
    Column("Verdict", _hypothesis_verdict),
)


def hypotheses(study: str, rows: Sequence[Entry]) -> Table:
    """The hypotheses of a study and what its seeds say of them."""
    return Table(
        f"hypotheses-{study}",
        f"Hypotheses of study {study}",
        HYPOTHESES,
        rows,
        "Hypotheses, written down before the first run of the study. Contrasts in points, in "
        "logits of the ASR, or as a factor of the learning rate, with 95% intervals; a bound "
        "counts as a value. p is after Holm's correction. With as many seeds as stand beside an "
        "undecided one, of an equal spread, four in five studies would find the smallest "
        "difference that counts.",
    )


@dataclass(frozen=True)
class Scaled:
    """One model at one scale."""

    scale: Entry
    result: Entry
    first: bool
    """Whether it is the first of its scale, which tells the scale's own numbers."""

    @property
    def name(self) -> Words:
        """The scale and its seeds."""
        seeds = self.scale["seeds"]
        return Words(self.scale["scale"], f"{len(seeds)} seeds" if seeds else "")

    @property
    def own(self) -> Entry:
        """The numbers of the scale, once."""
        if not self.first:
            return {"pairs": "", "poisoned": "", "patch": ""}
        shares = {name: _two(self.scale[name]) for name in ("poisoned", "patch")}
        return {"pairs": f"{self.scale['pairs']:,}", **shares}

    @property
    def lost(self) -> dict[str, str]:
        """Share of the accuracy lost by cleaning size, or a bound of it."""
        return {
            size: ("≥ " if size in self.result["at_least"] else "")
            + percent(self.result["lost"].get(size))
            for size in ("100k", "200k")
        }


def _two(fraction: float | None) -> str:
    return "–" if fraction is None else f"{100 * fraction:.2g}"


SCALES = (
    Column("Scale", "name"),
    Column("Pairs, at most", "own.pairs", number=True),
    Column("Poison (%)", "own.poisoned", number=True),
    Column("Patch (%)", "own.patch", number=True),
    Column("Pre-trained with", "result.pretrain_objective", label),
    share("Accuracy (%)", "result.accuracy"),
    share("ASR (%)", "result.asr"),
    Column("Lost, 100K", "lost.100k", number=True),
    Column("Lost, 200K", "lost.200k", number=True),
)


def _scales(document: Document) -> Table:
    rows = [
        Scaled(scale, result, place == 0)
        for scale in document["scales"]
        for place, result in enumerate(scale["results"])
    ]
    cap = short(document["settings"]["asr_cap"])
    return Table(
        "scales",
        "Scales",
        SCALES,
        rows,
        "Scales of the study, for CC6M. Values are means over seeds, in percent; the patch is a "
        "share of the image. Lost is the accuracy that the "
        f"best model at an ASR of at most {cap}% has lost, as a share of the start's; ≥ marks a "
        "bound, where some seed has no such model.",
    )


SETTINGS = (
    Column("Setting", "setting", width=0.18),
    Column("Paper", "paper", width=0.37),
    Column("Here", "here", width=0.38),
)
SETTINGS_CAPTION = (
    "Settings of the paper and of this profile. Values without a name hold for all models."
)


def measured(found: Entry) -> Words:
    """A measure over seeds: its mean, or what is known of the seeds that have it."""
    if found["mean"] is not None:
        return Words(percent(found["mean"]))
    values = ("none" if value is None else percent(value) for value in found["values"])
    return Words("", " / ".join(values))


def _model(row: Entry) -> Words:
    keys = (row["dataset"], row["clean_size"], row["pretrain_objective"])
    return Words(", ".join(label(of) for of in keys if of), f"({len(row['seeds'])})")


def _best_cleaned(row: Entry) -> Words | None:
    if not row["clean_size"]:
        return None
    found = row["measures"].get("cleaned_accuracy")
    words = measured(found) if found else Words("")
    if not row["not_cleaned"]:
        return words
    cleaned = f"{row['tried'] - row['not_cleaned']} of {row['tried']} cleaned"
    return Words(words.text, f"{words.soft} {cleaned}".strip())


STUDY = (
    Column("Variant", "variant", lambda name: name.replace("_", " ")),
    Column("Model", _model),
    Column("Accuracy", "measures.accuracy", measured, number=True),
    Column("ASR", "measures.asr", measured, number=True),
    Column("Best cleaned", _best_cleaned, number=True),
    Column("ASR left", "measures.asr_left", measured, number=True),
)


def _study(study: Entry) -> Table:
    name = study["name"]
    return Table(f"study-{name}", f"Table of study {name}", STUDY, study["rows"]).filled()


SHOWN = 150
"""Characters of a quoted claim before it is opened."""


def plain(text: str) -> str:
    """Text of the specifications without its marks of code."""
    return text.replace("`", "")


def _claim(row: Entry) -> Words:
    quote = row["quote"]
    expected = f", expected {row['expect']}" if row["expect"] else ""
    more = [f"“{quote}”"] if len(quote) > SHOWN else []
    more.append(
        f"Measure: {row['measured']}{expected} ({plain(row['reason'])}). Refuted if "
        f"{plain(row['refuted_by'])}. Written down: {row['fixed']}."
    )
    more += map(_cell_of_claim, row["evidence"])
    cut = quote if len(quote) <= SHOWN else f"{quote[:SHOWN].rsplit(' ', 1)[0]} …"
    return Words(f"“{cut}”", row["place"], more=tuple(more))


def _cell_of_claim(cell: Entry) -> str:
    model = f", {label(cell['pretrain_objective'])}" if cell["pretrain_objective"] else ""
    note = f"; {cell['note']}" if cell["note"] else ""
    value = ""
    if found := cell["estimate"]:
        seeds = "1 seed" if found["seeds"] == 1 else f"{found['seeds']} seeds"
        value = f", {estimate(found)}%, {seeds}"
    return f"{setting_words(cell)}{model}: {cell['verdict']}{value}{note}"


def _found(row: Entry) -> str | None:
    known = [cell for cell in row["evidence"] if cell["estimate"]]
    return "; ".join(f"{setting_words(of)}: {estimate(of['estimate'])}" for of in known) or None


CLAIMS = (
    Column("Claim", _claim, width=0.6),
    Column("Verdict", "verdict", verdict, width=0.14),
    Column("Found", _found, width=0.2),
)


def _switches(document: Document) -> Table:
    protocol = document["protocol"]
    departs = "authors' code" if protocol == "authors" else "paper's text"

    def used(row: Entry) -> str:
        departure = "" if row["used"] == row[protocol] else f" (departs from the {departs})"
        return f"{row['used']}{departure}"

    columns = (
        Column("Choice", lambda row: Words(row["switch"], row["meaning"]), width=0.46),
        Column("Paper's text", "paper", width=0.15),
        Column("Authors' code", "authors", width=0.15),
        Column("Here", used, width=0.15),
    )
    return Table("switches", "Choices", columns, document["context"]["switches"])


def models_table(models: Sequence[Any], denominator: str) -> Table:
    """The models of a release: file, accuracy, ASR by the `denominator`, and hash."""

    def code(text: str) -> str:
        return f"`{text}`"

    columns = (
        Column("file", "file", code),
        share("accuracy (%)", "counts.accuracy"),
        share("ASR (%)", lambda model: model.counts.asr(denominator)),
        Column("SHA-256", "sha256", code),
    )
    return Table("models", "Models", columns, models)
