#!/usr/bin/env python3
"""Lets QEMU's vhost-user-blk device hand a zoned disk to the guest.

Usage: qemu-source-edit.py QEMU_SOURCE_FOLDER

Two additions to hw/block/vhost-user-blk.c: the feature VIRTIO_BLK_F_ZONED among those that the device takes from the daemon, and a device
property "zoned" that sets the feature in host_features, by which the device's configuration space grows to the 96 bytes that include the
zones. A source tree that is not as expected (or has the additions already) is refused and left alone.
"""

import pathlib
import re
import sys


def refuse(why):
    sys.exit(f"qemu-source-edit.py: this QEMU source is not as expected: {why}")


def insert_before(text, block_start, line, addition, what):
    """Puts `addition` before the first `line` after `block_start`; each must be there exactly once in its place."""
    if len(re.findall(block_start, text, re.M)) != 1:
        refuse(f"{what}: its beginning is not there exactly once")
    begin = re.search(block_start, text, re.M).end()
    block_end = text.find("\n};\n", begin) + 1
    if block_end == 0:
        refuse(f"{what}: it has no end")
    places = [m.start() for m in re.finditer(line, text[begin:block_end] + "};\n", re.M)]
    if len(places) != 1:
        refuse(f"{what}: the place for the addition is not there exactly once")
    at = begin + places[0]
    return text[:at] + addition + text[at:]


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    tree = pathlib.Path(sys.argv[1])
    device = tree / "hw/block/vhost-user-blk.c"
    sizes = tree / "hw/block/virtio-blk-common.c"
    for path in (device, sizes):
        if not path.is_file():
            refuse(f"there is no {path}")
    text = device.read_text()
    if "VIRTIO_BLK_F_ZONED" in text:
        refuse(f"{device} knows VIRTIO_BLK_F_ZONED already")
    if "VIRTIO_BLK_F_ZONED" not in sizes.read_text():
        refuse(f"{sizes} has no configuration size for VIRTIO_BLK_F_ZONED")
    if "virtio_blk_cfg_size_params" not in text:
        refuse(f"{device} does not size its configuration by features")
    text = insert_before(
        text,
        r"^static const int user_feature_bits\[\] = \{$",
        r"^    VHOST_INVALID_FEATURE_BIT$",
        "    VIRTIO_BLK_F_ZONED,\n",
        "the list of features",
    )
    text = insert_before(
        text,
        r"^static (?:const )?Property vhost_user_blk_properties\[\] = \{$",
        r"^(?:    DEFINE_PROP_END_OF_LIST\(\),\n)?\};$",
        '    DEFINE_PROP_BIT64("zoned", VHostUserBlk, parent_obj.host_features,\n'
        "                      VIRTIO_BLK_F_ZONED, false),\n",
        "the list of properties",
    )
    device.write_text(text)


main()
