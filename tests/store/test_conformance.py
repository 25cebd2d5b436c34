"""The conformance kit holds on every backend and on somebody else's, and none of many faults gets past it."""

from __future__ import annotations

import builtins
from pathlib import Path

import pytest

from spellwork.errors import DefinitionError, StoreUnavailable, UsageError
from spellwork.store import Place, Store, open_store, register_backend
from spellwork.testing import LawBroken, StoreConformance
from tests.store.third_party import FileBackend, FileReader


class TestMemory(StoreConformance):
    durable = False

    def open(self, place: Path) -> Store:
        return open_store("memory:")


class TestSqlite(StoreConformance):
    shared = True

    def open(self, place: Path) -> Store:
        return open_store(f"sqlite:{place / 'store.db'}")


class TestLmdb(StoreConformance):
    def open(self, place: Path) -> Store:
        return open_store(f"lmdb:{place / 'store.mdb'}")


class TestRocksdb(StoreConformance):
    def open(self, place: Path) -> Store:
        return open_store(f"rocksdb:{place / 'store'}?preset=small")


class TestThirdParty(StoreConformance):
    backend = FileBackend

    def open(self, place: Path):
        return self.backend(place / "store.bin")


# Faults


class ForgetsOnRollback(FileBackend):
    def rollback(self):
        self._rows = self._new


class EndOfRangeIncluded(FileBackend):
    def delete_range(self, start, end):
        super().delete_range(start, end + b"\0")


class EndOfScanIncluded(FileBackend):
    def reader(self):
        class Reader(FileReader):
            def rows(self, start, end, *, reverse=False, limit=None):
                return super().rows(start, end + b"\0", reverse=reverse, limit=limit)

        return Reader(self._rows)


class LimitBeforeReverse(FileBackend):
    def reader(self):
        class Reader(FileReader):
            def rows(self, start, end, *, reverse=False, limit=None):
                found = super().rows(start, end, limit=limit)
                return found[::-1] if reverse else found

        return Reader(self._rows)


class EmptyIsAbsent(FileBackend):
    def write(self, rows, deletes):
        super().write([row for row in rows if row[1]], [*deletes, *(key for key, value, _ in rows if not value)])


class SnapshotsMove(FileBackend):
    def commit(self, revision):
        super().commit(revision)
        self._live.clear()
        self._live.update(self._rows)

    def __init__(self, path):
        super().__init__(path)
        self._live = dict(self._rows)

    def reader(self):
        return FileReader(self._live)


class VersionsStay(FileBackend):
    def write(self, rows, deletes):
        super().write([(key, value, self._new.get(key, (b"", version))[1]) for key, value, version in rows], deletes)


class SeesOnlyWhatIsCommitted(FileBackend):
    def get(self, key):
        return self._rows.get(key)


class RangesSeeOnlyWhatIsCommitted(FileBackend):
    def versions(self, start, end):
        return [(key, self._rows[key][1]) for key in sorted(self._rows) if start <= key < end]


class DeletesAreLost(FileBackend):
    def write(self, rows, deletes):
        super().write(rows, [])


class DeletesAfterPuts(FileBackend):
    def delete_range(self, start, end):
        self._late = [*getattr(self, "_late", []), (start, end)]

    def commit(self, revision):
        for start, end in getattr(self, "_late", []):
            super().delete_range(start, end)
        self._late = []
        super().commit(revision)


class LongKeysAreCut(FileBackend):
    def write(self, rows, deletes):
        super().write([(key[:511], value, version) for key, value, version in rows], [key[:511] for key in deletes])


class RevisionIsForgotten(FileBackend):
    def __init__(self, path):
        super().__init__(path)
        self._revision = 0


class RingsItsOwnBell(FileBackend):
    def doorbell(self):
        return self._revision


class WritesNothing(FileBackend):
    def __init__(self, path):
        super().__init__(path.with_name("never"))
        self._path = path

    def commit(self, revision):
        self._revision, self._rows = revision, self._new


FAULTS = [
    kind
    for kind in list(globals().values())
    if isinstance(kind, type) and issubclass(kind, FileBackend) and kind is not FileBackend
]


@pytest.mark.parametrize("fault", FAULTS)
def test_no_fault_gets_past_the_kit(tmp_path: Path, fault: type) -> None:
    """Each wrong backend breaks a law."""
    kit = type("Kit", (TestThirdParty,), {"backend": fault, "shrink": False})()
    with pytest.raises(LawBroken):
        kit.check(tmp_path)


def test_a_fault_that_shows_only_once_is_a_broken_law_too(tmp_path: Path) -> None:
    """Hypothesis, which tries again what has failed, has another error for that."""
    shown: list[object] = []

    class OnceWrong(FileBackend):
        def reader(self):
            class Reader(FileReader):
                def rows(self, start, end, *, reverse=False, limit=None):
                    found = super().rows(start, end, reverse=reverse, limit=limit)
                    if found and start[0] == 0x40 and not shown:
                        shown.append(found)
                        return found[1:]
                    return found

            return Reader(self._rows)

    kit = type("Kit", (TestThirdParty,), {"backend": OnceWrong, "shrink": False})()
    with pytest.raises(LawBroken, match="the same steps"):
        kit.test_it_agrees_with_a_dict(tmp_path)
    assert shown


def test_there_are_faults() -> None:
    """Enough different ones."""
    assert len(FAULTS) >= 15


async def test_a_registered_scheme_opens_like_any_other(tmp_path: Path) -> None:
    """Its opener gets path, parameters, level and whether it may create; its name cannot be taken twice."""
    asked: list[Place] = []

    def opener(place: Place):
        asked.append(place)
        return FileBackend(Path(place.path))

    register_backend("file+test", opener, parameters=("mode",))
    store = open_store(f"file+test:{tmp_path / 'x'}?mode=a", durability="batched(5)", create=False)
    assert asked[0].parameters == {"mode": "a"}
    assert (asked[0].create, asked[0].durability.name) == (False, "batched(5)")
    await store.close()
    with pytest.raises(DefinitionError, match=r"does not take 'mood=a'.*there is mode"):
        open_store(f"file+test:{tmp_path / 'x'}?mood=a")
    for scheme in ("file+test", "sqlite", "x", "1a", "Abc"):
        with pytest.raises(DefinitionError):
            register_backend(scheme, opener)


@pytest.mark.parametrize(
    "url", ["sqlite:{}?cache=1", "lmdb:{}?map=5", "rocksdb:{}?preset=small&x=1", "rocksdb:{}?", "rocksdb:{}?preset=huge",
            "rocksdb:{}?preset=small&preset=ssd"],
)  # fmt: skip
async def test_parameters_that_nobody_knows_are_refused(tmp_path: Path, url: str) -> None:
    """Nothing behind the ? of a URL is passed over, and nothing is made."""
    with pytest.raises(DefinitionError):
        open_store(url.format(tmp_path / "store"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("scheme", "library"), [("lmdb", "lmdb"), ("rocksdb", "rocksdict")])
async def test_a_backend_that_is_not_installed_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str, library: str
) -> None:
    """The error names the extra."""
    import sys

    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, f"spellwork.store.{scheme}", raising=False)
    with pytest.raises(StoreUnavailable, match=rf"pip install 'spellwork\[{scheme}\]'"):
        open_store(f"{scheme}:{tmp_path / 'x'}")


def test_without_hypothesis_the_kit_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the comparison with a dict needs it."""
    real = builtins.__import__

    def without(name: str, *rest, **more):
        if name.startswith("hypothesis"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match="pip install hypothesis"):
        TestMemory().test_it_agrees_with_a_dict(tmp_path)
