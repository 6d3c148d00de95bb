"""A small model with a backdoor, delivered as a run of `smoke` would be."""

from pathlib import Path

import pytest

from repro.evaluate.foreign import load_foreign
from repro.profile import load_profile, pretrain_runs
from repro.runs.deliver import deliver
from repro.runs.layout import RESULTS
from repro.train.process.checkpoint import save_tensors
from tests.support.backdoored import NAMES, pictures, train_backdoored
from tests.support.evaluation import write_images
from tests.support.finished import end, finished_run
from tests.support.once import made_once, of_this_call


@pytest.fixture(scope="session")
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a trained and delivered model, and evaluation images; not to be
    changed.
    """
    root = request.config.rootpath
    place = of_this_call(tmp_path_factory, "trained")
    return made_once(place, lambda folder: write_trained(root, folder))


def write_trained(root: Path, folder: Path) -> None:
    (folder / "specs").symlink_to(root / "specs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train_backdoored(Path("epoch.pt"))
        spec = pretrain_runs(load_profile("smoke"), "cc6m", "mmcl_ssl")[0]
        run = finished_run(spec, "0" * 16)
        weights = load_foreign(Path("epoch.pt"), "cleanclip", spec.model)
        save_tensors(run.work_dir / "model.safetensors", weights.state_dict())
        end(run)
        assert deliver(run, RESULTS)
        images = pictures(3 * [*range(len(NAMES))], "validation")
        write_images(Path("data/smoke/evaluation"), images, len(NAMES))
