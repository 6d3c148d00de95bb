"""The files of a tar archive that somebody else made, none of them trusted."""

from __future__ import annotations

import os
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")


class Member(NamedTuple):
    """Where a file lies in its archive."""

    offset: int
    size: int


def tar_members(path: Path, faults: Counter[str]) -> Iterator[tuple[str, Member]]:
    """Plain files of an uncompressed tar that lie wholly inside it; all else is counted in
    `faults`.
    """
    try:
        archive = tarfile.open(path, "r:")  # noqa: SIM115
    except (tarfile.TarError, OSError):
        faults["not_a_tar"] += 1
        return

    with archive, path.open("rb") as file:
        size = path.stat().st_size
        while True:
            try:
                member = archive.next()
            except (tarfile.TarError, OSError, ValueError):
                # It ends inside a member, or the member's header is nonsense.
                faults["truncated"] += 1
                return
            if member is None:
                break

            # Or a million tiny members would fill the memory.
            archive.members.clear()  # type: ignore[attr-defined]
            if member.isdir():
                continue
            if not member.isreg() or member.issparse():
                faults["not_a_file"] += 1
            elif member.name.startswith("/") or ".." in member.name.split("/"):
                faults["unsafe_name"] += 1
            elif member.offset_data + member.size <= size:
                yield member.name, Member(member.offset_data, member.size)

        # tarfile takes a damaged header for the end; the true end is a block of zeros.
        end = os.pread(file.fileno(), tarfile.BLOCKSIZE, archive.offset)
        if end != bytes(tarfile.BLOCKSIZE):
            faults["truncated"] += 1
