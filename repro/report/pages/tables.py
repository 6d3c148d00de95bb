"""Every table of page, article, README and findings: its columns, and its rows from report.json."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from repro.report.format import (
    amount,
    bounds,
    duration,
    factor,
    interval,
    label,
    level,
    percent,
    rate,
    short,
)
from repro.report.measures import BY_NAME
from repro.report.outcomes import COLUMNS
from repro.report.pages.table import Column, Table, Words
from repro.report.reading import (
    ALL,
    Document,
    Entry,
    Table1Row,
    base_verdict,
    comparator_words,
    over_seeds,
    runs_of,
    setting_words,
    table1,
    verdicts_of,
)

DECIDED_Q = 0.05
"""Largest q value of an effect that is marked."""


def key(name: str) -> Callable[[Entry], Any]:
    """Read a field of a row."""
    return lambda row: row[name]


def _at(*names: str) -> Callable[[Entry], Any]:
    """Read a field of a field of a row."""

    def value(row: Entry) -> Any:
        for name in names:
            row = row[name]
        return row

    return value


def _of_row(name: str) -> Callable[[tuple[Any, Entry]], Any]:
    """Read what a row, which is a key and its values, has under a name."""
    return lambda row: row[1].get(name)


def setting_column(head: str = "Setting") -> Column:
    """Dataset and cleaning size."""
    return Column(head, setting_words)


def model_column(head: str = "Pre-trained with") -> Column:
    """The objective of pre-training."""
    return Column(head, lambda row: label(row["pretrain_objective"]))


def number(head: str, of: Callable[[Any], Any], name: str = "") -> Column:
    """A share in percent."""
    return Column(head, of, percent, name, number=True)


def estimate(found: Entry, unit: str = "fraction", signed: bool = False) -> Words:
    """A mean over seeds with its interval, in the unit of its measure; doublings as a factor."""
    ends = found["interval"]
    if unit == "doublings":
        text = f"{bounds(found)}{factor(found['mean'])} times"
        return Words(text, f"[{', '.join(map(factor, ends))}]" if ends else "")
    text = bounds(found) + amount(found["mean"], unit, signed)
    return Words(text, interval(ends, unit) if ends else "")


def share(found: Entry) -> Words:
    """An estimate of a share, whose interval ends at 0 and 1."""
    if found["interval"] is None:
        return estimate(found)
    low, high = found["interval"]
    return estimate({**found, "interval": [max(low, 0), min(high, 1)]})


def verdict(text: str | None) -> Words:
    """A verdict with its colour."""
    words = text or "not run"
    return Words(words, tone=base_verdict(words).replace(",", "").split(" ")[0])


def tables(document: Document) -> dict[str, Table]:
    """Every table that the document has rows for, by name."""
    made = [
        *_verdict_tables(document),
        _table1(document),
        _table2(document),
        *(_hypotheses(name, rows) for name, rows in document["hypotheses"].items()),
        _bench(document["bench"]),
        *map(_bench_settings, document["bench"]),
        _correlations(document["mechanism"]["correlations"]),
        _scales(document),
        _settings(document["settings_table"]),
        *map(_study, document["studies"]),
        _replicates(document["replicates"]),
        _claims(document),
        _runs(document),
        _switches(document),
        *_draws(document),
    ]
    return {table.name: table for table in made if table.rows}


def verdict_rows(document: Document) -> Iterator[dict[str, Any]]:
    """Every verdict of ours with its difference and 95% interval, as rows of verdicts.csv."""
    verdicts = document["verdicts"]
    groups = {"": [*(verdicts["confirmed"] or []), *verdicts["exploratory"]]}
    groups |= {of["name"]: of["measures"] for of in verdicts["secondary"]}
    groups["midi"] = document["larger"]["measures"]
    for comparison, measures in groups.items():
        for measure in measures:
            for cell in filter(None, [*measure["cells"], measure["pooled"]]):
                yield _verdict_row(comparison, measure, cell)


def _verdict_row(comparison: str, measure: Entry, cell: Entry) -> dict[str, Any]:
    difference = cell["difference"]
    low, high = difference["interval"] or (None, None)
    place = filter(None, (cell["dataset"], cell["clean_size"]))
    return {
        "comparison": comparison,
        "fixed": measure["fixed"],
        "measure": measure["measure"],
        "setting": "-".join(place) or "pooled",
        "comparator": cell["comparator"],
        "unit": measure["unit"],
        "seeds": difference["seeds"],
        "mmcl": cell["mmcl"]["mean"],
        "mmcl_ssl": cell["mmcl_ssl"]["mean"],
        "difference": difference["mean"],
        "low": low,
        "high": high,
        "at_least": difference["at_least"],
        "at_most": difference["at_most"],
        **{name: cell[name] for name in ("p", "p_holm", "verdict", "reason")},
        **{
            f"{start}_{name}": value
            for start in ("start_accuracy", "start_asr")
            for name, value in cell[start].items()
        },
        "marks": "; ".join(cell["marks"]),
        "by_seed": "; ".join(f"{s}: {value:.4g}" for s, value in difference["by_seed"].items()),
    }


@dataclass(frozen=True)
class Judged:
    """A cell of the verdicts with the measure that it is of."""

    measure: Entry
    cell: Entry
    comparison: str = ""

    @property
    def unit(self) -> str:
        """Of the measure."""
        return str(self.measure["unit"])

    def level(self, objective: str) -> str:
        """The value of the models of one objective."""
        found = self.cell[objective]
        return bounds(found) + level(found["mean"], self.unit)


def _judged(measures: Iterable[Entry], comparison: str = "") -> list[Judged]:
    return [
        Judged(measure, cell, comparison)
        for measure in measures
        for cell in filter(None, [*measure["cells"], measure["pooled"]])
    ]


def _of_setting(of: Judged) -> str:
    first = of.measure["cells"][0]["comparator"]
    return setting_words(of.cell) + comparator_words(of.cell, first)


UNITS = {"fraction": "%", "doublings": "times", "logits": "logits"}
VERDICTS = (
    Column("Measure", lambda of: f"{of.measure['title']} ({UNITS[of.unit]})", width=0.21),
    Column("Setting", _of_setting, width=0.19),
    Column("Seeds", lambda of: of.cell["difference"]["seeds"], number=True),
    Column("MMCL", lambda of: of.level("mmcl"), number=True),
    Column("MMCL + SSL", lambda of: of.level("mmcl_ssl"), number=True),
    Column("Difference", lambda of: estimate(of.cell["difference"], of.unit, True), lambda w: w),
    Column(
        "Verdict",
        lambda of: of.cell,
        lambda cell: Words(
            cell["verdict"], "; ".join(cell["marks"]), verdict(cell["verdict"]).tone
        ),
        width=0.2,
    ),
)


def _verdict_tables(document: Document) -> Iterator[Table]:
    verdicts = verdicts_of(document)
    found = verdicts.measures if verdicts else ()
    yield Table("verdicts", "All verdicts", VERDICTS, _judged(found))
    starts = [Judged(of, cell) for of in list(found)[:1] for cell in of["cells"]]
    yield Table(
        "starts",
        "Models before cleaning",
        (
            Column("Setting", _of_setting),
            *(
                number(f"{head}: {label(objective)}", partial(_start, name, objective))
                for name, head in (("start_accuracy", "Accuracy"), ("start_asr", "ASR"))
                for objective in ("mmcl", "mmcl_ssl")
            ),
        ),
        starts,
        "Accuracy and attack success rate (ASR) of the models before cleaning, in percent.",
    )
    secondary = [
        judged
        for entry in document["verdicts"]["secondary"]
        for judged in _judged(entry["measures"], entry["name"])
    ]
    yield Table(
        "secondary",
        "Secondary comparisons",
        (Column("Comparison", lambda of: label(of.comparison)), *VERDICTS),
        [of for of in secondary if of.cell["dataset"]],
        "MMCL + SSL less MMCL, with BatchNorm groups of 32 pairs in MMCL models. "
        + " ".join(
            f"{label(of['name']).capitalize()}: {of['why']}."
            for of in document["verdicts"]["secondary"]
        ),
    )
    larger = [of for of in _judged(document["larger"]["measures"]) if of.cell["dataset"]]
    yield Table("larger", "Verdicts at the larger scale", VERDICTS, larger)
    yield Table(
        "authors",
        "The authors' points",
        VERDICTS[:2] + VERDICTS[3:6],
        [] if verdicts and verdicts.of_authors else _judged(document["verdicts"]["authors"]),
        "The same measures of the authors' published points, which are of one training each.",
    )
    yield Table(
        "controls",
        "Positive controls",
        CONTROLS,
        list(_controls(found)),
        "Does CleanCLIP clean the models, at no greater loss than that of the same finetuning of a "
        "model that was never poisoned (its twin)? Shares in percent. What MMCL + SSL models lose "
        "decides nothing.",
    )


def _start(name: str, objective: str, of: Judged) -> Any:
    return of.cell[name][objective]


@dataclass(frozen=True)
class Controlled:
    """The positive control of one objective in one setting."""

    setting: str
    model: str
    control: Entry
    decides: bool

    @property
    def holds(self) -> Words:
        """Whether it holds, and why."""
        if not self.decides:
            return Words("decides nothing")
        words = {True: "holds", False: "fails", None: "not known"}[self.control["holds"]]
        return Words(words, self.control["reason"])


CONTROLS = (
    Column("Setting", lambda of: of.setting),
    Column("Models", lambda of: of.model),
    Column(
        "Cleaned", lambda of: of.control, lambda c: f"{c['cleaned']} of {c['seeds']}", number=True
    ),
    Column("Accuracy lost", lambda of: of.control["loss"], estimate),
    Column(
        "More than the twin",
        lambda of: of.control["twin"],
        partial(estimate, unit="fraction", signed=True),
    ),
    Column("Control", lambda of: of.holds, lambda words: words, width=0.3),
)


def _controls(measures: Iterable[Entry]) -> Iterator[Controlled]:
    for measure in measures:
        if measure["measure"] == "lost_at_cap":
            first = measure["cells"][0]["comparator"]
            for cell in measure["cells"]:
                name = setting_words(cell) + comparator_words(cell, first)
                yield Controlled(name, label("mmcl"), cell["control"], True)
                if cell["comparator"] == first and cell["control_ssl"]["loss"]:
                    yield Controlled(name, label("mmcl_ssl"), cell["control_ssl"], False)


def _own(cell: Entry) -> Words | None:
    """A value of this run with its interval over images."""
    if cell["reproduced"] is None:
        return Words("not cleaned") if cell.get("evaluations") else None
    ends = interval(cell["ci95"], "fraction") if cell["ci95"] else ""
    return Words(percent(cell["reproduced"]), ends)


def _lowest(row: Table1Row) -> float | None:
    """The ASR of the best cleaned model, or the lowest of all where none was cleaned."""
    asr = row.after["asr"]
    value = row.after["lowest_asr"] if asr is None else asr
    return None if value is None else float(value)


TABLE1 = (
    setting_column(),
    model_column(),
    number("Before: paper", lambda row: row.before["paper"]),
    number("Before: authors' files", lambda row: row.before["authors_points"]),
    Column("Before: over seeds", lambda row: row.over.get("accuracy"), over_seeds, number=True),
    Column("Before: this run", lambda row: _own(row.before), lambda words: words, number=True),
    Column(
        "Cleaned: paper",
        lambda row: row.after,
        lambda after: "not printed" if after["paper"] is None else percent(after["paper"]),
        number=True,
    ),
    number("Cleaned: authors' files", lambda row: row.after["authors_points"]),
    Column(
        "Cleaned: over seeds",
        lambda row: row.over.get("cleaned_accuracy"),
        over_seeds,
        number=True,
    ),
    Column("Cleaned: this run", lambda row: _own(row.after), lambda words: words, number=True),
    number("Its ASR (%)", _lowest),
)
"""Columns of Table 1; one with a `name` stands in table1.csv too."""


def _table1(document: Document) -> Table:
    rows, cap = table1(document), short(document["settings"]["asr_cap"])
    over = next((len(row.over["accuracy"]["values"]) for row in rows if row.over), 0)
    here = any(row.before["reproduced"] is not None for row in rows)
    caption = (
        f"Table 1. Zero-shot accuracy (%) before cleaning, and the best among evaluations with an "
        f"ASR of at most {cap}% after it. Rows as corrected (errata 1 to 3)."
    )
    if over:
        caption += (
            f" Over seeds: mean ± standard deviation over {over} archived seeds, or the values of "
            "those that were cleaned."
        )
    if here:
        seed = document["settings"]["seeds"][0]
        caption += f" This run: seed {seed}, with the 95% interval over images."
    return Table("table1", "Table 1", TABLE1, rows, caption).filled()


def _table2(document: Document) -> Table:
    """Accuracy and ASR before cleaning."""
    over = {(row.dataset, row.pretrain_objective): row.over for row in table1(document)}

    def seeds(measure: str) -> Callable[[Entry], Any]:
        return lambda row: over[row["dataset"], row["pretrain_objective"]].get(measure)

    def here(measure: str) -> Callable[[Entry], Any]:
        return lambda row: _own(row[measure])

    columns = [Column("Dataset", lambda row: label(row["dataset"])), model_column()]
    for measure, head in (("accuracy", "Accuracy"), ("asr", "ASR")):
        columns += [
            number(f"{head}: paper", _at(measure, "paper")),
            Column(f"{head}: over seeds", seeds(measure), over_seeds, number=True),
            Column(f"{head}: this run", here(measure), lambda words: words, number=True),
        ]
    return Table(
        "table2",
        "Table 2",
        columns,
        document["tables"]["table2"]["rows"],
        "Table 2. Accuracy and ASR (%) of the poisoned models before cleaning.",
    ).filled()


def _p(value: float) -> str:
    return f"{value:.2g}"


HYPOTHESES = (
    Column("Hypothesis", key("says"), width=0.4),
    Column("Expected", lambda row: f"{row['expect']} zero"),
    Column(
        "Contrast",
        lambda row: row if row["sum"] else None,
        lambda row: estimate(
            row["sum"], "doublings" if row["measure"] == "rate_doublings" else "fraction", True
        ),
    ),
    Column("p", key("p"), _p, number=True),
    Column("Verdict", key("verdict"), verdict),
)


def _hypotheses(study: str, rows: Sequence[Entry]) -> Table:
    return Table(
        f"hypotheses-{study}",
        f"Hypotheses of study {study}",
        HYPOTHESES,
        rows,
        "Hypotheses, written down before the first run of the study. Contrasts in points, or as a "
        "factor of the learning rate, with 95% intervals; p after Holm's correction.",
    )


def anchor(of: Entry) -> str:
    """Where the page of the bench tells more of a cell."""
    return f"{of['study']}-{of['variant']}-{of['pretrain_objective']}"


def _bench(cells: Sequence[Entry]) -> Table:
    """The ASR left by attack and objective, a column a defence."""
    rows: dict[tuple[str, str], dict[str, Entry]] = {}
    for of in cells:
        rows.setdefault((of["attack"], of["pretrain_objective"]), {})[of["defence"]] = of

    def words(of: Entry) -> Words:
        if not of["took"]:
            return Words("", "the attack did not take")
        left = share(of["left"])
        return Words(left.text, left.soft, href=f"#{anchor(of)}", share=of["left"]["mean"])

    defences = dict.fromkeys(of["defence"] for of in cells)
    columns = [
        Column("Attack", lambda row: row[0][0]),
        Column("Pre-training", lambda row: label(row[0][1])),
        *(Column(name, _of_row(name), words, number=True, without="") for name in defences),
    ]
    return Table("bench", "Attack success rate left", columns, list(rows.items()))


SETTINGS = (
    Column("Learning rate", key("learning_rate"), rate),
    number("Accuracy kept (%)", key("kept")),
    number("ASR at the end (%)", key("asr")),
)


def _bench_settings(of: Entry) -> Table:
    title = f"{of['defence']}, {of['attack']}, {label(of['pretrain_objective'])}"
    return Table(f"bench-{anchor(of)}", title, SETTINGS, of["settings"])


def correlation(value: float) -> str:
    """A rank correlation."""
    return f"{value:.2f}".replace("-", "−")


def _correlations(rows: Sequence[Entry]) -> Table:
    columns = (
        setting_column(),
        Column(
            "Models pre-trained with",
            lambda row: label(row["pretrain_objective"]) if row["pretrain_objective"] else "both",
        ),
        Column("Models", key("models"), number=True),
        Column("SSL loss", key("loss_ssl"), correlation, number=True),
        Column("MMCL loss", key("loss_mmcl"), correlation, number=True),
    )
    return Table("correlations", "Rank correlations", columns, rows)


@dataclass(frozen=True)
class Scaled:
    """One model at one scale."""

    scale: Entry
    result: Entry
    first: bool
    """Whether it is the first of its scale, which tells the scale's own numbers."""

    def told(self, value: Any) -> Any:
        """A number of the scale, once."""
        return value if self.first else ""

    def lost(self, size: str) -> str:
        """Share of the accuracy lost, or a bound of it."""
        value = self.result["lost"].get(size)
        return f"{'≥ ' * (size in self.result['at_least'])}{percent(value)}"


