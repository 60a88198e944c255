"""Digests in processes of their own: within their memory, and without waiting for each other."""

from __future__ import annotations

import os
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from node.spool.digest_process import LARGE_BYTES, DigestProcess, DigestProcesses
from tests.support.instances import ct_slice, part10_bytes

MB = 1 << 20
FRAME_BYTES = 512 * 512 * 2


def large_file(path: Path, *, frames: int, last: bytes = b"") -> Path:
    """A multi-frame image of zeros, most of which takes no room on the disk."""
    image = ct_slice(side=512)
    image.NumberOfFrames = frames
    header = part10_bytes(image)
    header = header[: header.index(b"\xe0\x7f\x10\x00OW")]
    with path.open("wb") as file:
        file.write(header + b"\xe0\x7f\x10\x00OW\0\0" + struct.pack("<I", frames * FRAME_BYTES))
        file.truncate(file.tell() + frames * FRAME_BYTES)
        file.seek(-len(last), os.SEEK_END)
        file.write(last)
    return path


def test_a_file_larger_than_its_memory_is_compared(tmp_path: Path) -> None:
    process = DigestProcess(memory_bytes=400 * MB)
    one = large_file(tmp_path / "one", frames=1000)
    other = large_file(tmp_path / "other", frames=1000, last=b"\1\0")

    first, again, second = (process.digests(path) for path in (one, one, other))
    process.close()

    assert one.stat().st_size > 500 * MB
    assert first is not None
    assert first == again
    assert second is not None
    assert second.pixels != first.pixels


def test_frame_by_frame_a_file_has_the_digests_that_it_has_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from node.spool import digest_process

    path = large_file(tmp_path / "file", frames=LARGE_BYTES // FRAME_BYTES + 1, last=b"\1\2\3\4")
    by_frames = digest_process._digests_of(str(path))
    monkeypatch.setattr(digest_process, "LARGE_BYTES", 1 << 40)

    assert digest_process._digests_of(str(path)) == by_frames


def test_one_that_hangs_holds_nobody_up(tmp_path: Path) -> None:
    hanging, small = tmp_path / "hanging", tmp_path / "small"
    os.mkfifo(hanging)  # opening it waits for somebody who writes
    small.write_bytes(part10_bytes(ct_slice()))
    processes = DigestProcesses(timeout_s=3600)
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(processes.digests, hanging)
        with hanging.open("wb"):  # returns when the process has opened it: it waits for bytes now
            found = processes.digests(small)
            is_waiting = not held.done()
        nothing = held.result()
    processes.close()

    assert found is not None
    assert is_waiting
    assert nothing is None
