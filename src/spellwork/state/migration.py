"""Owns migrations: the values of a tree from one version of their shape to the next, and back.
It must never leave a tree whose values are of two versions but in the middle of a migration that can be resumed or rolled back.

What a batch of a migration replaces is kept aside in the same batch, together with the cursor: the values that it wrote and those
that it kept have one version, so a value that was written since is known by its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from spellwork.errors import Conflict, DefinitionError, MigrationFailed, StoreCorrupt
from spellwork.state.keys import Key
from spellwork.state.row import due_of, is_live, pack
from spellwork.state.rows import TreeRows, due_key
from spellwork.state.scopes import ASIDE, SCHEMAS, Scope
from spellwork.store import Batch, Reader, successor
from spellwork.supervision import attempt

if TYPE_CHECKING:
    from spellwork.state.store import StateStore

_ROWS = 1000
_ROWS_A_READ = 100
_BYTES = 4 << 20
_ERRORS_KEPT = 10
_FIRST_VERSION = 1
_UNNAMED = ""


@dataclasses.dataclass(frozen=True)
class Migration:
    """One step of a tree: each value of version `to - 1`, read as an `old`, becomes `change(value)`, a `new`, under the same key.

    Trees begin at version 1. `change` runs in a thread, possibly more than once for a value: it must only compute.
    """

    tree: str
    to: int
    change: Callable[[Any], Any]
    old: Any = Any
    new: Any = Any
    scope: Scope = dataclasses.field(default_factory=Scope)

    def __post_init__(self) -> None:
        if type(self.to) is not int or self.to <= _FIRST_VERSION:
            raise DefinitionError(f"migration of tree {self.tree!r}: to= must be a version, {_FIRST_VERSION + 1} or more")


class MigrationReport(msgspec.Struct, frozen=True):
    """How many values were (after a dry run: would be) migrated, and why others can't be: the first errors by tree and key."""

    values: int
    failed: int = 0
    errors: tuple[tuple[str, Key, str], ...] = ()


Phase = Literal["settled", "migrating", "migrated", "discarding", "restoring"]


class Schema(msgspec.Struct, frozen=True):
    """Where a tree stands: the version of its values, and how far a migration has come.

    `phase` is "settled"; "migrating" up to the key `cursor`; "migrated", with the old values kept aside until `finish_migration`;
    "discarding" or "restoring" while it is rolled back, up to the `cursor` if it has one.
    """

    version: int = _FIRST_VERSION
    phase: Phase = "settled"
    cursor: bytes = b""


@dataclasses.dataclass(frozen=True)
class _Page:
    """Rows of a tree: key, old row, version, new row."""

    rows: list[tuple[bytes, bytes, int, bytes]]
    errors: list[tuple[Key, str]]
    cursor: bytes
    is_last: bool


