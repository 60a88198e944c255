"""From plain values to the frozen values of the sections, read as these are annotated.

pydantic reads types and what is required, of a destination or a notifier those of the class that ``KINDS``
has for its ``kind``; the values judge themselves. Before that, what the file gives in another way is put in
(``node.domain.settings`` lists the ways; a secret stands in the environment or in a file of its own), and
unknown keys are told. What is wrong is told and taken out, so that every mistake is found at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, asdict
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import TypeAdapter, ValidationError

import node.deliver
import node.notify
from node.config.mistakes import (
    A_LIST,
    BAD_NAME,
    KEYS_AND_VALUES,
    ONE_TEXT,
    REQUIRED,
    Location,
    dotted,
    mistake_of_text,
    mistakes_of_error,
    unknown_key,
    value_not_in_this_version,
)
from node.config.values import NOT_EMPTY, FileKeys, FolderConfig, RuleConfig
from node.deliver.destination import Destination
from node.domain.peers import Peer, is_ae_title
from node.domain.settings import Given, Mistake, Secret, Settings, hints_of, marks_of
from node.notify.notifier import Notifier

STAND_IN = "stand-in"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,63}")
_READ_FIRST = ("ae_title", "ae_titles", "peers")  # others are read with their help
# list items that others count keep their place
_ITEM_STAND_INS: Mapping[type, Settings] = {
    RuleConfig: RuleConfig(name=STAND_IN, run=STAND_IN, send=()),
    FolderConfig: FolderConfig(path=Path(STAND_IN)),
}
# values of several kinds: what each kind is called, and the class of a kind
_BY_KIND: Mapping[type, tuple[Iterable[str], Callable[[str], type[Settings]]]] = {
    Destination: (node.deliver.KINDS, node.deliver.kind_of),
    Notifier: (node.notify.KINDS, node.notify.kind_of),
}
_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)
_PEER_STAND_IN = Peer(name=STAND_IN, ae_title="STAND_IN", host=STAND_IN)


class Reader:
    """Reads one file and collects what is wrong with it.

    Args:
        base: The folder that relative paths start from.
    """

    def __init__(self, environ: Mapping[str, str], base: Path) -> None:
        self.mistakes: list[Mistake] = []
        # told last: why a secret is of no use comes before why it is not there
        self._of_secrets: list[Mistake] = []
        self._environ = environ
        self._base = base
        self._peer_names: tuple[str, ...] = ()
        self._so_far = FileKeys()

    def read(self, content: Mapping[str, Any]) -> FileKeys:
        """The keys of the file; good only while ``mistakes`` is empty."""
        known = keys_of(FileKeys)
        self._report_unknown(content, known, ())
        if isinstance(given := content.get("peers"), Mapping):
            self._peer_names = tuple(str(name) for name in given)
        values: dict[str, Any] = {}
        for key in dict.fromkeys((*_READ_FIRST, *known)):
            if is_given(FileKeys, key, content):
                value = self._section(key, known[key], content[key])
                values |= {} if value is None else {key: value}
            if key in _READ_FIRST:
                self._so_far = FileKeys(**values)
        if not values.get("rules"):
            self._wrong(("rules",), NOT_EMPTY if "rules" in content else REQUIRED)
        self.mistakes += self._of_secrets
        return FileKeys(**values)

    def _section(self, key: str, annotation: Any, value: Any) -> Any:
        """The value of a top-level key, or None where it cannot be used."""
        entry = next((m for m in get_args(annotation) if is_settings(m)), None)
        if entry is None:
            return self._value(annotation, value, (key,))
        if get_origin(annotation) is tuple and isinstance(value, list):
            items = [self._value(entry, each, (key, n)) for n, each in enumerate(value)]
            return tuple(item or _ITEM_STAND_INS[entry] for item in items)
        if get_origin(annotation) is Mapping and isinstance(value, Mapping):
            return dict(self._entries(key, entry, value))
        self._wrong((key,), A_LIST if get_origin(annotation) is tuple else KEYS_AND_VALUES)
        return None

    def _entries(
        self, key: str, entry: Any, value: Mapping[Any, Any]
    ) -> Iterator[tuple[str, object]]:
        for name, each in value.items():
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                self._wrong((key, name), BAD_NAME)
            elif (read := self._value(entry, each, (key, name))) is not None:
                yield name, read

    def _value(self, annotation: Any, value: Any, at: Location) -> Any:
        """The value, or None where it is wrong altogether."""
        if is_settings(annotation) and not isinstance(value, Mapping):
            self._wrong(at, KEYS_AND_VALUES)
            return None
        if annotation in _BY_KIND:
            kinds, kind_of = _BY_KIND[annotation]
            kind = value.get("kind")
            if not isinstance(kind, str) or kind not in kinds:
                self._wrong((*at, "kind"), _mistake_of_kind(kind, at, kinds))
                return None
            annotation = kind_of(kind)
        prepare = self._keys if is_settings(annotation) else self._prepared
        rest = prepare(annotation, value, at)
        adapter = _adapter(annotation)
        told: list[str] = []
        while True:
            try:
                return adapter.validate_json(_as_json(rest), strict=True)
            except ValidationError as invalid:
                errors = invalid.errors()
            found = [each for error in errors for each in mistakes_of_error(error, rest, at)]
            told += self._tell([(dotted((*at, *place)), text) for place, text in found], told)
            # deeper places first, and of the items of a list the last: others keep their number
            places = sorted({place for place, _ in found}, key=_last_first, reverse=True)
            if False in [_take_out(rest, place, at) for place in places]:
                return None

    def _tell(self, mistakes: Iterable[Mistake], told: Sequence[str]) -> list[str]:
        """Add mistakes, but for what only follows from something taken out below; their paths."""
        new = [each for each in mistakes if not any(p.startswith(f"{each[0]}.") for p in told)]
        self.mistakes += new
        return [path for path, _ in new]

    def _keys(self, settings: type, value: Mapping[Any, Any], at: Location) -> dict[str, Any]:
        """What pydantic is to read for one value: what the file says, and what it says otherwise."""
        self._report_unknown(value, keys_of(settings), at)
        prepared: dict[str, Any] = {}
        for name, annotation in hints_of(settings).items():
            if Given.BY_KEY in marks_of(annotation):
                prepared[name] = str(at[-1])
            elif Secret in members(annotation):
                if (secret := self._secret(name, value, at)) is not None:
                    prepared[name] = asdict(secret)
                elif is_required(settings, name):
                    prepared[name] = asdict(_stand_in_secret(name, ""))
                    self._wrong(at, f"needs either {name}_env or {name}_file")
            elif is_given(settings, name, value):
                prepared[name] = self._prepared(annotation, value[name], (*at, name))
            elif Given.BY_NODE in marks_of(annotation):
                own = self._so_far.all_ae_titles[0]
                prepared[name] = own if is_ae_title(own) else STAND_IN
        return prepared

    def _prepared(self, annotation: Any, value: Any, at: Location) -> Any:
        types = members(annotation)
        if Peer in types:
            return asdict(self._peer(value, at))
        for each in types:
            if is_settings(each) and isinstance(value, Mapping):
                return self._keys(each, value, at)
            if get_origin(each) is Mapping and isinstance(value, Mapping):
                return self._mapping(get_args(each)[1], value, at)
            if get_origin(each) is tuple and isinstance(value, list):
                inner = get_args(each)[0]
                return [self._prepared(inner, item, (*at, n)) for n, item in enumerate(value)]
        if isinstance(value, str) and types in ((str,), (Path,)):
            self._wrong(at, mistake_of_text(value))
            is_path = types == (Path,) or Given.BY_FOLDER in marks_of(annotation)
            return str((self._base / value).absolute()) if is_path else value
        return value

    def _mapping(self, inner: Any, value: Mapping[Any, Any], at: Location) -> dict[str, Any]:
        for name in value:
            is_text = isinstance(name, str)
            self._wrong((*at, name), mistake_of_text(name) if is_text else BAD_NAME)
        return {str(name): self._prepared(inner, each, (*at, name)) for name, each in value.items()}

    def _wrong(self, at: Location, sentence: str) -> None:
        """Tell what is wrong there; an empty sentence says that nothing is."""
        if sentence:
            self.mistakes.append((dotted(at), sentence))

    def _peer(self, name: Any, at: Location) -> Peer:
        if not isinstance(name, str):
            self._wrong(at, REQUIRED if name is None else ONE_TEXT)
        elif sentence := mistake_of_text(name):
            self._wrong(at, sentence)
        elif name not in self._peer_names:
            self._wrong(at, f"no peer {name}{known_names(self._peer_names)}")
        return self._so_far.peers.get(str(name), _PEER_STAND_IN)

    def _secret(self, name: str, value: Mapping[Any, Any], at: Location) -> Secret | None:
        """The secret that two keys of the file may name; None where neither is given."""
        keys = (f"{name}_env", f"{name}_file")
        named = {key: str(value[key]) for key in keys if value.get(key) is not None}
        for key, text in named.items():
            if not isinstance(value[key], str):
                self._wrong((*at, key), ONE_TEXT)
            self._wrong((*at, key), mistake_of_text(text))
        if not named:
            return None
        secret = read_secret(named, name, dotted(at), self._environ, self._base, self._of_secrets)
        return secret or _stand_in_secret(*next(iter(named.items())))

    def _report_unknown(
        self, value: Mapping[Any, Any], known: Mapping[str, Any], at: Location
    ) -> None:
        for key in value:
            if key not in known:
                self._wrong((*at, key), unknown_key(str(key), at, tuple(known)))


def read_secret(
    named: Mapping[str, str | None],
    word: str,
    path: str,
    environ: Mapping[str, str],
    base: Path,
    mistakes: list[Mistake],
) -> Secret | None:
    """The secret that ``<word>_env`` or ``<word>_file`` names; None, with a mistake, if it is not there.

    Args:
        named: The keys of the mapping that the file gives, such as ``password_env``.
    """
    at = f"{path}." if path else ""
    variable, file = named.get(f"{word}_env"), named.get(f"{word}_file")
    if (variable is None) == (file is None):
        mistakes.append((path or f"{word}_env", f"needs either {word}_env or {word}_file"))
        return None
    if variable is not None:
        if value := environ.get(variable):
            return Secret(source=f"env:{variable}", value=value)
        sentence = f"the environment variable {variable} is not set, or empty"
        mistakes.append((f"{at}{word}_env", sentence))
        return None
    source = base / str(file)
    try:
        if value := source.read_text("utf-8").strip():
            return Secret(source=f"file:{source}", value=value)
        sentence = f"the file {source} is empty"
    except UnicodeDecodeError:
        sentence = f"the file {source} cannot be read: not UTF-8 text"
    except OSError as error:
        sentence = f"the file {source} cannot be read: {error.strerror}"
    mistakes.append((f"{at}{word}_file", sentence))
    return None


def known_names(names: tuple[str, ...]) -> str:
    """The end of a sentence about a name that nothing has."""
    return f"; known: {', '.join(sorted(names))}" if names else "; none is configured"


def _mistake_of_kind(kind: object, at: Location, kinds: Iterable[str]) -> str:
    if kind is None:
        return REQUIRED
    known = f"takes one of {', '.join(kinds)}"
    return value_not_in_this_version((*at, "kind"), kind) or known


def _as_json(value: Any) -> str:
    # in JSON, and only there, pydantic is strict and still reads lists as tuples and texts as enums
    return json.dumps(value, skipkeys=True, default=lambda _: [None])


def _stand_in_secret(key: str, text: str) -> Secret:
    return Secret(source=f"{key.rpartition('_')[2]}:{text}", value=text)


def _last_first(place: Location) -> list[tuple[int, str]]:
    """Sorts items of one list by number, so that the last can be taken out first."""
    return [(part, "") if isinstance(part, int) else (-1, part) for part in place]


def _take_out(content: Any, place: Location, at: Location) -> bool:
    """Take out what is wrong, or whatever lacks it; False where that is everything."""
    if at[0] == "rules" and place in (("name",), ("run",)):
        content[place[0]] = STAND_IN
        return True
    holder = None
    for part in place:
        try:
            content, holder, key = content[part], content, part
        except (KeyError, IndexError, TypeError):
            break
    if holder is None:
        return False
    holder.pop(key)
    return True


@cache
def keys_of(settings: type) -> Mapping[str, Any]:
    """The keys that a value has in the file, with their annotations."""
    keys: dict[str, Any] = {}
    for name, annotation in hints_of(settings).items():
        if Secret in members(annotation):
            keys |= {f"{name}_env": str, f"{name}_file": str}
        elif Given.BY_KEY not in marks_of(annotation):
            keys[name] = annotation
    return keys


def members(annotation: Any) -> tuple[Any, ...]:
    """The types that a value may have, with marks taken off; None is no type of the file."""
    if get_origin(annotation) is Annotated:
        return members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return tuple(each for part in get_args(annotation) for each in members(part))
    return () if annotation is NoneType else (annotation,)


def is_settings(annotation: Any) -> bool:
    """Whether a value of the file is one of ours, with keys."""
    return isinstance(annotation, type) and issubclass(annotation, Settings)


def is_required(settings: Any, name: str) -> bool:
    """Whether a field has no default."""
    each: Field[Any] = settings.__dataclass_fields__[name]
    return each.default is MISSING and each.default_factory is MISSING


def is_given(settings: Any, name: str, content: Mapping[Any, Any]) -> bool:
    """Whether the file gives a field; null counts as not given where nothing stands for it."""
    if name not in content:
        return False
    has_none = settings.__dataclass_fields__[name].default in (None, "")
    is_by_node = Given.BY_NODE in marks_of(hints_of(settings)[name])
    return content[name] is not None or not (has_none or is_by_node)
