#!/usr/bin/env python3
"""Lets QEMU's vhost-user-blk device hand a zoned disk to the guest.

Usage: qemu-source-edit.py QEMU_SOURCE_FOLDER

Two additions to hw/block/vhost-user-blk.c: the feature VIRTIO_BLK_F_ZONED among those that the device takes from the daemon, and a device
property "zoned" that sets the feature in host_features, by which the device's configuration space grows to the 96 bytes that include the
zones. QEMU before 8.1 does not know the feature at all and gets its number, its fields and their size as well. A source tree that is not as
expected (or has the additions already) is refused and left alone. docs/qemu.md says for which releases this was tried.
"""

import pathlib
import re
import sys

DEVICE = "hw/block/vhost-user-blk.c"
SIZES = "hw/block/virtio-blk-common.c"
HEADER = "include/standard-headers/linux/virtio_blk.h"

# The fields behind those of write zeroes: three numbers for secure erase, then the zones (virtio 1.3, 5.2.4).
SECURE_ERASE_FIELDS = """
\t__virtio32 max_secure_erase_sectors;
\t__virtio32 max_secure_erase_seg;
\t__virtio32 secure_erase_sector_alignment;
"""
ZONE_FIELDS = """
\tstruct {
\t\t__virtio32 zone_sectors;
\t\t__virtio32 max_open_zones;
\t\t__virtio32 max_active_zones;
\t\t__virtio32 max_append_sectors;
\t\t__virtio32 write_granularity;
\t\tuint8_t model;
\t\tuint8_t unused2[3];
\t} zoned;
"""


def refuse(why):
    sys.exit(f"qemu-source-edit.py: this QEMU source is not as expected: {why}")


class Source:
    """One file of the tree, changed in memory until all changes of all files have found their places."""

    def __init__(self, tree, name):
        self.name = name
        self.path = tree / name
        if not self.path.is_file():
            refuse(f"there is no {self.path}")
        self.text = self.path.read_text()

    def insert(self, block_start, block_end, line, addition, what):
        """Puts `addition` before the one `line` between the one `block_start` and the next `block_end` (regular expressions)."""
        starts = list(re.finditer(block_start, self.text, re.M))
        if len(starts) != 1:
            refuse(f"{self.name}: {what}: its beginning is there {len(starts)} times, expected once")
        begin = starts[0].end()
        end = re.compile(block_end, re.M).search(self.text, begin)
        if end is None:
            refuse(f"{self.name}: {what}: it has no end")
        places = [m.start() for m in re.compile(line, re.M).finditer(self.text, begin, end.end())]
        if len(places) != 1:
            refuse(f"{self.name}: {what}: the place for the addition is there {len(places)} times, expected once")
        self.text = self.text[: places[0]] + addition + self.text[places[0] :]


def teach_the_feature(header, sizes):
    """For a QEMU that does not know VIRTIO_BLK_F_ZONED: its bit, its part of the configuration, and how far that reaches."""
    header.insert(
        r"^#define VIRTIO_BLK_F_WRITE_ZEROES\s+14\b.*$",
        r"^#(ifndef|endif)\b",
        r"^#ifndef VIRTIO_BLK_NO_LEGACY$|^/\* Legacy feature bits \*/$",
        "#define VIRTIO_BLK_F_ZONED\t\t17\t/* Zoned block device */\n\n",
        "the feature bits",
    )
    fields = ZONE_FIELDS if "secure_erase_sector_alignment;" in header.text else SECURE_ERASE_FIELDS + ZONE_FIELDS
    header.insert(r"^struct virtio_blk_config \{$", r"^\} QEMU_PACKED;$", r"^\} QEMU_PACKED;$", fields, "the configuration")
    sizes.insert(
        r"feature_sizes\[\] = \{$",
        r"^\};$",
        r"^    \{\}$",
        "    {.flags = 1ULL << VIRTIO_BLK_F_ZONED,\n     .end = endof(struct virtio_blk_config, zoned)},\n",
        "the sizes of the configuration",
    )


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    tree = pathlib.Path(sys.argv[1])
    device, sizes, header = (Source(tree, name) for name in (DEVICE, SIZES, HEADER))
    if "VIRTIO_BLK_F_ZONED" in device.text:
        refuse(f"{DEVICE} knows VIRTIO_BLK_F_ZONED already")
    if "virtio_blk_cfg_size_params" not in device.text:
        refuse(f"{DEVICE} does not size its configuration by features")
    known = ["VIRTIO_BLK_F_ZONED" in source.text for source in (header, sizes)]
    if not any(known):
        teach_the_feature(header, sizes)
    elif not all(known):
        refuse(f"of {HEADER} and {SIZES} only one knows VIRTIO_BLK_F_ZONED")
    device.insert(
        r"^static const int user_feature_bits\[\] = \{$",
        r"^\};$",
        r"^    VHOST_INVALID_FEATURE_BIT,?$",
        "    VIRTIO_BLK_F_ZONED,\n",
        "the list of features",
    )
    device.insert(
        r"^static (?:const )?Property vhost_user_blk_properties\[\] = \{$",
        r"^\};$",
        r"^(?:    DEFINE_PROP_END_OF_LIST\(\),\n)?\};$",
        '    DEFINE_PROP_BIT64("zoned", VHostUserBlk, parent_obj.host_features,\n'
        "                      VIRTIO_BLK_F_ZONED, false),\n",
        "the list of properties",
    )
    for source in (header, sizes, device):
        source.path.write_text(source.text)


main()
