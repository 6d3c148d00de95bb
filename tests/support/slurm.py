"""A real Slurm on this host, as root, without systemd: munged, slurmctld, a slurmd a node."""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.processes import free_port

NODES = ("n1", "n2")
needs_slurm = pytest.mark.skipif(
    shutil.which("slurmctld") is None or os.getuid() != 0,
    reason="no Slurm to start here: apt-get install slurm-wlm munge, as root",
)


class Cluster:
    """The daemons of a cluster; `SLURM_CONF` leads every Slurm command to it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.conf = home / "slurm.conf"
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *command: str) -> None:
        with (self.home / "out").open("ab") as out:
            self.daemons[name] = subprocess.Popen(command, stdout=out, stderr=out)

    def start_node(self, node: str) -> None:
        self.start(node, "slurmd", "-D", "-N", node, "-f", str(self.conf))

    def wait_until_idle(self, seconds: float = 60) -> None:
        """Wait until every node takes jobs; fail with the logs otherwise."""
        deadline = time.monotonic() + seconds
        while (states := self.states()) != ["idle"] * len(NODES):
            if time.monotonic() > deadline:
                logs = (
                    path.read_text(errors="replace")[-2000:]
                    for path in [self.home / "out", *self.home.glob("*.log")]
                )
                pytest.fail(f"nodes are {states}\n" + "\n".join(logs))
            time.sleep(0.5)

    def wait_until_empty(self, seconds: float = 20) -> None:
        """Wait until no job is left, at most so long."""
        deadline = time.monotonic() + seconds
        while output("squeue", "-h") and time.monotonic() < deadline:
            time.sleep(0.5)

    def kill_steps(self) -> None:
        """End job steps that outlived their daemon, by their sockets in the spool of their node."""
        lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
        sockets = {
            f"socket:[{line[6]}]"
            for line in lines
            if len(line) == 8 and line[7].startswith(f"{self.home}/")
        }
        for link in Path("/proc").glob("[0-9]*/fd/*"):
            with suppress(OSError):  # processes come and go
                if (
                    os.readlink(link) in sockets
                    and "slurmstepd" in (link.parents[1] / "comm").read_text()
                ):
                    os.kill(int(link.parents[1].name), signal.SIGKILL)

    def states(self) -> list[str]:
        return output("sinfo", "-h", "-N", "-o", "%t").split()


def output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


@contextmanager
def running_cluster(home: Path) -> Iterator[Cluster]:
    """A cluster of two nodes of two processors (both this host), in `home`; SLURM_CONF is set."""
    home.chmod(0o755)
    for folder in ("state", *NODES):
        (home / folder).mkdir()
    key = home / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    host = socket.gethostname().split(".")[0]
    ports = iter({free_port() for _ in range(100)})
    cluster = Cluster(home)
    # A requeued job waits for cred_expire.
    cluster.conf.write_text(f"""
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={next(ports)}
AuthType=auth/munge
AuthInfo=socket={home}/munge.socket,cred_expire=5
CredType=cred/munge
SlurmUser={getpass.getuser()}
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/%n
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/%n.pid
SlurmctldLogFile={home}/slurmctld.log
SlurmdLogFile={home}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
SlurmdTimeout=10
KillWait=10
ReturnToService=2
MailProg=/bin/true
{"".join(f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={next(ports)} CPUs=2 RealMemory=2000{chr(10)}" for node in NODES)}
PartitionName=main Nodes={",".join(NODES)} Default=YES MaxTime=INFINITE State=UP
""")
    (home / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(cluster.conf))
        try:
            files = {"key-file": key, "socket": home / "munge.socket"}
            files |= {f"{name}-file": home / f"munged.{name}" for name in ("pid", "log", "seed")}
            options = [f"--{name}={path}" for name, path in files.items()]
            cluster.start("munged", "munged", "--foreground", "--force", *options)
            time.sleep(1)
            cluster.start("slurmctld", "slurmctld", "-D", "-f", str(cluster.conf))
            for node in NODES:
                cluster.start_node(node)
            cluster.wait_until_idle()
            yield cluster
        finally:
            subprocess.run(["scancel", "--full", "--me"], check=False, capture_output=True)
            cluster.wait_until_empty()
            for daemon in reversed(cluster.daemons.values()):
                daemon.terminate()
            for daemon in cluster.daemons.values():
                try:
                    daemon.wait(15)
                except subprocess.TimeoutExpired:
                    daemon.kill()
                    daemon.wait()
            cluster.kill_steps()
