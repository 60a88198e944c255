"""What a job wants of a bundle: one of its variants, and all of its labels or some.

A job names the variant, or the header of its series chooses it (``variant_by`` in model.yaml). What
the header does not tell is not guessed: a body's variant on a brain gives labels all the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from node.domain.errors import JobFailed
from node.domain.header import Header, Missing
from node.domain.segment import segments_named
from node.infer.bundle.config import Bundle, settings_of
from node.infer.registry import ModelSpec

_DESCRIPTIONS = (
    "SeriesDescription",
    "ProtocolName",
    "StudyDescription",
    "RequestedProcedureDescription",
)
_BRAIN = re.compile(
    r"\b(brain|head|skull|neuro|neurocranium|cerebr\w*|crani\w*|mp ?rage|kopf|sch(ae?|ä)del\w*"
    r"|(ge)?hirn|t[eê]te|cerveau|cabeza|cerebro)\b"
)
_BODY = re.compile(
    r"\b(neck|hals|chest|thora\w*|abdom\w*|liver|leber|kidneys?|pancreas|pelvi\w*|becken|prostat\w*"
    r"|breasts?|mamm\w*|heart|card\w*|herz|spine|[ctl] ?spine|hws|bws|lws|lumbar|knee|hip|shoulder"
    r"|femoral|humeral|extremity|wrist|ankle|foot|hand|whole ?body|wholebody|mrcp)\b"
)
_ASKED_BY_CLASS = "VistaPostTransformd"


def variant_of(spec: ModelSpec, header: Header) -> str:
    """The variant that the job names, else the one for what the series shows, else the first.

    Args:
        header: Of the series whose grid the labels lie on.
    Raises:
        JobFailed: There is no such variant, or the header does not tell; permanent.
    """
    settings = settings_of(spec)
    there_are = ", ".join(settings.variants)
    wanted = spec.runner.parameters.get("variant")
    if wanted is not None:
        if wanted not in settings.variants:
            raise JobFailed(
                f"{spec.name} has no variant {wanted!r}; there are: {there_are}", permanent=True
            )
        return str(wanted)
    if not settings.variant_by:
        return next(iter(settings.variants))
    shown = _shown(header, has_brain="MR_BRAIN_T1" in settings.variant_by)
    for kind, variant in settings.variant_by.items():
        if kind == shown:
            return variant
    reason = shown.reason if isinstance(shown, Missing) else f"{shown} is not provided for"
    raise JobFailed(
        f"{reason}, so no variant of {spec.name} goes without saying: name one of {there_are} as the"
        " parameter variant of the rule",
        permanent=True,
    )


def labels_wanted(spec: ModelSpec) -> list[int]:
    """The label values that the job's ``labels`` name; none: all.

    Raises:
        JobFailed: A name is unknown; permanent.
    """
    wanted = spec.runner.parameters.get("labels")
    if not wanted:
        return []
    if not isinstance(wanted, str | list | tuple):
        raise JobFailed("labels: give a list of names", permanent=True)
    names = wanted.split(",") if isinstance(wanted, str) else [str(name) for name in wanted]
    try:
        kept = segments_named(spec.segments, [name.strip() for name in names])
    except ValueError as error:
        raise JobFailed(f"labels: {error}", permanent=True) from error
    return [segment.label_value for segment in kept]


def is_asked_by_class(bundle: Bundle) -> bool:
    """Whether its network answers only for the classes that it is asked for, by label value."""
    return _ASKED_BY_CLASS in bundle.config.read_text(encoding="utf-8")


def asking_for(bundle: Bundle, labels: Sequence[int]) -> Bundle:
    """The bundle with its own data set asking for some classes, as its publisher would."""
    case = {"label_prompt": list(labels)}
    return replace(bundle, overrides={**bundle.overrides, "dataset#data": [case]})


def _shown(header: Header, *, has_brain: bool) -> str | Missing:
    """A kind of ``variant_by``, or why it cannot be told.

    Args:
        has_brain: The brain in MR has a variant of its own.
    """
    modality = header.text("Modality").upper()
    if not modality:
        return Missing("the series does not say its Modality")
    if modality != "MR" or not has_brain:
        return modality
    part = header.text("BodyPartExamined")
    region = part or " ".join(map(header.text, _DESCRIPTIONS))
    words = re.sub(r"[\W_]+", " ", region.lower())
    is_brain, is_body = bool(_BRAIN.search(words)), bool(_BODY.search(words))
    if is_brain == is_body and not part:
        return Missing("the header does not tell whether this MR series shows the brain")
    if is_body or not is_brain:
        return "MR"
    sequence = header.get("sequence")
    if isinstance(sequence, Missing):
        return Missing(f"the sequence of this MR series of the brain is unknown: {sequence.reason}")
    if header.text("sequence") != "T1":
        return Missing(f"this MR series of the brain is {header.text('sequence')}")
    return "MR_BRAIN_T1"
