"""Is an archive the one that dvc.lock and git know? Both hold its hash, and neither is edited with
it.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
from pathlib import Path

from repro.study.spec import archive_of


def archive_problem(name: str, root: Path = Path()) -> str | None:
    """What is wrong with the archive of a study, in a line; None if all is well or nobody knows
    better.

    dvc.lock decides, since a stage may have made results that are not committed yet; git does where
    dvc.lock does not name the archive.
    """
    archive = archive_of(name)
    known = _locked_md5(name, root / "dvc.lock")
    if known is not None:
        found = hashlib.md5((root / archive).read_bytes(), usedforsecurity=False).hexdigest()
        return None if found == known else _told(name, f"dvc.lock (MD5 {known}, here {found})")

    # Both are git's own object names, of the file as it is.
    committed = _git(root, "rev-parse", "--verify", "--quiet", f"HEAD:./{archive.as_posix()}")
    found = _git(root, "hash-object", "--no-filters", archive.as_posix())
    if committed and found and committed != found:
        return _told(name, f"git (object {committed}, here {found})")
    return None


def _told(name: str, witness: str) -> str:
    archive = archive_of(name).as_posix()
    return (
        f"{archive}: not the file that is known to {witness}. `git checkout -- {archive}` takes "
        f"the committed one; deleted, `dvc repro study@{name}` makes it again; results that you "
        f"made yourself are accepted with `dvc commit study@{name}`"
    )


def _locked_md5(name: str, lock: Path) -> str | None:
    """The hash that dvc.lock has of the archive as output of its stage.

    Read as text: a YAML parser takes seconds for this file.
    """
    if not lock.is_file():
        return None
    text = lock.read_text(encoding="utf-8")
    stage = re.search(rf"^  study@{re.escape(name)}:\n(.*?)(?=^  \S|\Z)", text, re.M | re.S)
    if stage is None:
        return None

    # Only outputs: the archive could also be named among the dependencies.
    outs = stage[1].partition("\n    outs:\n")[2]
    path = re.escape(archive_of(name).as_posix())
    found = re.search(rf"- path: {path}\n(?:      (?!- ).*\n)*?      md5: ([0-9a-f]{{32}})", outs)
    return found[1] if found else None


def _git(root: Path, *arguments: str) -> str:
    """What git prints; nothing where it is not there, or knows nothing."""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