class _Step:
    """One migration bound to a store."""

    def __init__(self, store: StateStore, migration: Migration):
        self._store = store
        self._migration = migration
        self._old: TreeRows[Any] = store.rows(migration.tree, migration.old, migration.scope)
        self._new: TreeRows[Any] = store.rows(migration.tree, migration.new, migration.scope)
        self._schema_key = SCHEMAS.key(self._old.prefix)
        self.schema = Schema()
        self._schema_version = 0
        self.is_taken = False

    @property
    def name(self) -> str:
        return str(self._old)

    async def load(self) -> None:
        """Read where the tree stands."""
        found, self._schema_version = await self._store.read(
            lambda reader: (reader.get(self._schema_key), reader.version(self._schema_key))
        )
        self.schema = msgspec.msgpack.decode(found, type=Schema) if found else Schema()

    def is_done(self) -> bool:
        """Whether there is nothing to migrate; raises `MigrationFailed` if the tree is somewhere else."""
        schema, to = self.schema, self._migration.to
        if schema.phase in ("discarding", "restoring"):
            raise self.failed("a rollback was interrupted; call rollback_migration again first")
        if schema.version >= to:
            return schema.phase != "migrating"
        if schema.phase != "settled":
            raise self.failed(f"its migration to version {schema.version} is not finished; finish it or roll it back first")
        if schema.version != to - 1:
            raise self.failed(f"its values are of version {schema.version}, this migration begins at {to - 1}")
        return False

    def failed(self, why: str) -> MigrationFailed:
        return MigrationFailed(f"tree {self.name}: {why}", tree=self.name)

    async def pages(self) -> AsyncGenerator[_Page]:
        """What is left to migrate, page by page."""
        cursor = self.schema.cursor if self.schema.phase == "migrating" else b""
        while True:
            page = await self._store.read(lambda reader, after=cursor: self._page(reader, after))  # type: ignore[misc]
            yield page
            if page.is_last:
                return
            cursor = page.cursor

    def _page(self, reader: Reader, after: bytes) -> _Page:
        rows: list[tuple[bytes, bytes, int, bytes]] = []
        errors: list[tuple[Key, str]] = []
        size, now = 0, self._store.clock.now()
        start, is_last = (after + b"\x00" if after else self._old.prefix), False
        while not is_last and len(rows) + len(errors) < _ROWS and size < _BYTES:
            found = reader.rows(start, self._old.end, limit=_ROWS_A_READ)
            is_last = len(found) < _ROWS_A_READ
            for full, row, version in found:
                if not is_live(row, now):  # nobody sees it any more, and it may be of any shape
                    continue
                changed, problem = attempt(self._changed, _UNNAMED, row)
                if problem is None:
                    rows.append((full, row, version, changed))
                    size += len(row) + len(changed)
                else:
                    key = self._old.key_of(full)  # only an error needs it, and it costs a quarter of the rest
                    _, named = attempt(self._changed, key, row)
                    errors.append((key, f"{type(named or problem).__name__}: {named or problem}"))
            if found:
                start = found[-1][0] + b"\x00"
        return _Page(rows, errors, start[:-1], is_last)

    def _changed(self, key: Key, row: bytes) -> bytes:
        return pack(self._new.payload(key, self._migration.change(self._old.value(key, row))), due_of(row))

    async def apply(self) -> int:
        """Migrate what is left; how many values that were. Raises `MigrationFailed` at a value that can't be."""
        count = 0
        while True:
            try:
                async with contextlib.aclosing(self.pages()) as pages:
                    async for page in pages:
                        if page.errors:
                            key, why = page.errors[0]
                            raise self.failed(f"key {key!r}: {why}")
                        await self._write(page)
                        count += len(page.rows)
            except Conflict as error:
                if error.key == self._schema_key:
                    self.is_taken = True
                    raise self.failed("another process is migrating it") from error
                continue  # somebody has written one of the values: look again, from the cursor on
            return count

    async def _write(self, page: _Page) -> None:
        batch = Batch()
        for key, row, version, changed in page.rows:
            batch.put(key, changed).put(ASIDE.key(key), row).require_version(key, version)
        await self._move(batch, Schema(self._migration.to, "migrated" if page.is_last else "migrating", page.cursor))

    async def _move(self, batch: Batch, schema: Schema) -> None:
        batch.require_version(self._schema_key, self._schema_version)
        if schema == Schema():
            batch.delete(self._schema_key)
        else:
            batch.put(self._schema_key, msgspec.msgpack.encode(schema))
        revision = await self._store.commit(batch)
        self.schema = schema
        self._schema_version = 0 if schema == Schema() else revision

    # Back, and the end

    def has_old_values(self) -> bool:
        """Whether there is anything to roll back."""
        return self.schema.version == self._migration.to and self.schema.phase != "settled"

    def is_finished(self) -> bool:
        """Whether its old values are gone."""
        schema, to = self.schema, self._migration.to
        return schema.version > to or (schema.version == to and schema.phase == "settled")

    async def finish(self) -> None:
        """Forget the old values."""
        if self.schema.phase != "migrated":
            raise self.failed("its migration was interrupted; call migrate again, or roll it back")
        start = ASIDE.key(self._old.prefix)
        await self._move(Batch().delete_range(start, successor(start)), Schema(self._migration.to))

    async def roll_back(self, *, discard: bool) -> int:
        """Put the old values back; how many. Raises `MigrationFailed` if values were written since, and may not be discarded."""
        if self.schema.phase in ("migrated", "migrating"):
            if not discard:
                written = await self._store.read(self._written_since)
                if written:
                    raise self.failed(
                        f"{written} values were written or deleted since its migration; a rollback with discard=True loses that"
                    )
            # what lies behind the cursor of an interrupted migration was not touched; a whole one has no behind
            cursor = self.schema.cursor if self.schema.phase == "migrating" else b""
            await self._move(Batch(), msgspec.structs.replace(self.schema, phase="discarding", cursor=cursor))
        if self.schema.phase == "discarding":
            await self._discard()
        count = 0
        while True:
            kept, is_last = await self._store.read(self._kept)
            count += len(kept)
            batch = Batch()
            for aside, row in kept:
                key = aside[1:]
                batch.delete(aside).put(key, row)
                if due := due_of(row):
                    batch.put(due_key(due, key), b"")
            await self._move(batch, Schema(self._migration.to - 1) if is_last else self.schema)
            if is_last:
                return count

    def _kept(self, reader: Reader) -> tuple[list[tuple[bytes, bytes]], bool]:
        """Old values to put back, and whether they are the last ones."""
        rows: list[tuple[bytes, bytes]] = []
        size = 0
        start, end = ASIDE.range(self._old.prefix)
        while len(rows) < _ROWS and size < _BYTES:
            found = reader.scan(start, end, limit=_ROWS_A_READ)
            rows += found
            if len(found) < _ROWS_A_READ:
                return rows, True
            size += sum(len(row) for _, row in found)
            start = found[-1][0] + b"\x00"
        return rows, False

    async def _discard(self) -> None:
        """Delete the keys that came since; those whose old values are kept are put back later."""
        after, is_last = self._old.prefix, False
        while not is_last:
            new, after, is_last = await self._store.read(lambda reader, start=after: self._came_since(reader, start))  # type: ignore[misc]
            batch = Batch()
            for key in new:
                batch.delete(key)
            if new or is_last:
                await self._move(batch, msgspec.structs.replace(self.schema, phase="restoring") if is_last else self.schema)

    @property
    def _migrated_end(self) -> bytes:
        """Behind the last key that was migrated."""
        is_whole = self.schema.phase == "migrated" or not self.schema.cursor
        return self._old.end if is_whole else self.schema.cursor + b"\x00"

    def _came_since(self, reader: Reader, start: bytes) -> tuple[list[bytes], bytes, bool]:
        found = reader.rows(start, self._migrated_end, limit=_ROWS_A_READ)
        new = [key for key, _, _ in found if not reader.version(ASIDE.key(key))]
        return new, (found[-1][0] + b"\x00" if found else start), len(found) < _ROWS_A_READ

    def _written_since(self, reader: Reader) -> int:
        now = self._store.clock.now()
        written, start = 0, self._old.prefix
        while found := reader.rows(start, self._migrated_end, limit=_ROWS_A_READ):
            written += sum(reader.version(ASIDE.key(key)) != version for key, row, version in found if is_live(row, now))
            start = found[-1][0] + b"\x00"
        return written + self._deleted_since(reader, now)

    def _deleted_since(self, reader: Reader, now: int) -> int:
        """How many values are gone, but for those whose time had come."""
        count, (start, end) = 0, ASIDE.range(self._old.prefix)
        while found := reader.scan(start, end, limit=_ROWS_A_READ):
            count += sum(is_live(row, now) and not reader.version(aside[1:]) for aside, row in found)
            start = found[-1][0] + b"\x00"
        return count


