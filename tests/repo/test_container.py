"""The Dockerfile built for real, by buildah over a base made by debootstrap; compose.yaml read as
what it promises.
"""

from __future__ import annotations

import json
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.support.checkout import fresh_checkout

needs_buildah = pytest.mark.skipif(
    shutil.which("buildah") is None or shutil.which("debootstrap") is None or os.getuid() != 0,
    reason="no tool to build an image here: apt-get install buildah debootstrap, as root",
)


class Image:
    """The project's image, and buildah with its storage under a temporary folder."""

    def __init__(self, home: Path) -> None:
        self.home = home
        # Containers share the host's network, but buildah looks for the helper that would give them
        # one of their own.
        (home / "helpers").mkdir()
        (home / "helpers" / "netavark").symlink_to("/bin/true")
        conf = home / "containers.conf"
        processes = resource.getrlimit(resource.RLIMIT_NPROC)[1]
        conf.write_text(
            f'[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc={processes}:{processes}"]\n'  # what this host allows
            f'[engine]\nhelper_binaries_dir = ["{home}/helpers"]\n'
        )
        self.environment = os.environ | {
            "CONTAINERS_CONF": str(conf),
            "BUILDAH_ISOLATION": "chroot",
            "TMPDIR": str(home),
        }

    def buildah(self, *arguments: str) -> str:
        command = [
            "buildah",
            "--root",
            f"{self.home}/storage",
            "--runroot",
            f"{self.home}/run",
            *arguments,
        ]
        done = subprocess.run(
            command,
            env=self.environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        return done.stdout

    def run(self, *command: str) -> str:
        """Output of a command in a container of the image, as the image's user."""
        return self.buildah("run", "--network", "host", "project", "--", *command)


@pytest.fixture(scope="module")
def image(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """Built with this machine's settings of pip, its certificate and its local wheels mounted."""
    home = tmp_path_factory.mktemp("image")
    image = Image(home)
    subprocess.run(
        ["debootstrap", "--variant=minbase", suite(), home / "base"],
        check=True,
        capture_output=True,
        timeout=600,
    )
    (home / "Base").write_text("FROM scratch\nADD base /\n")
    image.buildah(
        "build", "--network", "host", "--layers=false", "--tag", "base", "--file", "Base", "."
    )
    shutil.rmtree(home / "base")
    context = fresh_checkout(root, home / "context")
    mounts = [argument for mount in pip_settings(home) for argument in ("--volume", mount)]
    image.buildah(
        "build",
        "--network",
        "host",
        "--pull=never",
        "--tag",
        "repro",
        "--build-arg",
        "BASE=localhost/base",
        "--build-arg",
        f"PIP_EXTRA_INDEX_URL={os.environ.get('PIP_EXTRA_INDEX_URL', '')}",
        "--build-arg",
        "EXTRAS=",
        *mounts,
        str(context),
    )
    image.buildah(
        "from", "--network", "host", "--pull=never", "--name", "project", "localhost/repro"
    )
    yield image
    image.buildah("rm", "project")
    shutil.rmtree(home, ignore_errors=True)  # gigabytes


def suite() -> str:
    """The release of the base: on Debian the one with the oldest Python that the project takes,
    elsewhere the host's own.
    """
    release = platform.freedesktop_os_release()
    return "bookworm" if release["ID"] == "debian" else release["VERSION_CODENAME"]


def pip_settings(home: Path) -> list[str]:
    """Volumes that bring this machine's configuration of pip into the build, without a trace in the
    image.
    """
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    settings = {
        match[1]: match[2]
        for match in re.finditer(r"^[\w:]+\.([\w-]+)='(.*)'$", listed, re.MULTILINE)
    }
    settings.pop("constraint", None)  # of this machine's Python
    volumes = [
        f"{folder}:{folder}:ro"
        for folder in settings.get("find-links", "").split()
        if Path(folder).is_dir()
    ]
    if certificate := settings.pop("cert", None):
        settings["cert"] = "/run/pip.crt"
        volumes.append(f"{certificate}:/run/pip.crt:ro")
    (home / "pip.conf").write_text(
        "[global]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items())
    )
    return [*volumes, f"{home / 'pip.conf'}:/etc/pip.conf:ro"]


@needs_buildah
@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_image_builds_and_its_command_line_starts(image: Image) -> None:
    assert "usage: repro" in image.run(".venv/bin/python", "-m", "repro", "--help")
    assert image.run("id", "-un") == "repro\n"
    configured = json.loads(image.buildah("inspect", "--type", "image", "localhost/repro"))[
        "OCIv1"
    ]["config"]
    assert configured["Cmd"] == ["make", "reproduce"] and configured["User"] == "repro"


@needs_buildah
@pytest.mark.slow
def test_the_image_computes(image: Image) -> None:
    """DVC sees the graph without git, the environment counts as set up, torch and the worker
    import.
    """
    assert "report@mini" in image.run(".venv/bin/dvc", "stage", "list")
    assert image.run("make", "setup") == ""
    said = image.run(
        "sh",
        "-c",
        ".venv/bin/python -c 'import torch, repro.worker; print(torch.ones(2).sum().item())' 2>&1 || true",
    )
    if "version `GLIBC_" in said:
        pytest.skip(
            "the wheel of torch that pip finds here wants a newer C library than the base has"
        )
    assert said.endswith("2.0\n")


@needs_buildah
@pytest.mark.slow
def test_the_image_holds_nothing_of_the_build_machine(image: Image) -> None:
    assert image.run(
        "sh",
        "-c",
        "ls -A .git .dvc/cache work 2>/dev/null; cat /etc/pip.conf /run/pip.crt 2>/dev/null; true",
    ).strip() in (
        "",
        ".dvc/cache:\n\nwork:",
    )


@pytest.fixture(scope="module")
def services(request: pytest.FixtureRequest) -> dict[str, Any]:
    content = YAML(typ="safe", pure=True).load(
        (request.config.rootpath / "compose.yaml").read_text(encoding="utf-8")
    )
    assert set(content) == {"name", "services", "secrets", "volumes"}
    return dict(content["services"])


def test_every_reference_in_compose_is_declared(root: Path, services: dict[str, Any]) -> None:
    content = YAML(typ="safe", pure=True).load((root / "compose.yaml").read_text(encoding="utf-8"))
    for service in services.values():
        assert set(service.get("secrets", [])) <= set(content["secrets"])
        named = {volume.partition(":")[0] for volume in service.get("volumes", [])}
        assert {name for name in named if not name.startswith("./")} <= set(content["volumes"])
        assert set(service.get("depends_on", {})) <= set(services)


def test_compose_publishes_on_loopback_only_and_no_service_has_a_password_in_it(
    services: dict[str, Any],
) -> None:
    for service in services.values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        secret = [
            name
            for name in service.get("environment", {})
            if re.search("PASSWORD|URL|SECRET", name)
        ]
        assert all(
            name.endswith("_FILE") and service["environment"][name].startswith("/run/secrets/")
            for name in secret
        )
    assert "--auth" in services["mongo"]["command"]


def test_compose_keeps_every_folder_that_the_study_fills(
    root: Path, services: dict[str, Any]
) -> None:
    """Outputs of the graph, records, running runs and DVC's cache are in volumes of the container
    that runs the study.
    """
    stages = YAML(typ="safe", pure=True).load((root / "dvc.yaml").read_text(encoding="utf-8"))[
        "stages"
    ]
    outs = [
        next(iter(out)) if isinstance(out, dict) else out
        for stage in stages.values()
        for out in stage["outs"]
    ]
    generated = {*(out.partition("/${")[0] for out in outs), "sacred", "work", ".dvc/cache"}
    assert {"data", "models", "report/build"} <= generated
    for name in ("reproduce", "reproduce-gpu"):
        targets = [
            volume.partition(":")[2].removeprefix("/project/")
            for volume in services[name]["volumes"]
        ]
        assert [
            path
            for path in generated
            if not any(Path(path).is_relative_to(target) for target in targets)
        ] == [], name
    assert services["reproduce-gpu"]["deploy"]["resources"]["reservations"]["devices"][0][
        "capabilities"
    ] == ["gpu"]


def test_containers_have_what_training_on_gpus_needs(root: Path, services: dict[str, Any]) -> None:
    """Shared memory for loader processes and NCCL, pinned memory, a compiler for Triton, the user's
    data, and a base that asks for the driver that torch's own wheels need, which are of CUDA 13.
    """
    on_gpu = services["reproduce-gpu"]
    assert int(on_gpu["shm_size"].removesuffix("gb")) >= 16
    assert on_gpu["ulimits"]["memlock"] == -1
    for name in ("reproduce", "reproduce-gpu"):
        assert "./incoming:/project/incoming:ro" in services[name]["volumes"]

    text = (root / "Dockerfile").read_text(encoding="utf-8")
    assert {"gcc", "python3-dev"} <= set(text.split())
    assert "--ipc=host --ulimit memlock=-1" in text
    assert re.search(r"^ARG BASE=nvidia/cuda:13\.", text, re.MULTILINE)
