"""Owns the names of topics, the patterns over them, and the index that finds the patterns of a topic.
It must never let a name through that could be taken for a pattern, or a pattern that can match nothing.
"""

from __future__ import annotations

import re
import threading
from typing import Generic, TypeVar

from spellwork.codec.text import check_name
from spellwork.errors import DefinitionError, PayloadError

V = TypeVar("V")

ONE, REST = "*", ">"
_CACHED = 4096  # topics whose values an index remembers, so that names drawn without end need no memory without end
_LETTERS = r"[^\s.*>\x00-\x1f\x7f\ud800-\udfff]+"
_TOKEN = re.compile(_LETTERS)
_NAME = re.compile(rf"{_LETTERS}(?:\.{_LETTERS})*")
_SHORT = 128  # letters that are certainly no more bytes than a name may have


def topic_name(name: str) -> str:
    """`name` if it can name a topic: tokens between dots, without white space, `*` and `>`; raises `DefinitionError`."""
    if type(name) is not str:
        _refused("a topic", name, "it is no text (str)")
    # Most names are letters and digits, perhaps with `_` and `-`; that is a third of the time of the expression.
    plain = name.replace(".", "").replace("_", "").replace("-", "").isalnum()
    if len(name) <= _SHORT and ((plain and ".." not in name and name[0] != "." != name[-1]) or _NAME.fullmatch(name)):
        return name
    for token in _tokens("a topic", name):
        if not _TOKEN.fullmatch(token):
            _refused("a topic", name, f"the token {token!r} is empty or holds white space, control characters, `*` or `>`")
    return name


def pattern_tokens(pattern: str) -> tuple[str, ...]:
    """The tokens of a pattern; raises `DefinitionError`. `*` stands for one token, `>` at the end for one or more."""
    if type(pattern) is not str:
        _refused("a pattern", pattern, "it is no text (str)")
    tokens = _tokens("a pattern", pattern)
    for place, token in enumerate(tokens):
        if token == REST and place < len(tokens) - 1:
            _refused("a pattern", pattern, "`>` stands for the rest, so nothing may follow it")
        if token not in (ONE, REST) and not _TOKEN.fullmatch(token):
            _refused("a pattern", pattern, f"the token {token!r} is empty or holds white space, or `*` or `>` beside other letters")
    return tokens


def matches(pattern: str, topic: str) -> bool:
    """Whether `pattern` covers the topic."""
    tokens, names = pattern_tokens(pattern), topic.split(".")
    if tokens[-1] == REST:
        if len(names) < len(tokens):
            return False
        tokens = tokens[:-1]
        names = names[: len(tokens)]
    return len(tokens) == len(names) and all(token in (ONE, name) for token, name in zip(tokens, names, strict=True))


def _tokens(what: str, text: str) -> tuple[str, ...]:
    try:
        return tuple(check_name(text, what).split("."))
    except PayloadError as error:
        raise DefinitionError(str(error)) from error


def _refused(what: str, text: object, why: str) -> str:
    raise DefinitionError(f"{text!r} can't be {what}: {why}; write tokens between dots, such as 'agent.started' or 'agent.*'")


class _Node(Generic[V]):
    __slots__ = ("here", "next", "rest")

    def __init__(self) -> None:
        self.next: dict[str, _Node[V]] = {}
        self.here: dict[V, None] = {}  # values of patterns that end here; dicts keep the order in which they came
        self.rest: dict[V, None] = {}  # values of patterns that go on with `>`

    def empty(self) -> bool:
        return not (self.next or self.here or self.rest)


class PatternIndex(Generic[V]):
    """Values by pattern. Usable from all threads; the values must be hashable."""

    def __init__(self) -> None:
        self._root: _Node[V] = _Node()
        self._lock = threading.Lock()
        # Read without the lock. Each change replaces it, so that a search that began before can't fill in what is old.
        self.cached: dict[str, tuple[V, ...]] = {}

    def add(self, pattern: str, value: V) -> None:
        """Let `value` be found for the topics of a pattern."""
        tokens = pattern_tokens(pattern)
        with self._lock:
            node = self._root
            for token in tokens[:-1] if tokens[-1] == REST else tokens:
                node = node.next.setdefault(token, _Node())
            (node.rest if tokens[-1] == REST else node.here)[value] = None
            self.cached = {}

    def discard(self, pattern: str, value: V) -> None:
        """Forget `value` for a pattern, if it is there."""
        tokens = pattern_tokens(pattern)
        with self._lock:
            path = [self._root]
            for token in tokens[:-1] if tokens[-1] == REST else tokens:
                if token not in path[-1].next:
                    return
                path.append(path[-1].next[token])
            (path[-1].rest if tokens[-1] == REST else path[-1].here).pop(value, None)
            for above, token, node in reversed(list(zip(path, tokens, path[1:], strict=False))):
                if not node.empty():
                    break
                del above.next[token]
            self.cached = {}

    def match(self, topic: str) -> tuple[V, ...]:
        """The values of all patterns that cover the topic, each once. The topic's name is not checked here."""
        found = self.cached.get(topic)
        return self._search(topic) if found is None else found

    def _search(self, topic: str) -> tuple[V, ...]:
        found: dict[V, None] = {}
        with self._lock:
            level = [self._root]
            for name in topic.split("."):
                following: list[_Node[V]] = []
                for node in level:
                    if node.rest:
                        found.update(node.rest)
                    after = node.next
                    if name in after:
                        following.append(after[name])
                    if ONE in after:
                        following.append(after[ONE])
                level = following
            for node in level:
                if node.here:
                    found.update(node.here)
            if len(self.cached) >= _CACHED:
                self.cached = {}
            values = self.cached[topic] = tuple(found)
        return values
