"""Configuration: one YAML file, read once, validated whole, frozen.

Enters: the text of the file and the environment (for secrets only). Leaves: ``NodeConfig``, plain
frozen values with absolute paths; its ``digest`` names the content without secrets. Relative paths
start from the folder of the file, or from the working folder where there is no file.

A section is read as its value is annotated (``node.domain.settings``), and judges itself. The values of
``dimse``, ``web``, ``storage``, ``work``, folders and rules stand in ``values``; ``completion`` and the kinds
of destinations are values of the stages that use them: nothing else of a stage is imported here.

Can fail: ``ConfigInvalid`` with every mistake, each with its path (``rules.2.when.Modalty``) and one
sentence that says what to do. The clauses of rules are the route stage's business: ``check_rules`` is
how the pipeline hands its checks in (``node.route.compiling``), so that all mistakes of a file come in
one answer. It gets the list of rules as it stands in the file. ``forms`` is the table of result forms.

``config/node.yaml`` shows every key; ``docs/configuration.md`` explains them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from node.config.building import build, mistakes_between, mistakes_of_forms
from node.config.reading import Reader
from node.config.values import AuthConfig, KeepDays, NodeConfig, RuleConfig, WorkConfig
from node.config.yaml_text import read_yaml
from node.domain.errors import ConfigInvalid
from node.domain.settings import Mistake

__all__ = [
    "AuthConfig",
    "KeepDays",
    "NodeConfig",
    "RuleConfig",
    "WorkConfig",
    "glance",
    "load",
    "parse",
]

RuleCheck = Callable[[Sequence[object]], Iterable[Mistake]]

_WHERE = ("data_dir", "database")

SAFE_DEFAULT = """
rules:
  - {name: ct, when: {Modality: CT}, run: ct_tissue, send: [sender]}
"""


def load(
    path: Path | None,
    environ: Mapping[str, str],
    *,
    check_rules: RuleCheck | None = None,
    forms: Mapping[str, bool] | None = None,
) -> NodeConfig:
    """Read a configuration file, or, without one, the safe default.

    Raises:
        ConfigInvalid: The file cannot be read or used.
    """
    text, base = _text_and_base(path)
    return parse(text, environ, base=base, check_rules=check_rules, forms=forms)


def parse(
    text: str,
    environ: Mapping[str, str],
    *,
    base: Path,
    check_rules: RuleCheck | None = None,
    forms: Mapping[str, bool] | None = None,
) -> NodeConfig:
    """The configuration that a YAML text stands for.

    Args:
        base: The folder that relative paths start from.
        check_rules: Further checks of the list of rules; what they find is reported with the rest.
        forms: Every form that a result can have, and whether it is DICOM; those of destinations are
            checked against it.
    Raises:
        ConfigInvalid: With every mistake, in the order of the checks.
    """
    content = read_yaml(text)
    reader = Reader(environ, base)
    keys = reader.read(content)
    mistakes = reader.mistakes
    config = build(keys, environ, base, mistakes)
    mistakes += mistakes_between(keys, content)
    if forms is not None:
        mistakes += mistakes_of_forms(keys, forms)
    rules = content.get("rules")
    if check_rules is not None and isinstance(rules, list):
        mistakes += check_rules(rules)
    if mistakes:
        raise ConfigInvalid(_first_of_each_path(mistakes))
    return config


def glance(path: Path | None, environ: Mapping[str, str]) -> tuple[NodeConfig, Sequence[Mistake]]:
    """Where a node keeps what it has, by a file that need not be right; and what is wrong with it.

    For whoever needs no rule and no destination. What is wrong is as it is by default.

    Raises:
        ConfigInvalid: The file cannot be read, or does not say where that is.
    """
    text, base = _text_and_base(path)
    content = read_yaml(text)
    reader = Reader(environ, base)
    keys = reader.read(content)
    config = build(keys, environ, base, reader.mistakes)
    mistakes = _first_of_each_path([*reader.mistakes, *mistakes_between(keys, content)])
    in_the_way = [each for each in mistakes if each[0].startswith(_WHERE)]
    if in_the_way:
        raise ConfigInvalid(in_the_way)
    return config, mistakes


def _text_and_base(path: Path | None) -> tuple[str, Path]:
    """What a file says, or without one the safe default; and where its relative paths start."""
    if path is None:
        return SAFE_DEFAULT, Path.cwd()
    return _text_of(path), path.absolute().parent


def _text_of(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except OSError as error:
        raise ConfigInvalid([("", f"{path} cannot be read: {error.strerror}")]) from None
    except UnicodeDecodeError:
        raise ConfigInvalid([("", f"{path} is not UTF-8 text")]) from None


def _first_of_each_path(mistakes: Iterable[Mistake]) -> list[Mistake]:
    found: dict[str, str] = {}
    for path, sentence in mistakes:
        found.setdefault(path, sentence)
    return list(found.items())
