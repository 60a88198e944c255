"""Content: what an input shows, the same by whatever road and in whatever encoding it came.

The bytes of one series differ by transfer syntax, by length encoding, by what a peer re-wrote on the
way; its voxels and their place do not. What a result is called follows from them, so that a series
that comes by STOW-RS to one node and by C-STORE to another gets one and the same result.

Source: PS3.5 Annex A (encodings), PS3.3 C.7.6.2 (image plane).
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from node.domain.grid import Stack

_THREADS = 4


def content_digest(stack: Stack, array: NDArray[np.generic]) -> str:
    """A digest over the voxels of a stack, where they lie, and whose instances they are.

    Args:
        array: In the modality's unit, shape (slice, row, column).
    """
    digest = hashlib.sha256()
    grid = stack.grid
    place = (grid.shape, grid.origin_mm, grid.steps_mm, grid.frame_of_reference_uid)
    digest.update(repr((place, array.dtype.str)).encode())
    with ThreadPoolExecutor(_THREADS) as threads:
        slices = threads.map(lambda plane: hashlib.sha256(np.ascontiguousarray(plane).data), array)
        for frame, voxels in zip(stack.frames, slices, strict=True):
            digest.update(f"{frame.sop_instance_uid}:{frame.frame_number}:".encode())
            digest.update(voxels.digest())
    return digest.hexdigest()
