"""The `restricted` profile of the Pod Security standards as a function over a pod's spec.

Rules and field names: https://kubernetes.io/docs/concepts/security/pod-security-standards/.
"""

from collections.abc import Iterator
from typing import Any

VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip
SECCOMP = ("RuntimeDefault", "Localhost")
SAFE_SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
}
SELINUX_TYPES = ("", "container_t", "container_init_t", "container_kvm_t", "container_engine_t")


def violations(spec: dict[str, Any]) -> Iterator[str]:
    """The fields of a pod's spec that the profile refuses."""
    pod = spec.get("securityContext", {})
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(field):
            yield field
    for volume in spec.get("volumes", []):
        if not set(volume) - {"name"} <= VOLUMES:
            yield f"volumes[{volume['name']}]"
    if {sysctl["name"] for sysctl in pod.get("sysctls", [])} - SAFE_SYSCTLS:
        yield "securityContext.sysctls"
    yield from _context_violations("", pod)
    for kind in ("initContainers", "containers", "ephemeralContainers"):
        for container in spec.get(kind, []):
            yield from _container_violations(f"{kind}[{container['name']}].", container, pod)


def _container_violations(where: str, container: dict[str, Any], pod: dict[str, Any]) -> Iterator[str]:
    context = container.get("securityContext", {})
    yield from _context_violations(where, context)
    if context.get("privileged"):
        yield f"{where}securityContext.privileged"
    if context.get("allowPrivilegeEscalation") is not False:
        yield f"{where}securityContext.allowPrivilegeEscalation"
    capabilities = context.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", []) or set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield f"{where}securityContext.capabilities"
    if context.get("procMount", "Default") != "Default":
        yield f"{where}securityContext.procMount"
    if context.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True:
        yield f"{where}securityContext.runAsNonRoot"
    if context.get("seccompProfile", pod.get("seccompProfile", {})).get("type") not in SECCOMP:
        yield f"{where}securityContext.seccompProfile"
    if any(port.get("hostPort") for port in container.get("ports", [])):
        yield f"{where}ports.hostPort"


def _context_violations(where: str, context: dict[str, Any]) -> Iterator[str]:
    """What pods and containers have in common."""
    if context.get("runAsUser") == 0:
        yield f"{where}securityContext.runAsUser"
    if context.get("appArmorProfile", {}).get("type", "RuntimeDefault") not in SECCOMP:
        yield f"{where}securityContext.appArmorProfile"
    options = context.get("seLinuxOptions", {})
    if options.get("type", "") not in SELINUX_TYPES or options.get("user") or options.get("role"):
        yield f"{where}securityContext.seLinuxOptions"
    if context.get("windowsOptions", {}).get("hostProcess"):
        yield f"{where}securityContext.windowsOptions"
