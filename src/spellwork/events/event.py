"""Owns `Event`: what is published, with the names that CloudEvents gives its attributes, and its way to their JSON and back.
It must never leave out of the JSON what an event carries, nor take in what it could not give back.
"""

from __future__ import annotations

import base64
import datetime as dt
import re
from collections.abc import Mapping
from typing import Any, Generic, TypedDict, TypeVar

import msgspec

from spellwork.errors import PayloadError
from spellwork.instant import datetime_of, microseconds_of

T = TypeVar("T")

Header = str | int | bool
_EXTENSION = re.compile(r"[a-z0-9]+")
_INT32 = range(-(2**31), 2**31)
_JSON = "application/json"
# CloudEvents 1.0, and its documented extensions for sequences, correlation and partitioning
_OWN = frozenset(
    {"specversion", "id", "source", "type", "time", "subject", "data", "data_base64", "sequence", "correlationid", "causationid",
     "partitionkey", "priority"}
)  # fmt: skip


class Event(msgspec.Struct, Generic[T], frozen=True):
    """Something that happened. `type` is its topic, `data` its payload, `id` unique for its `source`, `at` microseconds UTC.

    `sequence` counts what its bus has published; `correlation` is the id of what began it all, `causation` of what led to it
    directly; events of one `key` belong together; a lower `priority` is more urgent, which is for receivers to
    act on: subscriptions and groups bring events in the order in which they were published. `headers` are further attributes.
    """

    id: str
    source: str
    type: str
    at: int
    data: T
    subject: str | None = None
    sequence: int | None = None
    correlation: str | None = None
    causation: str | None = None
    key: str | None = None
    priority: int | None = None
    headers: Mapping[str, Header] | None = None

    @property
    def time(self) -> dt.datetime:
        """When it happened, UTC."""
        return datetime_of(self.at)

    def to_cloudevent(self) -> str:
        """The event as JSON in the structured mode of CloudEvents 1.0.

        Bytes become `data_base64`; all else becomes JSON, as far as JSON goes (a datetime is a text there). Raises `PayloadError`
        for data that has no JSON form.
        """
        time = self.time.isoformat(timespec="microseconds").replace("+00:00", "Z")
        fields: dict[str, Any] = {"specversion": "1.0", "id": self.id, "source": self.source, "type": self.type, "time": time}
        headers = dict(self.headers or {})
        optional = {
            "subject": self.subject,
            "sequence": None if self.sequence is None else str(self.sequence),
            "correlationid": self.correlation,
            "causationid": self.causation,
            "partitionkey": self.key,
            "priority": self.priority,
        }
        fields |= {name: value for name, value in optional.items() if value is not None}
        fields |= {name: value for name, value in headers.items() if name not in fields}
        if isinstance(self.data, bytes | bytearray | memoryview):
            fields["data_base64"] = base64.b64encode(self.data).decode()
        else:
            fields["datacontenttype"] = headers.get("datacontenttype", _JSON)
            fields["data"] = self.data
        try:
            return msgspec.json.encode(fields).decode()
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise PayloadError(f"$.data: {type(self.data).__qualname__} has no JSON form: {error}", path="$.data") from error

    @classmethod
    def from_cloudevent(
        cls,
        text: str | bytes,
        type: Any = Any,  # noqa: A002 - the word of `Topic` and `Signal`
        *,
        at: int | None = None,
    ) -> Event[Any]:
        """The event that CloudEvents 1.0 JSON (structured mode) tells of, its data of the annotation `type`.

        Attributes that an event has no field for become headers. `at` (microseconds) is for events that do not say when they
        happened. Raises `PayloadError` for anything else than one event, and for data that does not fit.
        """
        try:
            fields = msgspec.json.decode(text, type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise PayloadError(f"$: no CloudEvent in JSON: {error}", path="$") from error
        return _revived({name: value for name, value in fields.items() if value is not None or name == "data"}, type, at)


class Attributes(TypedDict, total=False):
    """What can be said of an event when it is published; see `Event`."""

    id: str | None
    key: str | None
    priority: int | None
    correlation: str | None
    causation: str | None
    headers: Mapping[str, Header] | None
    source: str
    subject: str | None


def check_attributes(  # noqa: PLR0913 - the attributes of an event
    *,
    id: str | None = None,
    key: str | None = None,
    priority: int | None = None,
    correlation: str | None = None,
    causation: str | None = None,
    headers: Mapping[str, Header] | None = None,
    source: str = "spellwork",
    subject: str | None = None,
) -> None:
    """Raise `PayloadError` if an attribute is not one that CloudEvents can carry."""
    texts = {"id": id, "key": key, "correlation": correlation, "causation": causation, "source": source, "subject": subject}
    for name, text in texts.items():
        if (text is not None or name == "source") and not (isinstance(text, str) and text and _is_writable(text)):
            raise PayloadError(f"{name} is {text!r}, but must be a text that is not empty and has no lone surrogates", path=name)
    if priority is not None and not _is_integer(priority):
        raise PayloadError(f"priority is {priority!r}, but must be a whole number of 32 bits", path="priority")
    given: Any = headers  # from whoever uses no type checker
    if headers is not None and not isinstance(given, Mapping):
        raise PayloadError(f"headers are {headers!r}, but must be a dict", path="headers")
    for name, value in (given or {}).items():
        if not (isinstance(name, str) and _EXTENSION.fullmatch(name)):
            raise PayloadError(f"the header {name!r} must be named with lower-case letters and digits alone", path="headers")
        if name in _OWN:
            raise PayloadError(f"the header {name!r} has the name of an attribute that events have themselves", path="headers")
        if not ((isinstance(value, str) and _is_writable(value)) or isinstance(value, bool) or _is_integer(value)):
            raise PayloadError(f"the header {name!r} is {value!r}, but must be a text, a bool or 32 bits of int", path="headers")


def _is_writable(text: str) -> bool:
    """Whether a text can be stored: one with lone surrogates has no UTF-8."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value in _INT32


def _revived(fields: dict[str, Any], annotation: Any, default: int | None) -> Event[Any]:
    if fields.pop("specversion", None) != "1.0":
        raise PayloadError("$.specversion: only CloudEvents 1.0 are read", path="$.specversion")
    id_, source, topic = _required(fields, "id"), _required(fields, "source"), _required(fields, "type")
    at = _moment(_text(fields, "time"), default)
    data = _data(fields, annotation)
    sequence, priority = fields.get("sequence"), fields.get("priority")
    # What others mean by these two may be of another form; then it stays a header.
    number = int(sequence) if isinstance(sequence, str) and re.fullmatch("[0-9]{1,18}", sequence) else None
    if number is not None and str(number) == sequence:
        del fields["sequence"]
    else:
        number = None
    if _is_integer(priority):
        del fields["priority"]
    return Event(
        id_,
        source,
        topic,
        at=at,
        data=data,
        subject=_text(fields, "subject"),
        sequence=number,
        correlation=_text(fields, "correlationid"),
        causation=_text(fields, "causationid"),
        key=_text(fields, "partitionkey"),
        priority=priority if _is_integer(priority) else None,
        headers=_headers(fields) or None,
    )


def _headers(fields: dict[str, Any]) -> dict[str, Header]:
    if fields.get("datacontenttype") == _JSON:
        del fields["datacontenttype"]
    for name, value in fields.items():
        if not _EXTENSION.fullmatch(name):
            raise PayloadError(f"$.{name}: attributes are named with lower-case letters and digits alone", path=f"$.{name}")
        if not (isinstance(value, str | bool) or _is_integer(value)):
            raise PayloadError(f"$.{name}: an attribute is a text, a bool or 32 bits of int, not {value!r}", path=f"$.{name}")
    return fields


def _text(fields: dict[str, Any], name: str) -> str | None:
    value = fields.pop(name, None)
    if value is None:
        return None
    if isinstance(value, str) and value:
        return value
    raise PayloadError(f"$.{name}: expected a text that is not empty, got {value!r}", path=f"$.{name}")


def _required(fields: dict[str, Any], name: str) -> str:
    value = _text(fields, name)
    if value is None:
        raise PayloadError(f"$.{name}: missing, but each CloudEvent has one", path=f"$.{name}")
    return value


def _moment(text: str | None, default: int | None) -> int:
    if text is None:
        if default is not None:
            return default
        raise PayloadError("$.time: missing; say with `at=` when it happened", path="$.time")
    try:
        moment = msgspec.convert(text, dt.datetime)
    except msgspec.ValidationError as error:
        raise PayloadError(f"$.time: {text!r} is no time of RFC 3339", path="$.time") from error
    if moment.tzinfo is None:
        raise PayloadError(f"$.time: {text!r} has no offset from UTC", path="$.time")
    try:
        return microseconds_of(moment.astimezone(dt.UTC))
    except OverflowError as error:
        raise PayloadError(f"$.time: {text!r} is beyond the calendar, as UTC", path="$.time") from error


def _data(fields: dict[str, Any], annotation: Any) -> Any:
    if "data_base64" in fields:
        if "data" in fields:
            raise PayloadError("$.data: a CloudEvent has `data` or `data_base64`, not both", path="$.data")
        try:
            data: Any = base64.b64decode(fields.pop("data_base64"), validate=True)
        except (TypeError, ValueError) as error:
            raise PayloadError(f"$.data_base64: {error}", path="$.data_base64") from error
    else:
        data = fields.pop("data", None)
    try:
        return msgspec.convert(data, annotation)
    except (msgspec.ValidationError, TypeError) as error:
        raise PayloadError(f"$.data: {error}", path="$.data") from error
