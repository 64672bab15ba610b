# What the agent uses of libvirt-python's QEMU part, typed by hand.
import libvirt

def qemuAgentCommand(domain: libvirt.virDomain, cmd: str, timeout: int, flags: int) -> str: ...
