#!/usr/bin/env python3
"""How long a file system takes for an fdatasync behind small writes that go to one place or to many, without any disk of ours.

Usage: streams.py [FOLDER]

Each line: writes of 4 KiB, in turn to so many streams 64 MiB apart in one new file of 8 GiB, an fdatasync after every 64 or
128; median and 90th percentile of 400.
"""

import os
import sys
import tempfile
import time

SYNCS = 400
BLOCK = b"x" * 4096
APART = 64 << 20


def measure(folder, streams, writes):
    """Seconds of each fdatasync, in ascending order."""
    with tempfile.TemporaryFile(dir=folder) as file:
        fd = file.fileno()
        os.ftruncate(fd, 8 << 30)
        places = [stream * APART for stream in range(streams)]
        taken = []
        for number in range(SYNCS * writes):
            stream = number % streams
            os.pwrite(fd, BLOCK, places[stream])
            places[stream] += len(BLOCK)
            if number % writes == writes - 1:
                began = time.perf_counter()
                os.fdatasync(fd)
                taken.append(time.perf_counter() - began)
    return sorted(taken)


def main():
    if any(option in sys.argv for option in ("-h", "--help")):
        sys.exit(print(__doc__))
    folder = sys.argv[1] if len(sys.argv) > 1 else "/var/tmp"
    for streams in (1, 8, 32):
        for writes in (64, 128):
            taken = measure(folder, streams, writes)
            median, late = (1000 * taken[SYNCS * part // 100] for part in (50, 90))
            print(f"{streams:3} streams, a sync after {writes:3} writes: {median:.2f} ms, p90 {late:.2f} ms")


main()