def _two(fraction: float | None) -> str:
    return "–" if fraction is None else f"{100 * fraction:.2g}"


SCALES = (
    Column(
        "Scale",
        lambda of: of.scale,
        lambda scale: Words(scale["scale"], f"{len(scale['seeds'])} seeds" * bool(scale["seeds"])),
    ),
    Column("Pairs", lambda of: of.told(f"{of.scale['pairs']:,}"), number=True),
    Column("Poison (%)", lambda of: of.told(_two(of.scale["poisoned"])), number=True),
    Column("Patch (%)", lambda of: of.told(_two(of.scale["patch"])), number=True),
    Column("Pre-trained with", lambda of: label(of.result["pretrain_objective"])),
    number("Accuracy (%)", lambda of: of.result["accuracy"]),
    number("ASR (%)", lambda of: of.result["asr"]),
    Column("Lost, 100K", lambda of: of.lost("100k"), number=True),
    Column("Lost, 200K", lambda of: of.lost("200k"), number=True),
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


def _settings(rows: Sequence[Entry]) -> Table:
    columns = (
        Column("Setting", key("setting"), width=0.18),
        Column("Paper", key("paper"), width=0.37),
        Column("Here", key("here"), width=0.38),
    )
    return Table(
        "settings",
        "Settings",
        columns,
        rows,
        "Settings of the paper and of this profile. Values without a name hold for all models.",
    )


def measured(found: Entry) -> Words:
    """A measure over seeds: its mean, or what is known of the seeds that have it."""
    if found["mean"] is not None:
        return Words(percent(found["mean"]))
    values = ("none" if value is None else percent(value) for value in found["values"])
    return Words("", " / ".join(values))


def effect(found: Entry) -> Words:
    """An effect in points, with its interval and q value."""
    q = found["q"]
    told = "" if q is None else f" q {_p(q)}" if q >= 0.0001 else " q < 0.0001"
    decided = "decided" if q is not None and q <= DECIDED_Q else ""
    ends = interval(found["ci"], "fraction")
    return Words(amount(found["value"], "fraction", True), f"{ends}{told}", decided)


def _on_attack(row: Entry) -> Any:
    """The effect on the ASR left, or of a row without cleaning on the ASR."""
    found = row["effects"].get("asr_left")
    return found or (None if row["clean_size"] else row["effects"].get("asr"))


def _model(row: Entry) -> Words:
    keys = (row["dataset"], row["clean_size"], row["pretrain_objective"])
    return Words(", ".join(label(of) for of in keys if of), f"({len(row['seeds'])})")


def _cleaned(row: Entry) -> Words:
    found = row["measures"].get("cleaned_accuracy")
    words = measured(found) if found else Words("")
    if not row["not_cleaned"]:
        return words
    cleaned = f"{row['tried'] - row['not_cleaned']} of {row['tried']} cleaned"
    return Words(words.text, f"{words.soft} {cleaned}".strip())


STUDY = (
    Column("Variant", lambda row: row["variant"].replace("_", " ")),
    Column("Model", lambda row: row, _model),
    Column("Accuracy", lambda row: row["measures"].get("accuracy"), measured, number=True),
    Column("ASR", lambda row: row["measures"].get("asr"), measured, number=True),
    Column("Best cleaned", lambda row: row if row["clean_size"] else None, _cleaned, number=True),
    Column("ASR left", lambda row: row["measures"].get("asr_left"), measured, number=True),
    Column("Effect on the ASR left", _on_attack, effect),
    Column(
        "Effect on the best cleaned", lambda row: row["effects"].get("cleaned_accuracy"), effect
    ),
)


def _study(study: Entry) -> Table:
    name = study["name"]
    return Table(f"study-{name}", f"Table of study {name}", STUDY, study["rows"]).filled()


def _measured_words(column: str) -> str:
    return BY_NAME[COLUMNS[column]].words


def _replicates(rows: Sequence[Entry]) -> Table:
    columns = (
        Column("Model", lambda row: f"{setting_words(row)}, {label(row['pretrain_objective'])}"),
        Column("Measure", lambda row: _measured_words(row["measure"])),
        Column("Seeds", lambda row: len(row["seeds"]), number=True),
        number("Between replicates", key("sd")),
        number("Between seeds", key("sd_seeds")),
    )
    return Table("replicates", "Replicates", columns, rows)


def _claims(document: Document) -> Table:
    verdicts = verdicts_of(document)
    authors = bool(verdicts and verdicts.of_authors)
    evidence = "authors_evidence" if authors else "evidence"

    def claim(row: Entry) -> Words:
        quote = row["quote"]
        expected = f", expected {row['expect']}" if row["expect"] else ""
        more = [f"“{quote}”"] if len(quote) > SHOWN else []
        more.append(
            f"Measure: {row['measured']}{expected} ({plain(row['reason'])}). Refuted if "
            f"{plain(row['refuted_by'])}. Written down: {row['fixed']}."
        )
        more += map(_cell_of_claim, row[evidence])
        cut = quote if len(quote) <= SHOWN else f"{quote[:SHOWN].rsplit(' ', 1)[0]} …"
        return Words(f"“{cut}”", row["place"], more=tuple(more))

    columns = (
        Column("Claim", lambda row: row, claim, width=0.6),
        Column("Verdict", key("authors_verdict" if authors else "verdict"), verdict, width=0.14),
        Column(
            "Found",
            lambda row: [cell for cell in row[evidence] if cell["estimate"]] or None,
            lambda cells: "; ".join(
                f"{setting_words(of)}: {estimate(of['estimate'])}" for of in cells
            ),
            width=0.2,
        ),
    )
    return Table("claims", "The paper's claims", columns, document["claims"])


SHOWN = 150
"""Characters of a quoted claim before it is opened."""


def plain(text: str) -> str:
    """Text of the specifications without its marks of code."""
    return text.replace("`", "")


def seeds(count: int) -> str:
    """How many seeds, in words."""
    return "1 seed" if count == 1 else f"{count} seeds"


def _cell_of_claim(cell: Entry) -> str:
    model = f", {label(cell['pretrain_objective'])}" if cell["pretrain_objective"] else ""
    found = cell["estimate"]
    value = f", {estimate(found)}%, {seeds(found['seeds'])}" if found else ""
    note = f"; {cell['note']}" if cell["note"] else ""
    return f"{setting_words(cell)}{model}: {cell['verdict']}{value}{note}"


def run_anchor(folder: str) -> str:
    """Where the page of runs has a run."""
    return "-".join(folder.split("/")[2:])


def _run_link(folder: str) -> Words:
    return Words("/".join(folder.split("/")[2:]), href=f"runs.html#{run_anchor(folder)}")


@dataclass(frozen=True)
class Ran:
    """A run of this report and the evaluation at its end."""

    folder: str
    record: Entry
    end: Entry


def _runs(document: Document) -> Table:
    ends = {
        point["run"]: point for figure in document["figures"].values() for point in figure["points"]
    }
    # A pre-training ends where the cleaning of its model starts.
    for row in document["tables"]["table2"]["rows"]:
        for share_of in ("accuracy", "asr"):
            if run := row[share_of]["run"]:
                ends.setdefault(run, {})
                ends[run] = {**ends[run], share_of: row[share_of]["reproduced"]}
    rows = [
        Ran(folder, record, ends.get(folder, {}))
        for folder, record in runs_of(document)["here"].items()
    ]
    columns = (
        Column("Run", lambda of: of.folder, _run_link),
        number("Accuracy at its end (%)", lambda of: of.end.get("accuracy")),
        number("ASR (%)", lambda of: of.end.get("asr")),
        Column("Status", lambda of: of.record["status"]),
        Column("Started", lambda of: of.record["started"][:16].replace("T", " ")),
        Column("Time", lambda of: of.record["seconds"], duration, number=True),
        Column(
            "Commit",
            lambda of: of.record,
            lambda run: (run["commit"] or "none")[:10] + "+" * bool(run["dirty"]),
        ),
        Column("Fingerprint", lambda of: of.record["fingerprint"]),
    )
    return Table(
        "runs",
        "Runs",
        columns,
        rows,
        "Runs of this report. Archived ones are in archive.csv, with all of their evaluations.",
    )


def _switches(document: Document) -> Table:
    protocol = document["protocol"]
    departs = "authors' code" if protocol == "authors" else "paper's text"

    def used(row: Entry) -> str:
        departure = "" if row["used"] == row[protocol] else f" (departs from the {departs})"
        return f"{row['used']}{departure}"

    columns = (
        Column("Choice", lambda row: Words(row["switch"], row["meaning"]), lambda w: w, width=0.46),
        Column("Paper's text", key("paper"), width=0.15),
        Column("Authors' code", key("authors"), width=0.15),
        Column("Here", lambda row: row, used, width=0.15),
    )
    return Table("switches", "Choices", columns, document["context"]["switches"])


def _draws(document: Document) -> Iterator[Table]:
    """What other draws of poisons, patches and cleaning pairs give; nothing without the study."""
    found = document["draws"]
    columns = (
        Column("Measure", lambda row: f"{row['title']} ({UNITS[row['unit']]})"),
        setting_column(),
        Column("Draws", key("draws"), number=True),
        Column(
            "Over draws",
            lambda row: row,
            lambda row: estimate(row["difference"], row["unit"], True),
        ),
        Column(
            "Over seeds of one draw",
            lambda row: row if row["seeds"] else None,
            lambda row: estimate(row["seeds"], row["unit"], True),
        ),
        Column("Variance over draws by that over seeds", key("ratio"), _ratio),
        Column("The draw's own part of it (%)", key("share"), _draw_share),
    )
    caption = (
        "MMCL + SSL less MMCL, both with BatchNorm groups of 64 pairs, at five learning rates."
    )
    if found and found["complete"] < found["planned"]:
        done = f"{found['complete']} of {found['planned']} draws are there so far"
        caption = f"Incomplete: {done}, so nothing is decided. {caption}"
    yield Table("draws", "Other draws", columns, found["rows"] if found else [], caption)


def _ratio(of: Entry) -> Words:
    low, high = of["interval"]
    return Words(f"{of['value']:.1f}", f"[{low:.1f}, {high:.1f}]")


def _draw_share(of: Entry) -> Words:
    return Words(percent(of["value"]), interval(of["interval"], "fraction"))


def markdown_verdicts(measures: Sequence[Entry]) -> Table:
    """The differences by measure, a column a setting, against the first comparator."""
    first = measures[0]["cells"][0]["comparator"] if measures else ""

    def cells(measure: Entry) -> dict[str, Entry]:
        found = [cell for cell in measure["cells"] if cell["comparator"] == first]
        pooled = measure["pooled"]
        return {setting_words(cell): cell for cell in [*found, *([pooled] if pooled else [])]}

    places = dict.fromkeys(name for measure in measures for name in cells(measure))
    weak = {
        name
        for measure in measures
        for name, cell in cells(measure).items()
        if name != ALL and "weak backdoor" in cell["marks"]
    }
    columns = [
        Column("measure", lambda of: f"{of['title']} ({_unit_words(of['unit'])})"),
        *(
            Column(
                ("mean of the settings" if name == ALL else name)
                + " (weak backdoor)" * (name in weak),
                partial(_cell_of, cells, name),
                lambda pair: (
                    f"{digits(pair[1]['difference'], pair[0]['unit'])}: {pair[1]['verdict']}"
                ),
            )
            for name in places
        ),
    ]
    return Table("verdicts", "Verdicts", columns, measures)


def _cell_of(
    cells: Callable[[Entry], dict[str, Entry]], name: str, measure: Entry
) -> tuple[Entry, Entry] | None:
    found = cells(measure).get(name)
    return None if found is None else (measure, found)


def _digits_and_verdict(pair: tuple[Entry, Entry]) -> str:
    measure, cell = pair
    return f"{digits(cell['difference'], measure['unit'])}: {cell['verdict']}"


def _unit_words(unit: str) -> str:
    return "points" if unit == "fraction" else unit


def digits(of: Entry, unit: str) -> str:
    """A difference with one decimal and its interval; of shares in points."""
    scale = 100 if unit == "fraction" else 1
    bound = "at least " * of["at_least"] + "at most " * of["at_most"]
    ends = of["interval"]
    told = f" [{scale * ends[0]:.1f}, {scale * ends[1]:.1f}]" if ends else ""
    return f"{bound}{scale * of['mean']:+.1f}{told}"


def with_ends(value: float, ends: Sequence[float] | None) -> str:
    """A share in percent with its interval."""
    return percent(value) + (f" [{', '.join(map(percent, ends))}]" if ends else "")


def markdown_tables(found: Mapping[str, Any]) -> dict[str, Table]:
    """The tables of docs/findings.md and docs/mini.md; `found` is plain JSON."""
    made = [
        markdown_verdicts(found["leading"]),
        _defences(found["beside"]),
        _axes(found["responses"]),
        _twins(found["leading"]),
        _mechanism_table(found["hypotheses"].get("mechanism", [])),
        _tries(found["first"], found["studies"]),
        _rounding(found["replicates"]),
        *_draws(found),
    ]
    return {table.name: table for table in made}


def _defences(beside: Sequence[Entry]) -> Table:
    measures = beside[0]["measures"] if beside else []

    def cell(entry: Entry, measure: Entry) -> str | None:
        of = next((m for m in entry["measures"] if m["measure"] == measure["measure"]), None)
        cells = (of or {"cells": []})["cells"]
        return " ".join(digits(c["difference"], measure["unit"]) for c in cells) or None

    columns = [
        Column("measure", lambda of: f"{of['title']} ({_unit_words(of['unit'])})"),
        *(Column(entry["name"], partial(cell, entry)) for entry in beside),
    ]
    return Table("defences", "Defences", columns, measures)


def _axes(responses: Sequence[Entry]) -> Table:
    rows = []
    for entry in (of for of in responses if of["tested"] == "asr_left"):
        at = {
            (curve["pretrain_objective"], point["number"]): point["measures"].get("asr_left")
            for curve in entry["curves"]
            for point in curve["points"]
        }
        for place, of in enumerate(sorted({of for _, of in at})):
            rows.append({"axis": entry["axis"] if place == 0 else "", "number": of, "at": at})

    def value(objective: str) -> Callable[[Entry], Any]:
        return lambda row: row["at"].get((objective, row["number"]))

    columns = (
        Column("what varies", key("axis")),
        Column("number", key("number"), rate),
        *(
            Column(label(objective), value(objective), _mean_with_ends)
            for objective in ("mmcl", "mmcl_ssl")
        ),
    )
    return Table("axes", "What varies", columns, rows)


def _mean_with_ends(found: Entry) -> str:
    return "–" if found["mean"] is None else with_ends(found["mean"], found["ci"])


def _twins(measures: Sequence[Entry]) -> Table:
    rows = [
        of
        for of in _controls(measures)
        if of.control["loss"] and of.control["twin"] and ", groups" not in of.setting
    ]
    columns = (
        Column("model", lambda of: f"{of.setting}, {of.model}"),
        Column(
            "share lost",
            lambda of: with_ends(of.control["loss"]["mean"], of.control["loss"]["interval"]),
        ),
        Column("more than its twin", lambda of: digits(of.control["twin"], "fraction")),
    )
    return Table("twins", "Twins", columns, rows)


def _mechanism_table(rows: Sequence[Entry]) -> Table:
    columns = (
        Column("hypothesis", key("says")),
        Column("difference in ASR left (points)", key("sum"), lambda of: digits(of, "fraction")),
        Column("verdict", key("verdict")),
    )
    return Table("mechanism", "Mechanism", columns, rows)


def _tries(first: Sequence[Entry], studies: Sequence[Entry]) -> Table:
    rows = [
        {
            "try": "the first setting: 12 epochs of pre-training and of cleaning",
            "seeds": str(of["seed"]),
            "accuracy": percent(of["accuracy"]),
            "cleaned": f"{int(of['cleaned'])} of 1",
            "lost": percent(of["lost"]),
        }
        for of in first
    ]
    rows += [
        {
            "try": study["variants"][row["variant"]],
            "seeds": ", ".join(map(str, row["seeds"])),
            "accuracy": _mean_with_ends(row["measures"]["accuracy"]),
            "cleaned": f"{row['tried'] - row['not_cleaned']} of {row['tried']}",
            "lost": "at least " * bool(row["not_cleaned"])
            + _mean_with_ends(row["measures"]["lost"]),
        }
        for study in studies
        if study["name"] == "regime"
        for row in study["rows"]
    ]
    columns = (
        Column("try", key("try")),
        Column("seeds", key("seeds")),
        Column("accuracy before", key("accuracy")),
        Column("cleaned", key("cleaned")),
        Column("accuracy lost", key("lost")),
    )
    return Table("tries", "Tries", columns, rows)


def _rounding(replicates: Sequence[Entry]) -> Table:
    rows: dict[str, dict[str, Entry]] = {}
    for of in replicates:
        model = (
            f"{label(of['dataset'])}, {label(of['clean_size'])}, {label(of['pretrain_objective'])}"
        )
        rows.setdefault(of["measure"], {})[model] = of
    models = dict.fromkeys(name for row in rows.values() for name in row)
    columns = [
        Column("measure", lambda row: _measured_words(row[0])),
        *(
            Column(
                name,
                _of_row(name),
                lambda of: f"{percent(of['sd'])} / {percent(of['sd_seeds'])}",
            )
            for name in models
        ),
    ]
    return Table("rounding", "Rounding", columns, list(rows.items()))


def readme_table(document: Document, measures: Sequence[str]) -> Table:
    """The verdicts by some measures, against the first comparator."""
    verdicts = verdicts_of(document)
    found = verdicts.measures if verdicts else []
    several = len(verdicts.seeds) if verdicts else 0
    rows = [
        of
        for of in _judged(measure for measure in found if measure["measure"] in measures)
        if of.cell["dataset"] and of.cell["comparator"] == of.measure["cells"][0]["comparator"]
    ]

    def name(of: Judged) -> str:
        count = of.cell["difference"]["seeds"]
        fewer = f"; {count} seeds" if count < several else ""
        return f"{of.measure['title']}; {setting_words(of.cell)}{fewer}"

    columns = (
        Column("measure and setting", name),
        *VERDICTS[3:5],
        Column(
            "difference, verdict",
            lambda of: (
                f"{estimate(of.cell['difference'], of.unit, True)}, "
                + "; ".join([of.cell["verdict"], *of.cell["marks"]])
            ),
        ),
    )
    return Table("readme", "Verdicts", columns, rows)
