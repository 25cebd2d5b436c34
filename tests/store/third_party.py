"""A store of somebody else's: one file that is written anew at each commit. It knows nothing of Spellwork but the contract."""

from __future__ import annotations

import msgspec


class FileReader:
    def __init__(self, rows):
        self._rows = rows

    def get(self, key):
        return self._rows[key][0] if key in self._rows else None

    def version(self, key):
        return self._rows[key][1] if key in self._rows else 0

    def rows(self, start, end, *, reverse=False, limit=None):
        keys = sorted((key for key in self._rows if start <= key < end), reverse=reverse)
        return [(key, *self._rows[key]) for key in keys[:limit]]

    def scan(self, start, end, *, reverse=False, limit=None, damaged=None):
        return [(key, value) for key, value, _ in self.rows(start, end, reverse=reverse, limit=limit)]

    def again(self):
        return self

    def close(self):
        pass

    dispose = close


class FileBackend:
    inline, checked = True, True

    def __init__(self, path):
        self._path = path
        self._load()

    def _load(self):
        self._revision, self._rows = msgspec.msgpack.decode(self._path.read_bytes()) if self._path.exists() else (0, {})
        self._rows = {key: (value, version) for key, (value, version) in self._rows.items()}

    def check(self, after):
        return after

    def begin(self, *, sync):
        self._new = dict(self._rows)
        return self._revision, False

    def get(self, key):
        return self._new.get(key)

    def versions(self, start, end):
        return [(key, self._new[key][1]) for key in sorted(self._new) if start <= key < end]

    def write(self, rows, deletes):
        for key in deletes:
            self._new.pop(key, None)
        self._new |= {key: (value, version) for key, value, version in rows}

    def delete_range(self, start, end):
        self._new = {key: row for key, row in self._new.items() if not start <= key < end}

    def commit(self, revision):
        self._path.with_suffix(".new").write_bytes(msgspec.msgpack.encode((revision, self._new)))
        self._path.with_suffix(".new").replace(self._path)
        self._revision, self._rows = revision, self._new

    def rollback(self):
        self._new = {}

    def reopen(self):
        self._load()

    def reader(self):
        return FileReader(self._rows)

    def doorbell(self):
        return 0

    def size(self):
        return self._path.stat().st_size

    def close(self):
        pass
