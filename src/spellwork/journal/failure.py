"""Owns the stored form of errors and the way back to exceptions.
It must never rebuild a class that the program did not register (or that is no built-in): stored names are data, not code.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Iterable
from typing import Any

import msgspec

from spellwork import errors
from spellwork.codec import Redaction
from spellwork.errors import ActivityFailed, SpellworkError
from spellwork.supervision import attempt

_MESSAGE_LIMIT = 8192
_DATA_LIMIT = 16384
_CAUSES = 8
_RAISED_AT, _BY_WAY_OF = "raised at ", ", by way of "
_LIBRARIES = tuple({sys.prefix, sys.base_prefix, sys.exec_prefix})


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """An error as data. `type` is the class's qualified name; `data` holds its plain arguments or attributes, if any."""

    type: str
    code: str
    message: str
    data: Any = None
    cause: Failure | None = None
    where: str = ""

    @classmethod
    def of(cls, error: BaseException, depth: int = 0) -> Failure:
        """Describe `error` and its causes (at most 8)."""
        kind = type(error)
        cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if isinstance(error, ActivityFailed) and hasattr(error, "type"):
            return cls(_clean(error.type), error.code, _clean(error.message), _plain(error.data), None, _where(error))
        code, _ = attempt(getattr, error, "code", "")
        return cls(
            type=_name(kind),
            code=_clean(code) if isinstance(code, str) else "",
            message=_text(error),
            data=_data(error),
            cause=cls.of(cause, depth + 1) if cause is not None and depth < _CAUSES else None,
            where=_where(error),
        )

    def redacted(self, redaction: Redaction | None) -> Failure:
        """The same without what the rules name, in messages, data and causes."""
        if redaction is None:
            return self
        return Failure(
            self.type,
            self.code,
            redaction.text(self.message),
            redaction.value(self.data),
            self.cause.redacted(redaction) if self.cause is not None else None,
            self.where,
        )

    def __str__(self) -> str:
        text = f"{self.type}: {self.message}" if self.message else self.type
        return f"{text} ({self.where})" if self.where else text


def _clean(text: Any) -> str:
    """A text as it can be stored, whatever its class makes of itself."""
    text = str.__str__(text) if isinstance(text, str) else f"<{type(text).__qualname__}>"
    return str(text[:_MESSAGE_LIMIT].encode("utf-8", "backslashreplace").decode("utf-8"))


def _name(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _where(error: BaseException) -> str:
    """Where it was raised, in the user's own code if that is on the way: `file:line in function`.

    What an activity or a child raised comes by way of the workflow that lets it pass: the place of its origin stands first.
    """
    notes = getattr(error, "__notes__", ())
    origin = next((_clean(note).removeprefix(_RAISED_AT) for note in notes if str(note).startswith(_RAISED_AT)), "")
    passed = _passed(error)
    if not origin or not passed:
        return origin or passed
    return f"{origin.partition(_BY_WAY_OF)[0]}{_BY_WAY_OF}{passed}"


def _passed(error: BaseException) -> str:
    found = ""
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        module = str(trace.tb_frame.f_globals.get("__name__", ""))
        if not module.startswith(("spellwork.engine", "spellwork.workflow", "asyncio", "concurrent")):
            place = f"{code.co_filename}:{trace.tb_lineno} in {code.co_name}"
            if not found or not code.co_filename.startswith(_LIBRARIES):
                found = place
        trace = trace.tb_next
    return _clean(found)


def _text(error: BaseException) -> str:
    text, problem = attempt(str, error)
    if problem is not None:  # a __str__ that is itself broken
        text = f"<no message: {type(problem).__name__}>"
    return _clean(text)


def _data(error: BaseException) -> Any:
    # Spellwork's own errors carry attributes; others their arguments, so that the class can be called with them again.
    data: Any = vars(error) if isinstance(error, SpellworkError) else list(error.args)
    if isinstance(data, dict):
        data = {name: value for name, value in data.items() if not name.startswith("_")}
    return _plain(data)


def _plain(data: Any) -> Any:
    try:
        packed = msgspec.msgpack.encode(data)
        return msgspec.msgpack.decode(packed) if len(packed) <= _DATA_LIMIT else None
    except (TypeError, ValueError, OverflowError, RecursionError):
        return None


class ErrorRegistry:
    """The exception classes that may be rebuilt: built-ins, Spellwork's own, and what the program adds."""

    def __init__(self, extra: Iterable[type[BaseException]] = ()):
        known = [value for value in vars(builtins).values() if _is_error(value)]
        known += [value for value in vars(errors).values() if _is_error(value)]
        self._classes = {_name(kind): kind for kind in known}
        self.add(extra)

    def add(self, classes: Iterable[type[BaseException]]) -> None:
        """Allow these classes to be rebuilt."""
        self._classes.update((_name(kind), kind) for kind in classes)

    def rebuild(self, failure: Failure) -> Exception:
        """The exception that `failure` describes, as its own class if that is known, else as `ActivityFailed`."""
        made, problem = attempt(self._instantiate, failure)
        # the fallback is for a class that cannot be made from what was stored
        error: Exception = _unbuilt(failure) if problem is not None else made
        if isinstance(error, (StopIteration, StopAsyncIteration)):
            error = RuntimeError(f"{failure.type} was raised")  # futures and coroutines take neither
        if failure.where:
            error.add_note(_RAISED_AT + failure.where)
        if failure.cause is not None:
            error.__cause__ = self.rebuild(failure.cause)
        return error

    def _instantiate(self, failure: Failure) -> Exception:
        kind: Any = self._classes.get(failure.type)
        if kind is None or not issubclass(kind, Exception):
            return _unbuilt(failure)
        if issubclass(kind, SpellworkError) and isinstance(failure.data, dict):
            rebuilt: Exception = kind(failure.message, **failure.data)
            return rebuilt
        arguments = failure.data if isinstance(failure.data, list) else [failure.message]
        error, problem = attempt(kind, *arguments)
        if problem is not None:  # an __init__ that wants other arguments
            error = kind.__new__(kind)
            error.args = (failure.message,)
        built: Exception = error if isinstance(error, Exception) else _unbuilt(failure)
        return built


def _unbuilt(failure: Failure) -> ActivityFailed:
    return ActivityFailed(f"{failure.type}: {failure.message}", type=failure.type, message=failure.message, data=failure.data)


def _is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Exception)
