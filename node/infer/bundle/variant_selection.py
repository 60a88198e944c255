"""What a job wants of a bundle: one of its variants, and all of its labels or some.

A job names the variant; where it does not, ``node.pipeline.judge`` asked the header of its first
input beforehand (``variant_by`` in model.yaml).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from node.domain.errors import JobFailed
from node.domain.segment import segments_named
from node.infer.bundle.config import Bundle, settings_of
from node.infer.registry import ModelSpec

_ASKED_BY_CLASS = "VistaPostTransformd"


def variant_of(spec: ModelSpec) -> str:
    """The variant of the job's parameters, else the first.

    Raises:
        JobFailed: There is no such variant, or the header was to choose one and nobody asked it;
            permanent.
    """
    settings = settings_of(spec)
    wanted = spec.runner.parameters.get("variant")
    if wanted is None and not settings.variant_by:
        return next(iter(settings.variants))
    if wanted not in settings.variants:
        what = "names no variant" if wanted is None else f"has no variant {wanted!r}"
        there_are = ", ".join(settings.variants)
        raise JobFailed(f"{spec.name} {what}; there are: {there_are}", permanent=True)
    return str(wanted)


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
