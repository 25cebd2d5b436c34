"""Owns the way from a URL to a store: which scheme means which backend, and which parameters it takes.
It must never import a database library before a URL asks for it, nor pass over a parameter that nobody knows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import msgspec

from spellwork.clock import Clock, SystemClock
from spellwork.errors import DefinitionError, StoreUnavailable
from spellwork.store.backend import Backend
from spellwork.store.committer import Probe
from spellwork.store.durability import Durability
from spellwork.store.encrypted import encrypted
from spellwork.store.keyring import Encryption
from spellwork.store.memory import MemoryBackend
from spellwork.store.store import Store

_KNOWN = "use memory: or sqlite:PATH, lmdb:PATH, rocksdb:PATH, for example sqlite:work.db"


class Place(msgspec.Struct, frozen=True):
    """What a URL asks for: `path` between the scheme and `?`, and the `parameters` behind it.

    `create` is False where a store that is not there must not be made. `durability` is the level that the store will keep.
    """

    scheme: str
    path: str
    parameters: Mapping[str, str]
    create: bool
    durability: Durability


Opener = Callable[[Place], Backend]


def _memory(_place: Place) -> Backend:
    return MemoryBackend()


def _sqlite(place: Place) -> Backend:
    from spellwork.store.sqlite import SqliteBackend  # noqa: PLC0415 - brings a database library

    return SqliteBackend(place.path, create=place.create, strict=place.durability.name == "full")


def _lmdb(place: Place) -> Backend:
    from spellwork.store.lmdb import LmdbBackend  # noqa: PLC0415 - the same

    return LmdbBackend(place.path, create=place.create, strict=place.durability.name == "full")


def _rocksdb(place: Place) -> Backend:
    from spellwork.store.rocksdb import RocksBackend  # noqa: PLC0415 - the same

    strict, preset = place.durability.name == "full", place.parameters.get("preset", "default")
    return RocksBackend(place.path, create=place.create, strict=strict, preset=preset)


class _Scheme(msgspec.Struct, frozen=True):
    opener: Opener
    parameters: frozenset[str] = frozenset()
    library: str = ""


_SCHEMES: dict[str, _Scheme] = {
    "memory": _Scheme(_memory),
    "sqlite": _Scheme(_sqlite),
    "lmdb": _Scheme(_lmdb, library="lmdb"),
    "rocksdb": _Scheme(_rocksdb, frozenset({"preset"}), library="rocksdict"),
}


def register_backend(scheme: str, opener: Opener, *, parameters: tuple[str, ...] = ()) -> None:
    """Let URLs `scheme:PATH` open a backend of your own; `opener` gets the `Place`, and `parameters` names those it knows.

    A scheme has two or more letters, digits and `+`, and can't be taken twice; raises `DefinitionError`.
    """
    if not re.fullmatch(r"[a-z][a-z0-9+]+", scheme):
        raise DefinitionError(f"{scheme!r} cannot be a scheme; use two or more of a-z, 0-9 and +, a letter first")
    if scheme in _SCHEMES:
        raise DefinitionError(f"the scheme {scheme}: is taken; choose another one")
    _SCHEMES[scheme] = _Scheme(opener, frozenset(parameters))


def open_store(
    url: str,
    *,
    durability: str | None = None,
    clock: Clock | None = None,
    create: bool = True,
    probe: Probe | None = None,
    encryption: Encryption | None = None,
) -> Store:
    """Open `memory:`, `sqlite:PATH`, `lmdb:PATH`, `rocksdb:PATH` or a registered scheme on the running event loop.

    With `encryption` every value is encrypted before it is written; raises `KeyMissing`, `KeyRefused` or `NotEncrypted` when the
    keys and the store do not fit.
    """
    level, backend = open_backend(url, durability=durability, create=create)
    try:
        used = encrypted(backend, encryption)
    except BaseException:
        backend.close()
        raise
    return Store(url, used, level, clock or SystemClock(), probe)


def open_backend(url: str, *, durability: str | None = None, create: bool = True) -> tuple[Durability, Backend]:
    """The durability and the backend of a URL, whose rows are as the medium has them (encrypted ones stay so)."""
    name, _, rest = url.partition(":")
    scheme = _SCHEMES.get(name)
    path, mark, query = rest.partition("?")
    if scheme is None or (name == "memory") is bool(path) or ":" not in url:
        meant = f"did you mean 'sqlite:{url}'? " if ":" not in url and url else ""
        raise StoreUnavailable(f"unknown store {url!r}; {meant}{_KNOWN}")
    place = Place(name, path, _parameters(name, scheme, query, asked=bool(mark)), create, _level(name, durability))
    return place.durability, _backend(scheme, place)


def _parameters(name: str, scheme: _Scheme, query: str, *, asked: bool) -> dict[str, str]:
    pairs = query.split("&") if asked else []
    found = {pair.partition("=")[0]: pair.partition("=")[2] for pair in pairs}
    unknown = sorted(found.keys() - scheme.parameters)
    if unknown or len(found) < len(pairs):
        known = f"there is {', '.join(sorted(scheme.parameters))}" if scheme.parameters else "there is none"
        raise DefinitionError(f"{name}: does not take {query!r} behind the ? of its URL; {known}")
    return found


def _level(name: str, durability: str | None) -> Durability:
    if name == "memory":
        if durability not in (None, "memory"):
            Durability.parse(durability)  # one that does not exist at all is told as such
            raise DefinitionError(f"a memory: store cannot be {durability!r}; use sqlite:PATH for durable work")
        return Durability.parse("memory")
    level = Durability.parse(durability or "full")
    if level.name == "memory":
        raise DefinitionError(f'durability "memory" is for memory: stores; for {name}: use "relaxed"')
    return level


def _backend(scheme: _Scheme, place: Place) -> Backend:
    try:
        return scheme.opener(place)
    except ModuleNotFoundError as error:
        if not scheme.library or error.name != scheme.library:
            raise
        raise StoreUnavailable(
            f"{place.scheme}: needs {scheme.library}, which is not installed; pip install 'spellwork[{place.scheme}]'"
        ) from error
