"""podman or docker, called as programs.

An image is never fetched here: what runs is the image that lies on this machine, by its own ID, so
that nothing can change between the look at it and the run.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node.domain.errors import JobFailed, JobRefused

ENGINE_VARIABLE = "SEGNODE_CONTAINER_ENGINE"
FLAGS_VARIABLE = "SEGNODE_CONTAINER_FLAGS"
ENGINES = ("podman", "docker")

# what engines and kernels say where another attempt would end the same way: of an image, a flag, a
# GPU that is not there, a program that cannot be run
_FOR_GOOD = (
    *("no such image", "image not known", "invalid reference format"),
    *("unknown flag", "unknown shorthand flag", "invalid argument"),
    *("could not select device driver", "unresolvable cdi devices"),
    *("exec format error", "executable file not found", "open executable"),
)
_CALL_S = 120.0
_LOOK_S = 20.0
_SENTENCE = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerOrder:
    """One container to be made.

    Args:
        image_id: ID of an image on this machine.
        input_folder: (here, in the container); mounted read-only.
        output_folder: In the container; a fresh volume.
        device: ``cpu``, ``cuda`` or ``cuda:1``.
    """

    name: str
    labels: Mapping[str, str]
    image_id: str
    arguments: Sequence[str]
    input_folder: tuple[Path, str]
    output_folder: str
    device: str
    memory_gb: float
    shm_gb: float
    flags: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Engine:
    """A program that runs containers, and which of the two dialects it speaks."""

    program: str

    @property
    def name(self) -> str:
        """``podman`` or ``docker``, or what else the program is called."""
        return Path(self.program).name

    def create_command(self, order: ContainerOrder) -> list[str]:
        """The command line that makes a container, which does not start yet."""
        here, inside = order.input_folder
        return [
            *(self.program, "create", "--pull=never", "--name", order.name),
            *(f"--label={key}={value}" for key, value in order.labels.items()),
            "--network=none",
            "--log-driver=none",
            "--security-opt=no-new-privileges",
            f"--memory={round(order.memory_gb * 1024)}m",
            f"--shm-size={round(order.shm_gb * 1024)}m",
            f"--mount=type=bind,source={here},target={inside},readonly",
            f"--volume={order.output_folder}",
            *self._device(order.device),
            *order.flags,
            order.image_id,
            *order.arguments,
        ]

    def call(self, *arguments: str, timeout_s: float = _CALL_S) -> str:
        """What a command of the engine prints.

        Raises:
            JobFailed: It failed; permanent only where the engine says that nothing will change.
        """
        try:
            done = subprocess.run(  # noqa: S603 - the engine that the operator installed
                tied([self.program, *arguments]),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout_s,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise JobFailed(f"{self.name} {arguments[0]}: {type(error).__name__}") from error
        if done.returncode != 0:
            *_, last = ("it says nothing", *done.stderr.strip().splitlines())
            raise JobFailed(
                f"{self.name} {arguments[0]} failed: {last.strip()[:_SENTENCE]}",
                permanent=is_for_good(done.stderr),
            )
        return done.stdout

    def inspect(self, name: str) -> Mapping[str, Any]:
        """The state of a container: ExitCode, OOMKilled, StartedAt."""
        state: Mapping[str, Any] = json.loads(
            self.call("inspect", "--type=container", "--format={{json .State}}", name)
        )
        return state

    def find_image(self, reference: str) -> tuple[str, ...]:
        """What names the image of that reference on this machine; nothing where the engine knows none.

        Its ID, ``sha256:...``, and the digests of its manifests, as registries know them.


        Raises:
            JobFailed: The engine does not answer.
        """
        try:
            found = json.loads(self.call("image", "inspect", reference, timeout_s=_LOOK_S))
        except JobFailed:
            # tell an image that is not there from an engine that is not well
            self.call("image", "ls", "--quiet", timeout_s=_LOOK_S)
            return ()
        facts = found[0]
        image_id = str(facts["Id"])
        digests = {str(each).rpartition("@")[2] for each in facts.get("RepoDigests") or ()}
        if facts.get("Digest"):  # podman's
            digests.add(str(facts["Digest"]))
        return (f"sha256:{image_id.removeprefix('sha256:')}", *sorted(digests))

    def _device(self, device: str) -> list[str]:
        kind, _, index = device.partition(":")
        if kind != "cuda":
            return []
        if self.name == "docker":
            return [f"--gpus=device={index}" if index else "--gpus=all"]
        return [f"--device=nvidia.com/gpu={index or 'all'}"]


def find_image(reference: str, image_id: str) -> tuple[Engine, str]:
    """An engine of this machine that has an image, and the image's own ID.

    Args:
        image_id: What the image must be, by its own digest or that of its manifest; empty: any.
    Raises:
        JobFailed: There is no engine, it does not answer, or it has not that image; the sentence
            says what to do.
    """
    without: list[Engine] = []
    trouble: JobFailed | None = None
    for engine in _engines():
        try:
            names = engine.find_image(reference)
        except JobFailed as error:
            trouble = trouble or error
            continue
        if not names:
            without.append(engine)
            continue
        if image_id and image_id not in names:
            raise JobRefused(
                f"the image {reference} on this machine is not the one that model.yaml pins with"
                " image_id: pull that one, or pin this one"
            )
        return engine, names[0]
    if trouble is not None and not without:
        raise trouble
    raise JobRefused(
        f"the image {reference} is not on this machine: {without[0].name} pull {reference}"
    )


def extra_flags() -> list[str]:
    """Flags that this machine needs, behind all others: the last of a kind is the one that counts.

    Raises:
        JobRefused: They are not words of a shell.
    """
    try:
        return shlex.split(os.environ.get(FLAGS_VARIABLE, ""))
    except ValueError as error:
        raise JobRefused(f"{FLAGS_VARIABLE} cannot be read: {error}") from error


def tied(command: Sequence[str]) -> list[str]:
    """The command, killed by the kernel when the thread that starts it ends.

    The limit on memory that this process lives under is not for the container, which would inherit
    it from podman: it has one of its own.
    """
    setpriv, prlimit = shutil.which("setpriv"), shutil.which("prlimit")
    return [
        *([setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []),
        *([prlimit, "--data=unlimited", "--"] if prlimit else []),
        *command,
    ]


def is_for_good(said: str) -> bool:
    """Whether the words of an engine mean that another attempt would end the same way."""
    folded = said.casefold()
    return any(words in folded for words in _FOR_GOOD)


def _engines() -> list[Engine]:
    named = os.environ.get(ENGINE_VARIABLE, "")
    found = [path for name in ((named,) if named else ENGINES) if (path := shutil.which(name))]
    if not found and named:
        raise JobRefused(f"{ENGINE_VARIABLE} names {named}, which is no program here")
    if not found:
        raise JobRefused(
            "no container engine is installed: install podman or docker, or name another in"
            f" {ENGINE_VARIABLE}"
        )
    return [Engine(path) for path in found]
