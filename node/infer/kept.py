"""What a child keeps from one job to the next; it ends with the child."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from node.infer.assets import FileHashes

if TYPE_CHECKING:  # a child that does not run models does not wait for pydantic
    from node.infer.registry import ModelSpec

T = TypeVar("T")


class Kept:
    """One loaded network, since they are large, models as read, and hashes of unchanged files.

    The child's main makes it and hands it to every request; whoever runs without a child has one of
    its own for each run.
    """

    def __init__(self) -> None:
        self.hashes = FileHashes()
        self._models: dict[Path, ModelSpec] = {}
        self._network: tuple[Hashable, Any] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether no network is kept."""
        return self._network is None

    def model(self, folder: Path, load: Callable[[Path], ModelSpec], digest: str = "") -> ModelSpec:
        """The model of a folder as it was read before, where that has this digest; else read anew."""
        found = self._models.get(folder)
        if found is None or found.digest != digest:
            found = self._models[folder] = load(folder)
        return found

    def network(self, key: Hashable, load: Callable[[], T], make_room: Callable[[], None]) -> T:
        """The network of this key, loaded where another one is kept, or none.

        Args:
            make_room: Called before the load, when the other one is gone.
        """
        if self._network is None or self._network[0] != key:
            self.drop_network()
            make_room()
            self._network = (key, load())
        found: T = self._network[1]
        return found

    def drop_network(self) -> None:
        """Let go of what is kept."""
        self._network = None