Plan = Migration | Sequence[Migration]


async def steps_of(store: StateStore, plan: Plan) -> list[_Step]:
    """The steps of a plan, with where their trees stand."""
    steps = [_Step(store, migration) for migration in ([plan] if isinstance(plan, Migration) else plan)]
    if len({step.name for step in steps}) < len(steps):
        raise DefinitionError("a plan has one migration for a tree; migrate to the next version afterwards")
    for step in steps:
        await step.load()
    return steps


async def migrate(store: StateStore, plan: Plan, *, dry_run: bool) -> MigrationReport:
    """See `StateStore.migrate`."""
    steps = [step for step in await steps_of(store, plan) if not step.is_done()]
    report = await _tried(steps)
    if dry_run:
        return report
    if report.failed:
        tree, key, why = report.errors[0]
        raise MigrationFailed(
            f"{report.failed} of {report.values + report.failed} values can't be migrated, the first of them in tree {tree}, key "
            f"{key!r}: {why}. Nothing was changed",
            tree=tree,
        )
    values = 0
    for number, step in enumerate(steps):
        try:
            values += await step.apply()
        except (MigrationFailed, StoreCorrupt):
            # a value that came since the trial: everything goes back to where it was, but what another process migrates is its own.
            # After anything else (a full disk, a cancellation) the migration can go on.
            for done in reversed(steps[: number + 1]):
                if done.has_old_values() and not done.is_taken:
                    await done.roll_back(discard=True)
            raise
    return MigrationReport(values)


async def _tried(steps: list[_Step]) -> MigrationReport:
    values = failed = 0
    errors: list[tuple[str, Key, str]] = []
    for step in steps:
        async for page in step.pages():
            values += len(page.rows)
            failed += len(page.errors)
            errors += [(step.name, key, why) for key, why in page.errors[: _ERRORS_KEPT - len(errors)]]
    return MigrationReport(values, failed, tuple(errors))


async def finish(store: StateStore, plan: Plan) -> None:
    """See `StateStore.finish_migration`."""
    for step in await steps_of(store, plan):
        if step.has_old_values():
            await step.finish()


async def roll_back(store: StateStore, plan: Plan, *, discard: bool) -> int:
    """See `StateStore.rollback_migration`."""
    steps = await steps_of(store, plan)
    for step in steps:
        if step.is_finished():
            raise step.failed("its migration is finished, the old values are gone; restore a backup, or migrate back to them")
    return sum([await step.roll_back(discard=discard) for step in reversed(steps) if step.has_old_values()])
