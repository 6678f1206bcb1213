#!/usr/bin/env python3
"""Mends what keeps a user-mode Linux from using a vhost-user disk in full.

Usage: uml-kernel-edit.py LINUX_SOURCE_FOLDER

A UML kernel shares only the memory above its own image with the daemon, and its driver is arch/um/drivers/virtio_uml.c. Each mend is made
where the source needs it and left out where it does not:

  zero page   Linux 7.2 has it as an array inside the image, so that a request with zeros lies outside what the daemon sees and fails. It is
              allocated instead, by the function that an architecture may bring for that. Linux 6.12 allocates it already.
  table       Linux 6.12 sends SET_MEM_TABLE with the length of more regions than it names. The length is that of those named.
  interrupt   Linux 6.12 asks for interrupt 0 for the rings of a device that has no request channel, which the timer has. A free one is
              taken.

A source that neither needs a mend nor has the mended form is refused and left alone.
"""

import pathlib
import re
import sys

ZERO_PAGE = """
void __init arch_setup_zero_pages(void)
{
\t__zero_page = virt_to_page(memblock_alloc_or_panic(PAGE_SIZE, PAGE_SIZE));
}
"""
TABLE = """\tmsg.header.size -= (ARRAY_SIZE(msg.payload.mem_regions.regions) - msg.payload.mem_regions.num) *
\t\t\t   sizeof(msg.payload.mem_regions.regions[0]);

"""


def refuse(why):
    sys.exit(f"uml-kernel-edit.py: this Linux source is not as expected: {why}")


def read(tree, name):
    path = tree / name
    if not path.is_file():
        refuse(f"there is no {path}")
    return path.read_text()


def insert(text, before, addition, after, what):
    """`text` with `addition` between the one place where `before` (which keeps its place) is followed by `after`."""
    parts = text.split(before + after)
    if len(parts) != 2:
        refuse(f"{what}: its place is there {len(parts) - 1} times, expected once")
    return (before + addition + after).join(parts)


def zero_page(mm_init, mem):
    if "void __init __weak arch_setup_zero_pages(void)" in mm_init:
        return mem + ZERO_PAGE
    if re.search(r"empty_zero_page = .*memblock_alloc", mem):
        return mem
    refuse("it is not known where its zero page lies")


def table(driver):
    if ".header.size = sizeof(msg.payload.mem_regions)," in driver:
        return insert(driver, "", TABLE, "\treturn vhost_user_send(vu_dev, false, &msg, fds,\n", "the memory table")
    if ".header.size = offsetof(typeof(msg.payload.mem_regions), regions[1])," in driver:
        return driver
    refuse("it is not known which length its memory table is sent with")


def interrupt(driver):
    if "vu_dev->irq = UM_IRQ_ALLOC;" in driver:
        return driver
    start = driver.find("static int vu_setup_vq_call_fd(")
    if start < 0:
        refuse("there is no vu_setup_vq_call_fd")
    head, body = driver[:start], driver[start:]
    request = "\tif (rc < 0)\n\t\tgoto close_both;\n"
    body = insert(body, request, "\tvu_dev->irq = rc;\n", "", "the request of an interrupt")
    return insert(head + body, "\tvu_dev->req_fd = -1;\n", "\tvu_dev->irq = UM_IRQ_ALLOC;\n", "", "the set-up of a device")


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    tree = pathlib.Path(sys.argv[1])
    driver_name, mem_name = "arch/um/drivers/virtio_uml.c", "arch/um/kernel/mem.c"
    mem = zero_page(read(tree, "mm/mm_init.c"), read(tree, mem_name))
    driver = interrupt(table(read(tree, driver_name)))
    (tree / mem_name).write_text(mem)
    (tree / driver_name).write_text(driver)


main()
