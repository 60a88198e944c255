"""Which SOP classes and transfer syntaxes this node takes, decided by what it can do.

Every storage class that pynetdicom knows is accepted, so that a push of a whole study never fails;
only image classes can be inputs of models. A compressed syntax is offered when a small sample of it
decodes at start-up, in a process of its own: a codec that is missing, wrong or that crashes costs
its syntaxes and nothing else.

Source: PS3.5 Annex A, PS3.4 B.5
"""

from __future__ import annotations

import json
import subprocess
import sys
from base64 import b64decode
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pynetdicom import AllStoragePresentationContexts

DEFLATED = str(DeflatedExplicitVRLittleEndian)
IMPLICIT_LITTLE_UID = str(ImplicitVRLittleEndian)
EXPLICIT_LITTLE_UID = str(ExplicitVRLittleEndian)
EXPLICIT_BIG_UID = str(ExplicitVRBigEndian)

# pixel data stand as they are; the order is the preference: least work, no loss
NATIVE_SYNTAXES = (EXPLICIT_LITTLE_UID, IMPLICIT_LITTLE_UID, EXPLICIT_BIG_UID, DEFLATED)

STORAGE_SOP_CLASSES = frozenset(
    str(context.abstract_syntax) for context in AllStoragePresentationContexts
)

_SAMPLES = "codec_samples.json"
_SIDE = 32
# what a lossy codec may change in a smooth ramp, of its full range
_LOSSY_TOLERANCE = 0.02
_PROBE_TIMEOUT_S = 60.0


@cache
def decodable_syntaxes() -> tuple[str, ...]:
    """Transfer syntaxes this installation can decode, in order of preference.

    The first call starts a process for about a second; the answer holds for the process's life.
    """
    probed: list[str] = []
    remaining = list(_samples())
    while remaining:
        # a codec that kills the probe is left out, and the probe goes on behind it
        answered = _run_probe(remaining)
        probed += [uid for uid, decoded in answered if decoded]
        remaining = remaining[len(answered) + 1 :]
    return (*NATIVE_SYNTAXES, *probed)


class Decodable:
    """The transfer syntaxes that can be decoded, as a container.

    Codecs are probed when it is first asked: a folder of native pixels does not wait for them.
    """

    def __contains__(self, transfer_syntax_uid: object) -> bool:
        return transfer_syntax_uid in decodable_syntaxes()


def storage_contexts() -> dict[str, tuple[str, ...]]:
    """Transfer syntaxes by storage SOP class, for the negotiation of associations."""
    return dict.fromkeys(sorted(STORAGE_SOP_CLASSES), decodable_syntaxes())


def _samples() -> Mapping[str, Mapping[str, str | int]]:
    text = files("node.receive").joinpath(_SAMPLES).read_text("utf-8")
    samples: Mapping[str, Mapping[str, str | int]] = json.loads(text)
    return samples


def _run_probe(uids: list[str]) -> list[tuple[str, bool]]:
    """One answer per syntax, in order, as far as the probe came."""
    command = [sys.executable, "-m", "node.receive.syntaxes", *uids]
    try:
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, check=False, timeout=_PROBE_TIMEOUT_S
        )
        output = done.stdout
    except subprocess.TimeoutExpired as expired:
        output = expired.stdout or b""
    lines = [line.split() for line in output.decode().splitlines()]
    return [(uid, answer == "True") for uid, answer in lines]


def decodes_sample(transfer_syntax_uid: str) -> bool:
    """Whether the sample of a syntax comes out as the ramp that it was made of."""
    import numpy as np
    from pydicom.encaps import encapsulate
    from pydicom.pixels.decoders.base import DecodeOptions, get_decoder

    sample = _samples()[transfer_syntax_uid]
    bits = int(sample["bits"])
    row, column = np.mgrid[0:_SIDE, 0:_SIDE]
    ramp = column * 4 + row * 2 if bits == 8 else column * 80 + row * 40
    options = DecodeOptions(
        rows=_SIDE,
        columns=_SIDE,
        number_of_frames=1,
        samples_per_pixel=1,
        bits_allocated=8 if bits == 8 else 16,
        bits_stored=bits,
        pixel_representation=0,
        photometric_interpretation="MONOCHROME2",
        pixel_keyword="PixelData",
    )
    try:
        pixels, _ = get_decoder(transfer_syntax_uid).as_array(
            encapsulate([b64decode(str(sample["frame"]))], has_bot=False),
            **options,  # type: ignore[arg-type]
        )
    except (RuntimeError, ValueError, NotImplementedError, AttributeError, ImportError):
        return False
    return bool(np.abs(pixels.astype(np.int64) - ramp).max() <= _LOSSY_TOLERANCE * ramp.max())


if __name__ == "__main__":
    for each in sys.argv[1:]:
        sys.stdout.write(f"{each} {decodes_sample(each)}\n")
        sys.stdout.flush()
