"""Faults put into the code, one at a time, and whether its tests find them:

    python -m tools.mutations [COMMIT]

A checkout of the commit (HEAD) lies in a temporary folder meanwhile. Exit status 1 where a fault is
not found, where its code is not there, or where its tests fail without it.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple


class Fault(NamedTuple):
    """`old`, which `file` has once, becomes `new`; the tests that should find it."""

    file: str
    old: str
    new: str
    tests: str
    """Files below tests/, several with a space; with `::` one test."""


OBJECTIVES = "repro/train/objectives.py"
FAULTS = {
    "eq. 1 without its direction from texts to images": Fault(
        OBJECTIVES,
        "logits_per_image.T, matches",
        "logits_per_image, matches",
        "train/test_objectives.py",
    ),
    "eq. 2 against the first views": Fault(
        OBJECTIVES,
        "scale * views[0] @ views[1].T",
        "scale * views[0] @ views[0].T",
        "train/test_objectives.py",
    ),
    "a sign of the SSL term": Fault(
        OBJECTIVES,
        "weighted(mmcl=1.0, ssl=weight) if weight",
        "weighted(mmcl=1.0, ssl=-weight) if weight",
        "train/test_objectives.py train/test_loop.py",
    ),
    "a temperature that is not clamped": Fault(
        "repro/train/step.py",
        "    clamp_logit_scale(model)\n",
        "",
        "train/test_no_wait.py train/test_loop.py train/test_model.py",
    ),
    "warm-up from 0": Fault(
        "repro/train/schedule.py",
        "(step + 1) / schedule.warmup_steps",
        "step / schedule.warmup_steps",
        "train/test_objectives.py",
    ),
    "an epoch's order without its seed": Fault(
        "repro/train/pairs.py",
        'keyed_rng("order", self.spec.seed, epoch)',
        'keyed_rng("order", epoch)',
        "train/test_pairs.py",
    ),
    "views that do not depend on the step": Fault(
        "repro/train/pairs.py",
        'keyed_rng("views", self.spec.seed, step)',
        'keyed_rng("views", self.spec.seed)',
        "train/test_pairs.py train/test_augment.py",
    ),
    "ranks that average under gather: exact": Fault(
        "repro/train/process/distributed.py",
        'return 1.0 if gather == "authors" else float(ranks())',
        "return 1.0",
        "train/test_distributed.py",
    ),
    "BatchNorm statistics counted in both passes of the cache": Fault(
        "repro/train/gradient_cache.py",
        "self._track_statistics(False)",
        "self._track_statistics(True)",
        "train/test_gradient_cache.py",
    ),
    "a push beyond its threshold": Fault(
        "repro/train/par.py",
        "distance <= threshold, distance",
        "distance >= threshold, distance",
        "train/test_defences.py",
    ),
    "FT-SAM down the hill": Fault(
        "repro/train/ft_sam.py", "weight.add_(step", "weight.sub_(step", "train/test_defences.py"
    ),
    "a checkpoint without the unread losses": Fault(
        "repro/train/loop.py",
        "self.progress.unread = self.late()",
        "self.late()",
        "train/test_loop.py train/test_stopping.py",
    ),
    "a run that is given up one evaluation early": Fault(
        "repro/train/loop.py",
        "epochs != rule.epochs",
        "epochs < rule.epochs - 1",
        "train/test_lean.py",
    ),
    "the end token cut off": Fault(
        "repro/train/model.py", "> end[:, None]", ">= end[:, None]", "train/test_model.py"
    ),
    "a patch that may touch the last row": Fault(
        "repro/data/triggers.py",
        "max(1, height - size), max(1, width - size)",
        "max(1, height - size + 1), max(1, width - size + 1)",
        "data/test_triggers.py",
    ),
    "noise that is rounded": Fault(
        "repro/data/triggers.py",
        "(noise * 255).astype(np.int64) % 256",
        "np.rint(noise * 255).astype(np.int64) % 256",
        "data/test_triggers.py",
    ),
    "poisons that name the target": Fault(
        "repro/data/poison.py", "else ~named)", "else np.ones_like(named))", "data/test_poison.py"
    ),
    "copies of poisoned images in the cleaning pairs": Fault(
        "repro/data/poison.py",
        "np.flatnonzero(~np.isin(images, images[poisoned]))",
        "np.setdiff1d(every, poisoned)",
        "data/test_poison.py",
    ),
    "a trigger without its seed": Fault(
        "repro/data/poison.py",
        'keyed_rng("trigger", poison.seed, key)',
        'keyed_rng("trigger", key)',
        "data/test_poison.py",
    ),
    "an image that is not compared with its hash": Fault(
        "repro/data/shards.py",
        "if bytes_hash(data) != self.index.image_hashes[i].tobytes():",
        "if False:",
        "data/test_stores.py",
    ),
    "images of any size": Fault(
        "repro/data/images.py",
        "image.width * image.height > MAX_PIXELS",
        "False",
        "data/test_images.py",
    ),
    "pickles that may run": Fault(
        "repro/evaluate/foreign.py",
        "weights_only=True",
        "weights_only=False",
        "evaluate/test_checkpoints.py repo/test_imports.py",
    ),
    "packages that are not compared with their pin": Fault(
        "repro/sources/packages.py",
        "if integrity != package.integrity:",
        "if False:",
        "sources/test_packages.py",
    ),
    "ties for the highest class": Fault(
        "repro/evaluate/zero_shot.py",
        "numbers, len(numbers)).amin(dim=1)",
        "numbers, -1).amax(dim=1)",
        "evaluate/test_evaluation.py",
    ),
    "prompts that are not normalised": Fault(
        "repro/evaluate/prompts.py",
        "return F.normalize(means, dim=-1).T",
        "return means.T",
        "evaluate/test_evaluation.py",
    ),
    "redrawn triggers that are the same in every batch": Fault(
        "repro/evaluate/images.py",
        '"evaluation, redrawn", self.seed, draw, batch.start',
        '"evaluation, redrawn", self.seed, draw',
        "evaluate/test_images.py",
    ),
    "a model at the cap that does not count": Fault(
        "repro/ledger.py",
        "asr > spec.evaluate.asr_cap",
        "asr >= spec.evaluate.asr_cap",
        "front report/test_tables.py report/test_verdicts.py runs study",
    ),
    "an evaluation at the cap that does not count": Fault(
        "repro/report/measures.py",
        "points[points.asr <= cap]",
        "points[points.asr < cap]",
        "report/test_tables.py report/test_verdicts.py",
    ),
    "an interval at 90%": Fault(
        "repro/intervals.py",
        "0.5 + confidence / 2",
        "0.45 + confidence / 2",
        "report/test_rules.py report/test_studies.py report/test_verdicts.py",
    ),
    "a row that is written twice": Fault(
        "repro/ledger.py",
        'file.write(json.dumps(content).encode() + b"\\n")',
        'file.write((json.dumps(content).encode() + b"\\n") * 2)',
        "train/test_loop.py faults/test_storage.py",
    ),
    "a lock that is not taken": Fault(
        "repro/files.py",
        'with held(out.with_name(f".{out.name}.lock"), busy), replacing(out) as partial:',
        "with replacing(out) as partial:",
        "faults/test_storage.py",
    ),
    "a fingerprint without its inputs": Fault(
        "repro/runs/run.py", '"inputs": inputs, "results"', '"inputs": [], "results"', "runs"
    ),
    "GPU: bounds on a length that attention divides by 8": Fault(
        "repro/train/model.py",
        "mark_dynamic(part, 1)",
        "mark_dynamic(part, 1, min=8, max=80)",
        "train/test_compiled_lengths.py",
    ),
    "GPU: DDP that cuts the compiled encoder": Fault(
        "repro/train/loop.py",
        "optimize_ddp = False",
        "optimize_ddp = True",
        "train/test_compiled_lengths.py",
    ),
    "GPU: runs that are dealt out before the start": Fault(
        "repro/plan/queue.py",
        "        ready = [task for task in waiting if there.get(task.needs, now + 1) <= now]\n",
        "        ready = [task for task in waiting[:1] if there.get(task.needs, now + 1) <= now]\n",
        "plan/test_plan.py",
    ),
    "GPU: torch of any version": Fault(
        "constraints.txt", "torch==2.13.0", "torch>=2.13.0", "cli/test_commands.py"
    ),
    "GPU: a CPU build for the cluster": Fault(
        "setup.sh",
        " && ! command -v sbatch >/dev/null; then",
        "; then",
        "cli/test_commands.py",
    ),
    "GPU: memory of a node for each cleaning job": Fault(
        "docs/gpu.md",
        "--cpus-per-task=8 --mem=64G",
        "--cpus-per-task=8 --mem=128G",
        "launch/test_gpu_page.py",
    ),
    "GPU: scaling in float32": Fault(
        "repro/check/processes.py",
        "single = Trainee(fast, device)",
        "single = Trainee(spec, device)",
        "check/test_gpu_check.py",
    ),
    "GPU: rates that a failed check takes along": Fault(
        "repro/check/__main__.py",
        "if scale.gpu and FLOPS:",
        "if scale.gpu and FLOPS and not failed:",
        "check/test_gpu_check.py",
    ),
    "GPU: 32 processes a rank that compile": Fault(
        "repro/launch/torchrun.py",
        ' | {"TORCHINDUCTOR_COMPILE_THREADS": str(threads)}',
        "",
        "launch/test_driver.py",
    ),
    "GPU: a shard that stops at its first faulty image": Fault(
        "docs/gpu.md",
        ' || echo "{}: some images stay as they are"',
        "",
        "launch/test_gpu_page.py",
    ),
    "GPU: a compiled encoder without padding": Fault(
        "repro/train/model.py",
        "if count == 1 and not compiled:",
        "if count == 1:",
        "train/test_compiled_lengths.py",
    ),
    "GPU: data for GPUs that torch cannot use": Fault(
        "repro/sources/stage.py",
        "    gpus_usable(devices())\n",
        "",
        "sources/test_shard_source.py",
    ),
    "GPU: a check of the processor in place of the GPU": Fault(
        "repro/check/__main__.py",
        "scale = FULL if gpus_usable(devices()) else TOY",
        "scale = TOY",
        "check/test_gpu_check.py",
    ),
}
"""By what is wrong; those behind "GPU:" would show on GPUs alone."""


def place_of(folder: Path, fault: Fault) -> Path | None:
    """The file that has the code: the named one, or the only one of the package that does."""
    named = folder / fault.file
    if named.exists() and named.read_text().count(fault.old):
        return named
    found = [path for path in folder.glob("repro/**/*.py") if fault.old in path.read_text()]
    return found[0] if len(found) == 1 else None


def passes(folder: Path, tests: str) -> bool:
    """Whether the tests pass that there are of these."""
    there = [f"tests/{name}" for name in tests.split() if (folder / "tests" / name).exists()]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        *there,
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return done.returncode == 0


def verdict(folder: Path, fault: Fault) -> str:
    """What the tests say of the fault: found or MISSED; or why that cannot be told."""
    place = place_of(folder, fault)
    if place is None:
        return "NOT THERE"
    text = place.read_text()
    place.write_text(text.replace(fault.old, fault.new))
    try:
        found = not passes(folder, fault.tests)
    finally:
        place.write_text(text)
    return "found" if found else "MISSED"


def main(commit: str = "HEAD", *names: str) -> int:
    """Try every fault, or those whose description has one of `names`."""
    chosen = {
        what: fault
        for what, fault in FAULTS.items()
        if not names or any(name in what for name in names)
    }
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent, "checkout")
        subprocess.run(["git", "worktree", "add", "-q", "--detach", folder, commit], check=True)
        try:
            ends = []
            for what, fault in chosen.items():
                ends.append(verdict(folder, fault))
                print(f"{ends[-1]:9}  {what}", flush=True)
            for tests in {fault.tests for fault in chosen.values()}:
                if not passes(folder, tests):
                    ends.append("FAILS")
                    print(f"{ends[-1]:9}  without a fault: {tests}", flush=True)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", folder], check=True)
    return int(any(end != "found" for end in ends))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
