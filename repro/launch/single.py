"""One run in this process, on one rank, without launcher, torchrun and tracker: to step through it
with a debugger.

    python -m pdb -m repro run-one pretrain --profile smoke --dataset cc3m --objective mmcl
    (Pdb) import repro.train.step as s
    (Pdb) b s.training_step
    (Pdb) c

It begins at the first step every time. What it leaves lies in `work/single` and is never published.
"""

import os
import shutil
from pathlib import Path

from repro.data.memory import cores
from repro.edits import code_digest
from repro.launch.jobs import Job, write_job
from repro.launch.places import TRAINING_ENVIRONMENT, Place
from repro.profile import STAGE_RUNS, graph_profile
from repro.runs.inputs import check_stores
from repro.runs.layout import DATA, POISONED, WORK, standard_inputs
from repro.runs.run import identify
from repro.spec import Dataset, Objective, SpecError, Stage
from repro.worker import main

FOLDER = WORK / "single"


def step_through(
    stage: Stage,
    profile_name: str,
    dataset: Dataset,
    objective: Objective,
    run_id: str | None = None,
) -> Path:
    """Train the run, or the first one of its model, to its end; returns the folder of what it left.

    SpecError names the runs of the model if `run_id` is none of them, and a store that was made
    from other settings; LaunchError an input that is not there.
    """
    # By id, in the order of the specification; without an id the first is meant.
    profile = graph_profile(profile_name)
    specs = {spec.run_id: spec for spec in STAGE_RUNS[stage](profile, dataset, objective)}
    run_id = run_id or next(iter(specs), None)
    if run_id not in specs:
        raise SpecError(f"run: {run_id!r} (allowed: {', '.join(specs) or 'none of this model'})")
    spec = specs[run_id]

    check_stores(profile, DATA / profile_name, POISONED / profile_name, [dataset])
    # The run as the launcher would make it, but in a folder of its own that is empty at the start.
    run = identify(spec, standard_inputs(spec), code_digest())
    folder = FOLDER / run.fingerprint
    shutil.rmtree(folder, ignore_errors=True)
    run.save(FOLDER)

    # Decoded images are those of every other run.
    (WORK / "cache").resolve().mkdir(parents=True, exist_ok=True)
    if not (FOLDER / "cache").exists():
        (FOLDER / "cache").symlink_to(Path("..") / "cache")

    # What the launcher would set.
    name = "CUBLAS_WORKSPACE_CONFIG"
    os.environ.setdefault(name, TRAINING_ENVIRONMENT[name])

    # A job of one run and one rank. `main` is the worker's, called and not started by torchrun.
    job = Job((run,), Place((), ranks=1, threads=cores()))
    write_job(job, FOLDER / "job.json", "repro.worker", 0.0, work=FOLDER)
    main(str(FOLDER / "job.json"))
    return folder
