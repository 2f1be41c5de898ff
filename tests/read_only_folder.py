"""A folder that cannot be written, whoever runs the tests."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def read_only(folder: Path) -> Iterator[Path]:
    """``folder`` without the permission to write; for root, whom permissions do not stop, mounted read-only.

    Skips the test where root may not mount.
    """
    if os.geteuid():
        modes = {path: path.stat().st_mode for path in [folder, *folder.rglob("*")]}
        for path, mode in modes.items():
            path.chmod(mode & ~0o222)
        try:
            yield folder
        finally:
            for path, mode in modes.items():
                path.chmod(mode)
        return
    if not _ran("mount", "--bind", folder, folder):
        pytest.skip("this user may not mount a folder")
    try:
        if not _ran("mount", "-o", "remount,ro,bind", folder):
            pytest.skip("this user may not mount a folder read-only")
        yield folder
    finally:
        _ran("umount", "--lazy", folder)  # files of it may still be mapped into memory


def _ran(*command: object) -> bool:
    try:
        return subprocess.run(list(map(str, command)), capture_output=True, check=False).returncode == 0
    except OSError:  # there is no such command
        return False
