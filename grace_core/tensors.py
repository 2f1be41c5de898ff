"""Safetensors files through memory maps: vectors are read where they are used, and written without being held
in memory.

The format is that of the safetensors library: 8 bytes little-endian length, that much JSON (padded with
spaces to a multiple of 8), then the tensors one after the other. Only what an index stores is known here:
fp32 and int64.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from grace_core.errors import GraceError
from grace_core.geometry import RAW, Geometry
from grace_core.pooling import TEXT, Pooling, embeddings

BLOCK = 16_384  # rows that are worked on at once
_NAMES = {"F32": np.dtype("<f4"), "I64": np.dtype("<i8")}


def map_tensors(path: Path, mode: str = "r") -> dict[str, np.ndarray]:
    """Arrays over the file, by name, read-only unless ``mode`` is "r+". Raises GraceError if it is no such file."""
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > path.stat().st_size:
                raise ValueError(f"a header of {length} bytes")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        return {
            name: np.asarray(
                np.memmap(
                    path, _NAMES[entry["dtype"]], mode, 8 + length + entry["data_offsets"][0], tuple(entry["shape"])
                )
            )
            for name, entry in header.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise GraceError(
            f"{path} holds no vectors that can be read ({error!r}); remove its folder and build again"
        ) from error


def create_tensors(path: Path, tensors: dict[str, tuple[str, tuple[int, ...]]]) -> dict[str, np.memmap]:
    """A new file of zeros as arrays to be written to, from ``{name: ("F32" or "I64", shape)}``; 8-byte types go first.

    The room is reserved at once: a disk that is full raises OSError here, where a write through the map would
    end the process.
    """
    header, begin = {}, 0
    for name, (dtype, shape) in tensors.items():
        end = begin + _NAMES[dtype].itemsize * int(np.prod(shape))
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.flush()
        reserve(file.fileno(), file.tell() + begin)
    offset = 8 + len(text)
    return {
        name: np.memmap(path, _NAMES[entry["dtype"]], "r+", offset + entry["data_offsets"][0], tuple(entry["shape"]))
        for name, entry in header.items()
    }


def reserve(descriptor: int, size: int) -> None:
    """Make the file ``size`` bytes long, with the room on the disk set aside where the system can do that."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:  # macOS
        os.ftruncate(descriptor, size)


@dataclass(frozen=True)
class PooledVectors:
    """L2-normalised vectors ``(n, d)`` fp32 of stored part sums ``(n, 3, d)`` in a geometry, computed for the
    rows that are asked for.
    """

    sums: np.ndarray
    counts: np.ndarray
    pooling: Pooling
    geometry: Geometry = RAW

    @property
    def shape(self) -> tuple[int, int]:
        return self.sums.shape[0], self.sums.shape[2]

    def __len__(self) -> int:
        return len(self.sums)

    def __getitem__(self, rows) -> np.ndarray:
        """The embeddings of a slice or an array of rows."""
        if not self.geometry.is_raw:
            return self.geometry.vectors(self.sums[rows], self.counts[rows], self.pooling)
        parts = slice(TEXT, TEXT + 1) if self.pooling is Pooling.TEXT else slice(None)  # what is not pooled is not read
        return embeddings(self.sums[rows, parts], self.counts[rows], self.pooling)

    def all(self, out: np.ndarray | None = None) -> np.ndarray:
        """Every row, computed block by block, in a new array or in ``out``."""
        out = np.empty(self.shape, np.float32) if out is None else out
        for start in range(0, len(self), BLOCK):
            out[start : start + BLOCK] = self[start : start + BLOCK]
        return out
