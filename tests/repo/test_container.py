"""The Dockerfile built by buildah over a base made by debootstrap; what compose.yaml promises."""

import json
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from repro.sources.icons.package import ICONS
from repro.sources.packages import WORDNET, obtain
from tests.support.checkout import fresh_checkout

Buildah = Callable[..., str]


@pytest.fixture
def buildah(tmp_path: Path) -> Iterator[Buildah]:
    """Runs buildah with its storage in a temporary folder; returns its output."""
    # Containers share the host's network, but buildah looks for the helper of another one.
    (tmp_path / "helpers").mkdir()
    (tmp_path / "helpers/netavark").symlink_to("/bin/true")
    most = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    (tmp_path / "containers.conf").write_text(
        f'[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc={most}:{most}"]\n'
        f'[engine]\nhelper_binaries_dir = ["{tmp_path}/helpers"]\n'
    )
    environment = os.environ | {
        "CONTAINERS_CONF": str(tmp_path / "containers.conf"),
        "BUILDAH_ISOLATION": "chroot",
        "TMPDIR": str(tmp_path),
    }
    storage = ["--root", f"{tmp_path}/storage", "--runroot", f"{tmp_path}/run"]

    def call(*arguments: str) -> str:
        command = ["buildah", *storage, *arguments]
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        return done.stdout

    yield call
    shutil.rmtree(tmp_path, ignore_errors=True)  # gigabytes


def pip_settings(home: Path) -> list[str]:
    """Volumes that bring this machine's settings of pip into the build, not into the image."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    settings = dict(re.findall(r"^[\w:]+\.([\w-]+)='(.*)'$", listed, re.MULTILINE))
    settings.pop("constraint", None)  # of this machine's Python
    volumes = []
    for folder in settings.get("find-links", "").split():
        if Path(folder).is_dir():
            volumes.append(f"{folder}:{folder}:ro")
    if certificate := settings.pop("cert", None):
        settings["cert"] = "/run/pip.crt"
        volumes.append(f"{certificate}:/run/pip.crt:ro")
    lines = [f"{key} = {value}\n" for key, value in settings.items()]
    config = home / "pip.conf"
    config.write_text("[global]\n" + "".join(lines))
    return [*volumes, f"{config}:/etc/pip.conf:ro"]


def add_python(base: Path) -> None:
    """The Python of this test, for which pip has wheels here, where it is not the release's own."""
    own = Path(sys.base_prefix)
    if own == Path("/usr"):
        return
    unused = shutil.ignore_patterns("site-packages", "test", "__pycache__", "*.a", "idle*", "share")
    place = base / "usr/local"
    shutil.copytree(own, place, symlinks=True, ignore=unused, dirs_exist_ok=True)

    # The executable names the folder of its library on this machine, which the image has not.
    subprocess.run(["ldconfig", "-r", base], check=True)


