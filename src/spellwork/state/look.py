"""Owns one read as data: what is looked at, and what was seen.
It must never decode a value, nor keep a reader.
"""

from __future__ import annotations

import msgspec

from spellwork.state.row import is_live
from spellwork.store import Reader, fingerprint
from spellwork.store.keyspace import REVISION

_NAMES = 1000


class Span(msgspec.Struct, frozen=True):
    """A range of keys: start <= key < end, the first `limit` live rows of it (the last ones with `reverse`).

    With `names` the rows are left out: only their keys are wanted.
    """

    start: bytes
    end: bytes
    reverse: bool = False
    limit: int | None = None
    names: bool = False


class Held(msgspec.Struct):
    """What a transaction has read up to now: keys with their versions, and ranges with their fingerprints."""

    versions: dict[bytes, int] = {}
    ranges: dict[tuple[bytes, bytes], bytes] = {}

    def broken(self, reader: Reader) -> bytes | None:
        """The first key that is not as it was read."""
        for key, version in self.versions.items():
            if reader.version(key) != version:
                return key
        for (start, end), seen in self.ranges.items():
            if fingerprint((key, version) for key, _, version in reader.rows(start, end)) != seen:
                return start
        return None


class Look(msgspec.Struct):
    """What to read, as of the time `now` (microseconds UTC).

    With `held`, things that were read before at revision `since`, the look fails (`Seen.broken`) unless they still hold.
    `versions` asks for the versions of the keys, `record` for the fingerprints of the ranges.
    """

    now: int
    keys: tuple[bytes, ...] = ()
    spans: tuple[Span, ...] = ()
    versions: bool = False
    record: bool = False
    since: int = 0
    held: Held | None = None


class Found(msgspec.Struct):
    """What a span holds: its live rows (key, row, version), the range that was looked through for them, and its fingerprint."""

    rows: list[tuple[bytes, bytes, int]]
    start: bytes
    end: bytes
    fingerprint: bytes = b""


class Seen(msgspec.Struct):
    """The answer to a look, all of it as of one `revision` (0 if neither versions nor fingerprints were asked for).

    `rows` has the row of each key with a live value, `versions` the version of every key, of an expired value as well.
    """

    revision: int
    rows: dict[bytes, bytes] = {}
    versions: dict[bytes, int] = {}
    spans: list[Found] = []
    broken: bytes | None = None


def perform(reader: Reader, look: Look) -> Seen:
    """Look through a reader."""
    # a plain get is one look at one row
    revision = int.from_bytes(reader.get(REVISION) or b"", "big") if look.versions or look.record else 0
    if look.held is not None and revision != look.since:
        broken = look.held.broken(reader)
        if broken is not None:
            return Seen(revision, broken=broken)
    seen = Seen(revision)
    for key in look.keys:
        row = reader.get(key)
        if look.versions:
            seen.versions[key] = 0 if row is None else reader.version(key)
        if row is not None and is_live(row, look.now):
            seen.rows[key] = row
    seen.spans = [_through(reader, span, look) for span in look.spans]
    return seen


def _through(reader: Reader, span: Span, look: Look) -> Found:
    """The live rows of a span. Expired ones take no part, so there may be several pages to look through."""
    start, end = span.start, span.end
    every: list[tuple[bytes, int]] = []
    live: list[tuple[bytes, bytes, int]] = []
    while True:
        wanted = (_NAMES if span.names else None) if span.limit is None else max(span.limit - len(live), 0)
        page = reader.rows(start, end, reverse=span.reverse, limit=wanted) if wanted != 0 and start < end else []
        live += [(row[0], b"", row[2]) if span.names else row for row in page if is_live(row[1], look.now)]
        if look.record:
            every += [(key, version) for key, _, version in page]
        if wanted is None or len(page) < wanted:
            break
        # the limit stopped it: what lies behind the last row was not read
        if span.reverse:
            end = page[-1][0] if page else end
        else:
            start = page[-1][0] + b"\x00" if page else start
        if len(live) == span.limit:
            low, high = (end, span.end) if span.reverse else (span.start, start)
            return Found(live, low, high, _stands_for(every, span, look))
    return Found(live, span.start, span.end, _stands_for(every, span, look))


def _stands_for(every: list[tuple[bytes, int]], span: Span, look: Look) -> bytes:
    if not look.record:
        return b""
    return fingerprint(reversed(every) if span.reverse else every)
