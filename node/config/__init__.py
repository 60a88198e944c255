"""Configuration: one YAML file, read once, validated whole, frozen.

Enters: the text of the file and the environment (for secrets only). Leaves: ``NodeConfig``, plain
frozen values with absolute paths; its ``digest`` names the content without secrets. Relative paths
start from the folder of the file, or from the working folder where there is no file.

Can fail: ``ConfigInvalid`` with every mistake, each with its path (``rules.2.when.Modalty``) and one
sentence that says what to do. The clauses of rules are the route stage's business, and a stage imports
no other: ``check_rules`` is how the pipeline hands its checks in (``node.route.mistakes_in``, and those
that need the models), so that all mistakes of a file come in one answer. It gets the list of rules as
it stands in the file.

``config/node.yaml`` shows every key; ``docs/configuration.md`` explains them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from node.config.building import Builder, is_loopback_host
from node.config.consistency import check_consistency, check_peers
from node.config.mistakes import Mistake, check_shape
from node.config.references import check_references
from node.config.values import (
    SENDER,
    AuthConfig,
    ClientAuthConfig,
    CompletionConfig,
    DestinationConfig,
    DicomwebDestinationConfig,
    DimseConfig,
    DimseDestinationConfig,
    FolderConfig,
    FolderDestinationConfig,
    KeepDays,
    NodeConfig,
    PeerConfig,
    RuleConfig,
    Secret,
    StorageConfig,
    WebConfig,
    WorkConfig,
)
from node.config.yaml_text import read_yaml
from node.domain.errors import ConfigInvalid

__all__ = [
    "SENDER",
    "AuthConfig",
    "ClientAuthConfig",
    "CompletionConfig",
    "DestinationConfig",
    "DicomwebDestinationConfig",
    "DimseConfig",
    "DimseDestinationConfig",
    "FolderConfig",
    "FolderDestinationConfig",
    "KeepDays",
    "NodeConfig",
    "PeerConfig",
    "RuleCheck",
    "RuleConfig",
    "Secret",
    "StorageConfig",
    "WebConfig",
    "WorkConfig",
    "is_loopback_host",
    "load",
    "parse",
]

RuleCheck = Callable[[Sequence[object]], Iterable[Mistake]]

SAFE_DEFAULT = """
rules:
  - {name: ct, when: {Modality: CT}, run: ct_tissue, send: [sender]}
"""


def load(
    path: Path | None, environ: Mapping[str, str], *, check_rules: RuleCheck | None = None
) -> NodeConfig:
    """Read a configuration file, or, without one, the safe default.

    Raises:
        ConfigInvalid: The file cannot be read or used.
    """
    if path is None:
        return parse(SAFE_DEFAULT, environ, base=Path.cwd(), check_rules=check_rules)
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise ConfigInvalid([("", f"{path} cannot be read: {error.strerror}")]) from None
    except UnicodeDecodeError:
        raise ConfigInvalid([("", f"{path} is not UTF-8 text")]) from None
    return parse(text, environ, base=path.absolute().parent, check_rules=check_rules)


def parse(
    text: str, environ: Mapping[str, str], *, base: Path, check_rules: RuleCheck | None = None
) -> NodeConfig:
    """The configuration that a YAML text stands for.

    Args:
        base: The folder that relative paths start from.
        check_rules: Further checks of the list of rules; what they find is reported with the rest.
    Raises:
        ConfigInvalid: With every mistake, in the order of the checks.
    """
    content = read_yaml(text)
    keys, mistakes = check_shape(content)
    builder = Builder(environ, base)
    config = builder.node(keys)
    mistakes += builder.mistakes
    check_references(keys, _names(content, "peers"), _names(content, "destinations"), mistakes)
    check_consistency(keys, mistakes)
    check_peers(dict(config.peers), mistakes)
    rules = content.get("rules")
    if check_rules is not None and isinstance(rules, list):
        mistakes += check_rules(rules)
    if mistakes:
        raise ConfigInvalid(_first_of_each_path(mistakes))
    return config


def _names(content: Mapping[str, Any], key: str) -> tuple[str, ...]:
    named = content.get(key)
    return tuple(str(name) for name in named) if isinstance(named, Mapping) else ()


def _first_of_each_path(mistakes: Iterable[Mistake]) -> list[Mistake]:
    found: dict[str, str] = {}
    for path, sentence in mistakes:
        found.setdefault(path, sentence)
    return list(found.items())