@pytest.mark.skipif(
    shutil.which("buildah") is None or shutil.which("debootstrap") is None or os.getuid() != 0,
    reason="no tool to build an image here: apt-get install buildah debootstrap, as root",
)
@pytest.mark.nightly
@pytest.mark.timeout(2400)
def test_the_image_builds_runs_the_study_and_holds_nothing_of_this_machine(
    root: Path, tmp_path: Path, buildah: Buildah, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "base"
    suite = platform.freedesktop_os_release()["VERSION_CODENAME"]
    command = ["debootstrap", "--variant=minbase", suite, base]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    add_python(base)
    (tmp_path / "Base").write_text("FROM scratch\nADD base /\n")
    network = ["--network", "host"]
    buildah("build", *network, "--layers=false", "--tag", "base", "--file", "Base", ".")
    shutil.rmtree(base)

    context = fresh_checkout(root, tmp_path / "context", whole_lock=True)
    index = os.environ.get("PIP_EXTRA_INDEX_URL", "")
    arguments = ["BASE=localhost/base", f"PIP_EXTRA_INDEX_URL={index}", "EXTRAS="]
    options = [word for argument in arguments for word in ("--build-arg", argument)]
    options += [word for volume in pip_settings(tmp_path) for word in ("--volume", volume)]
    buildah("build", *network, "--pull=never", "--tag", "repro", *options, str(context))
    buildah("from", *network, "--pull=never", "--name", "project", "localhost/repro")

    def run(*words: str) -> str:
        return buildah("run", *network, "project", "--", *words)

    about = json.loads(buildah("inspect", "--type", "image", "localhost/repro"))["OCIv1"]["config"]
    assert about["Cmd"] == ["make", "reproduce"]
    assert about["User"] == "repro"
    assert run("id", "-un") == "repro\n"
    assert "Usage: repro" in run(".venv/bin/python", "-m", "repro", "--help")

    # DVC sees the graph without git, and the environment counts as set up.
    assert "report@mini" in run(".venv/bin/dvc", "stage", "list")
    assert run("make", "setup") == ""
    left = "ls -A .git .dvc/cache work 2>/dev/null; cat /etc/pip.conf /run/pip.crt 2>/dev/null"
    assert run("sh", "-c", f"{left}; true").strip() in ("", ".dvc/cache:\n\nwork:")

    # npm's packages come from this machine: the image knows nothing of its registry.
    monkeypatch.chdir(root)
    (folder,) = {obtain(package).parent.absolute() for package in (ICONS, WORDNET)}
    study = ["--volume", f"{folder}:/npm:ro", "--env", "REPRO_NPM_DIR=/npm"]
    study += ["--env", "PROFILE=smoke"]
    said = buildah("run", *network, *study, "project", "--", "make", "reproduce")
    assert "page: report/build/smoke/index.html" in said
    assert "</html>" in run("cat", "report/build/smoke/index.html")


def read(path: Path) -> Any:
    return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))


def test_no_folder_that_git_ignores_gets_into_the_image(root: Path) -> None:
    """Models of a study carry backdoors, and weigh gigabytes."""
    ignored, sent = (
        {line.strip("/*") for line in (root / name).read_text(encoding="utf-8").splitlines()}
        for name in (".gitignore", ".dockerignore")
    )
    folders = {name for name in ignored if name and name[0] not in "#!"}
    # The report of `mini` lies in git, with its metrics; the results of studies do too.
    assert folders - sent <= {"report/metrics", "results/studies", "__pycache__", "*.egg-info"}


def test_compose_publishes_on_loopback_only_and_no_service_has_a_password_in_it(root: Path) -> None:
    services = read(root / "compose.yaml")["services"]
    for service in services.values():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")
        for name, value in service.get("environment", {}).items():
            if re.search("PASSWORD|URL|SECRET", name):
                assert name.endswith("_FILE")
                assert value.startswith("/run/secrets/")
    assert "--auth" in services["mongo"]["command"]


def generated_folders(graph: dict[str, Any]) -> set[str]:
    """The folders of all outputs of the graph, without the profile's own."""
    folders = set()
    for stage in graph["stages"].values():
        for out in stage["outs"]:
            path = out if isinstance(out, str) else next(iter(out))
            folders.add(path.partition("/${")[0])
    return folders


def test_compose_keeps_every_folder_that_the_study_fills(root: Path) -> None:
    """Outputs of the graph, records, running runs and DVC's cache are in volumes."""
    generated = generated_folders(read(root / "dvc.yaml"))
    assert {"data", "models", "report/build"} <= generated
    generated |= {"sacred", "work", ".dvc/cache"}
    services = read(root / "compose.yaml")["services"]
    for name in ("reproduce", "reproduce-gpu"):
        volumes = services[name]["volumes"]
        assert "./incoming:/project/incoming:ro" in volumes
        kept = [volume.partition(":")[2].removeprefix("/project/") for volume in volumes]
        for path in generated:
            assert any(Path(path).is_relative_to(folder) for folder in kept), (name, path)
