"""The tables of docs/icons.md, and whether the page still tells of the committed task."""

from __future__ import annotations

import mmap
import re
import resource
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from repro.data.shards import ShardWriter, write_store
from repro.profile import load_profile
from repro.sources.icons.numbers import (
    SCALES,
    Built,
    licences_table,
    memory_of_all,
    nesting_table,
    package_table,
)
from repro.sources.icons.task import read_task

ROOT = Path(__file__).parents[2]


def test_the_package_table_has_a_row_for_every_reason_that_took_something():
    accounting = {"sources": {"package": {"listed": 1234, "no_words": 1, "turned": 0}}}
    assert package_table(accounting)[2:] == [
        "| package | listed | 1,234 |",
        "| package | no words | 1 |",
    ]


def test_the_table_of_licences_counts_sets_by_scale(tmp_path):
    def built(**licences: int) -> Built:
        return Built(tmp_path, {}, Counter(licences), 0, 0, 0)

    lines = licences_table({"small": built(MIT=1), "large": built(MIT=2, ISC=1)})
    assert lines[2:] == ["| ISC | 0 | 1 |", "| MIT | 1 | 2 |"]


def test_the_nesting_table_counts_rows_that_the_larger_scale_holds(tmp_path):
    """By image and caption: one of the two pairs of `smoke` is not in `mini`."""
    for scale, pairs in (("smoke", "ab"), ("mini", "ac"), ("midi", "acd")):
        for store in ("cc3m", "cc6m", "evaluation"):
            folder = tmp_path / scale / store
            folder.mkdir(parents=True)
            writer = ShardWriter(folder)
            for name in pairs:
                writer.add(name.encode(), "png", name)
            write_store(folder, *writer.close())
    lines = nesting_table({scale: tmp_path / scale for scale in SCALES})
    assert "| smoke in mini | cc6m | 1 of 2 |" in lines
    assert "| mini in midi | evaluation | 2 of 2 |" in lines


def test_the_page_counts_the_images_of_the_committed_task():
    """Whoever changes the task has to write the numbers anew."""
    page = (ROOT / "docs" / "icons.md").read_text(encoding="utf-8")
    row = re.search(r"^\| evaluation images \|(.+)\|$", page, re.MULTILINE)
    assert row is not None
    assert int(row[1].split("|")[-1].replace(",", "")) == sum(
        map(len, read_task(ROOT / "specs").images.values())
    )


def test_the_page_says_that_the_scales_are_nested():
    page = (ROOT / "docs" / "icons.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \w+ in \w+ \| \w+ \| ([\d,]+) of ([\d,]+) \|$", page, re.MULTILINE)
    assert len(rows) == 6
    assert all(shared == all_of_it for shared, all_of_it in rows)


@pytest.mark.parametrize("scale", SCALES)
def test_every_scale_is_a_profile_on_icons(scale):
    assert load_profile(scale, ROOT / "specs").data.source.kind == "icons"


def test_memory_of_a_process_is_sampled_while_it_grows():
    """Four hundred million bytes written for three samples or more; from the system, for an
    allocator may have them at hand from an earlier test.
    """
    with memory_of_all() as samples, mmap.mmap(-1, 400_000_000) as block:
        before = own_bytes()
        np.frombuffer(block, dtype=np.uint8)[:] = 1
        time.sleep(0.5)
    assert max(samples) - before > 100_000_000


def own_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()
