"""What is particular to CUDA devices: number types, the same labels every time, recorded windows.

A network of some hundred small kernels keeps a card waiting for the host that launches them one by
one: 19 of the 25 ms of a window. A CUDA graph of one window launches them all at once. It holds for
one shape and one precision, keeps the memory of one window for as long as it lives, and lives as long
as the network that it is of.

A recording repeats what the network did while it was recorded. So it counts only where it then
answered another plain call bit for bit; what cannot be recorded, such as a network that looks at its
values on the host, is asked window by window as before, and that is told.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from node.infer.bundle.windows import Network

_NOT_RECORDED = "windows are launched one by one: the network cannot be recorded"


@contextmanager
def as_asked(precision: str) -> Iterator[None]:
    """Convolutions in the number type that was asked for, by the same algorithm every time.

    By default cuDNN computes fp32 with the 10 bits of TF32. The settings are those of the process:
    afterwards they are what they were.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic, matmul.allow_tf32
    try:
        cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic = precision != "fp32", False, True
        matmul.allow_tf32 = False  # what decides between classes
        yield
    finally:
        cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic, matmul.allow_tf32 = before


@dataclass(slots=True, eq=False)
class Recorder:
    """At most one recording, kept with the network that it is of."""

    _key: Hashable = None
    _recording: _Recording | None = None
    _refused: dict[Hashable, str] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether there is none, nor its memory."""
        return self._recording is None

    def drop(self) -> None:
        """Let go of the recording and its memory."""
        self._key = self._recording = None

    def of(self, network: Network, precision: str, tell: Callable[[str], None]) -> Network:
        """The network of one run: recorded at its second window of a shape, replayed from then on.

        Args:
            network: The same one at every call, on a CUDA device.
            tell: Gets a sentence, once a run, where it cannot be recorded.
        Returns:
            What answers windows with a tensor that the next call overwrites.
        """
        asked: set[Hashable] = set()
        told: list[str] = []

        def answer(windows: Tensor) -> object:
            key = (precision, windows.shape, windows.dtype, windows.device)
            if self._recording is not None and key == self._key:
                return self._recording.replay(windows)
            plain = key not in asked or key in self._refused
            reply = network(windows) if plain else self._record(key, network, windows)
            if key in self._refused and not told:
                told.append(f"{_NOT_RECORDED} ({self._refused[key]})")
                tell(told[0])
            asked.add(key)
            return reply

        return answer

    def _record(self, key: Hashable, network: Network, windows: Tensor) -> object:
        """The answer of a plain call; if a recording answers alike, it is kept."""
        self.drop()
        plain = network(windows.clone())
        if not isinstance(plain, Tensor):
            return plain
        why = "its answer was another one"
        try:
            recording = _Recording(network, windows)
            replayed = recording.replay(windows)
            if replayed.dtype == plain.dtype and torch.equal(replayed, plain):
                self._key, self._recording = key, recording
                return plain
        except RuntimeError as error:
            why = str(error).partition("\n")[0]
        self._refused[key] = why
        return plain


class _Recording:
    """A CUDA graph of one call, with what it is given and what it answers."""

    def __init__(self, network: Network, windows: Tensor) -> None:
        device = windows.device
        self._given = windows.clone()
        side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        pool = torch.cuda.graph_pool_handle()
        side.wait_stream(torch.cuda.current_stream(device))
        # the outer context gives the stream back where the graph's own does not, after an error
        with torch.cuda.stream(side):
            network(self._given)  # what a first call sets up is not to be recorded
            self._graph = torch.cuda.CUDAGraph()
            with ExitStack() as undo:
                undo.callback(_end_pool, side, pool)
                # other threads may allocate meanwhile
                with torch.cuda.graph(
                    self._graph, pool=pool, stream=side, capture_error_mode="thread_local"
                ):
                    answer = network(self._given)
                undo.pop_all()
        torch.cuda.current_stream(device).wait_stream(side)
        if not isinstance(answer, Tensor):
            raise RuntimeError("it does not answer with a tensor")
        self._answer = answer

    def replay(self, windows: Tensor) -> Tensor:
        """The answer to these windows, until the next ones."""
        self._given.copy_(windows)
        self._graph.replay()
        return self._answer


def _end_pool(side: torch.cuda.Stream, pool: Any) -> None:
    """What torch 2.11 forgets after a recording that failed: no cache could be emptied any more."""
    with suppress(RuntimeError, AttributeError):
        torch._C._cuda_endAllocateToPool(side.device_index, pool)
