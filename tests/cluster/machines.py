"""Machines within this machine: own processes, mounts and network, joined by a bridge that reaches this one too.

Whatever is started in one dies with it, and its mounts, interfaces and iptables rules go too, because the kernel ends a
namespace with its first process. That process dies with the tests, so that nothing is left even when those are killed,
but an idle bridge, which the next one replaces.
"""

import os
import select
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from tests.cluster.processes import Processes

BRIDGE = "videogen0"
NETWORK = IPv4Network("10.87.0.0/24")
HOST = NETWORK[1]
PODS = IPv4Network("10.88.0.0/16")
MACHINES = 3

START_SECONDS = 60.0
END_SECONDS = 120.0
# What the kubelet insists on, in a file that it finds in place of the kernel's setting: the machine's stays as it is.
SYSCTLS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}


@dataclass(frozen=True)
class Machine:
    name: str
    address: IPv4Address
    pods: IPv4Network
    """Addresses of its pods; every other machine has a route to them."""
    folder: Path
    """The same inside and outside."""
    processes: Processes
    pid: int
    """Its first process, as seen from outside."""

    def start(self, name: str, *command: str | Path) -> None:
        """As Processes.start, inside."""
        self.processes.start(name, [*self._enter(), *command])

    def run(self, *command: str | Path) -> None:
        """One command inside, to its end."""
        _run(*self._enter(), *command)

    def _enter(self) -> list[str]:
        # nsenter waits outside for what it runs inside, which must not outlive it.
        return [
            "nsenter",
            f"--target={self.pid}",
            "--pid",
            "--mount",
            "--net",
            "--ipc",
            "setpriv",
            "--pdeathsig",
            "KILL",
        ]


@contextmanager
def bridge() -> Iterator[None]:
    """What joins machines; this machine is HOST on it."""
    _remove_bridge()
    _run("ip", "link", "add", BRIDGE, "type", "bridge")
    try:
        _run("ip", "address", "add", f"{HOST}/{NETWORK.prefixlen}", "dev", BRIDGE)
        _run("ip", "link", "set", BRIDGE, "up")
        yield
    finally:
        _remove_bridge()


@contextmanager
def machine(number: int, name: str, folder: Path) -> Iterator[Machine]:
    """The number, 1 to MACHINES, makes its addresses. Needs root and a bridge()."""
    processes = Processes(folder)
    with ExitStack() as ended:
        ended.callback(processes.end)
        booted = _boot(number, name, folder, processes)
        ended.callback(_end, booted)
        yield booted


def _end(machine: Machine) -> None:
    """Returns when nothing runs in it any more: its first process goes last, once the kernel has ended all others."""
    first = os.pidfd_open(machine.pid)
    try:
        signal.pidfd_send_signal(first, signal.SIGKILL)
        ended, _, _ = select.select([first], [], [], END_SECONDS)
        if not ended:
            raise RuntimeError(f"{machine.name} still runs {END_SECONDS:g} s after its end")
    finally:
        os.close(first)


def _boot(number: int, name: str, folder: Path, processes: Processes) -> Machine:
    booted = folder / "booted"
    script = folder / "boot.sh"
    script.write_text("\n".join(["set -e", *_mounts(folder), f"touch {booted}", "exec sleep infinity"]) + "\n")
    # The first process inherits whoever loses its parent; ignoring their ends is what removes them from the table.
    first = ["env", "--ignore-signal=CHLD", "sh", script]
    namespaces = ["--pid", "--mount-proc", "--mount", "--net", "--ipc", "--fork", "--kill-child"]
    holder = processes.start(name, ["unshare", *namespaces, *first])
    processes.wait_until(booted.exists, f"{name} has booted", START_SECONDS)
    pid = int(Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text())
    pods = _pods(number)
    machine = Machine(name, _address(number), pods, folder, processes, pid)
    link = f"videogen{number}"
    _run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
    _run("ip", "link", "set", link, "master", BRIDGE, "up")
    machine.run("ip", "link", "set", "lo", "up")
    machine.run("ip", "address", "add", f"{machine.address}/{NETWORK.prefixlen}", "dev", "eth0")
    machine.run("ip", "link", "set", "eth0", "up")
    machine.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
    _run("ip", "route", "add", str(pods), "via", str(machine.address))
    for other in set(range(1, MACHINES + 1)) - {number}:
        machine.run("ip", "route", "add", str(_pods(other)), "via", str(_address(other)))
    return machine


def _address(number: int) -> IPv4Address:
    return NETWORK[10 + number]


def _pods(number: int) -> IPv4Network:
    return list(PODS.subnets(new_prefix=24))[number]


def _mounts(folder: Path) -> list[str]:
    """Commands: /run is new, what is written below /var goes into the folder, and the settings of SYSCTLS are ours."""
    for name in ("var", "var-work", "sysctl"):
        (folder / name).mkdir()
    layers = f"lowerdir=/var,upperdir={folder / 'var'},workdir={folder / 'var-work'}"
    commands = ["mount -t tmpfs tmpfs /run", f"mount -t overlay -o {layers} overlay /var"]
    return [*commands, *_sysctl_mounts(folder / "sysctl", SYSCTLS)]


def _sysctl_mounts(folder: Path, settings: Mapping[str, str]) -> Iterator[str]:
    for setting, value in settings.items():
        file = folder / setting.replace("/", ".")
        file.write_text(value + "\n")
        yield f"mount --bind {file} /proc/sys/{setting}"


def bridge_exists() -> bool:
    return BRIDGE in {name for _, name in socket.if_nameindex()}


def _remove_bridge() -> None:
    if bridge_exists():
        _run("ip", "link", "delete", BRIDGE)


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
