"""For libvirt.sh: prints a domain made of XML that a page shows and of what the test's guest needs besides.

Usage: libvirt-domain.py PAGE KIND TYPE EMULATOR GUEST FOLDER
  KIND      what the XML has and no other block of the page: an element's name
  TYPE      the domain's type: kvm, or qemu without KVM
  EMULATOR  the QEMU that runs it
  GUEST     the folder with vmlinuz
  FOLDER    the folder with initramfs, for the files of the guest's serial console and ports (guest-init.sh)
"""
import sys
import xml.etree.ElementTree as tree
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import pages

QEMU = "http://libvirt.org/schemas/domain/qemu/1.0"
MACHINE = """<domain>
  <name>zoned</name>
  <memory unit='MiB'>768</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{guest}/vmlinuz</kernel>
    <initrd>{folder}/initramfs</initrd>
    <cmdline>console=ttyS0 quiet panic=-1 oops=panic</cmdline>
  </os>
  <features><acpi/></features>
  <cpu mode='{cpu}'/>
  <on_reboot>destroy</on_reboot>
</domain>"""
DEVICES = """<devices>
  <serial type='file'><source path='{folder}/console'/></serial>
  <channel type='file'><source path='{folder}/output'/><target type='virtio' name='output'/></channel>
  <channel type='file'><source path='{folder}/status'/><target type='virtio' name='status'/></channel>
</devices>"""


def shown(page, kind):
    """The domain of a page's block that has an element `kind`, the only one."""
    found = [domain for block in pages.blocks(page) if block.kind == "xml"
             for domain in [tree.fromstring("\n".join(block.lines))] if domain.find(f".//{kind}") is not None]
    if len(found) != 1:
        sys.exit(f"{page} has {len(found)} blocks of XML with {kind}: expected one")
    return found[0]


def main(page, kind, domain_type, emulator, guest, folder):
    """Prints the domain."""
    tree.register_namespace("qemu", QEMU)
    domain = shown(page, kind.replace("qemu:", f"{{{QEMU}}}"))
    values = {"guest": guest, "folder": folder, "cpu": "host-passthrough" if domain_type == "kvm" else "maximum"}
    domain.set("type", domain_type)
    domain.extend(tree.fromstring(MACHINE.format(**values)))
    devices = domain.find("devices")
    if devices is None:
        devices = tree.SubElement(domain, "devices")
    if devices.find("emulator") is None:
        tree.SubElement(devices, "emulator")
    devices.find("emulator").text = emulator
    devices.extend(tree.fromstring(DEVICES.format(**values)))
    print(tree.tostring(domain, encoding="unicode"))


if __name__ == "__main__":
    main(*sys.argv[1:])
