"""What the archived seeds have at the end of a run, to be shown beside one's own."""

import gzip
import json
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from repro.ledger import Row, identity_of
from repro.runs.layout import RESULTS
from repro.spec import RunSpec, digest
from repro.view.states import key_of

Archive = Callable[[RunSpec], tuple[float, float] | None]
"""Mean accuracy and ASR of the archived runs that differ from a run in the seed alone."""


def archive_of_profile(profile: str) -> Archive:
    """The archived runs of a profile.

    An archive that cannot be read shows nothing here: the report names what is wrong with it.
    """
    ends: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for path in sorted((RESULTS / "studies").glob("*.jsonl.gz")):
        with suppress(OSError, ValueError, KeyError, TypeError):
            for line in gzip.decompress(path.read_bytes()).splitlines():
                content = json.loads(line)
                if content["run"]["spec"]["profile"] == profile and content["rows"]:
                    spec = RunSpec.model_validate(content["run"]["spec"])
                    names = identity_of(spec, content["run"]["fingerprint"])
                    row = Row.model_validate(content["rows"][-1] | names)
                    asr = row.asr(spec.switches.asr_denominator)
                    ends[_but_for_seed(spec)].append((row.accuracy, asr))
    means = {key: tuple(np.mean(values, axis=0).tolist()) for key, values in ends.items()}
    return lambda spec: means.get(_but_for_seed(spec))


def archived_keys(path: Path) -> set[tuple[str, str]]:
    """Variants and keys (`repro.view.states.key_of`) of the whole runs in an archive; none where
    there is no archive that can be read.
    """
    found = set()
    with suppress(OSError, ValueError, KeyError, TypeError):
        for line in gzip.decompress(path.read_bytes()).splitlines():
            record = json.loads(line)["run"]
            if record["status"] != "failed":
                spec = RunSpec.model_validate(record["spec"])
                found.add((spec.variant, key_of(spec)))
    return found


def _but_for_seed(spec: RunSpec) -> str:
    return digest(spec.computed() | {"seed": None})
