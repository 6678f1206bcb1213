"""A zoned disk for a test: a vhost-user-zbd daemon under the test's control. The fixtures are in plugin.py."""

from .disk import DiskError, GuestResult, Zone, ZonedDisk

__all__ = ["DiskError", "GuestResult", "Zone", "ZonedDisk"]
