"""Every kept input and a few thousand mutations of them give values or typed errors; `make fuzz` goes on from there."""

from __future__ import annotations

import itertools

import pytest

from tests.fuzz.mutate import mutations, seeds
from tests.fuzz.targets import TARGETS

COUNTS = {"entry": 3000, "journal": 2000, "row": 3000, "codec": 3000, "store": 300, "cli": 200}
COUNTS |= {"topics": 3000, "state": 1000, "sealed": 3000, "backup": 500}


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes_give_values_or_typed_errors(name: str) -> None:
    """Seeds and deterministic mutations of a target: no error but those that a user may see."""
    start = seeds(name)
    assert start
    for data in itertools.chain(start, itertools.islice(mutations(start, 20261123), COUNTS[name])):
        try:
            TARGETS[name](data)
        except BaseException as error:
            error.add_note(f"the input was {data!r}")
            raise


def test_zeros_are_no_entry() -> None:
    """An all-zero tail is not a valid frame, whatever its length."""
    from spellwork.errors import StoreCorrupt
    from spellwork.journal import unpack_entry
    from tests.fuzz.targets import KEY

    for size in range(64):
        with pytest.raises(StoreCorrupt, match="damaged"):
            unpack_entry(KEY, bytes(size))


def test_good_checksum_over_broken_text_is_damage() -> None:
    """A frame whose checksum fits but whose text is no UTF-8 is reported, not raised as what the decoder thinks of it."""
    import zlib

    from spellwork.errors import StoreCorrupt
    from spellwork.journal import CancelRequested, pack_entry, unpack_entry
    from tests.fuzz.targets import KEY

    body = pack_entry(KEY, CancelRequested(1, "abc"))[:-4].replace(b"abc", b"\xff\xfe\xfd")
    with pytest.raises(StoreCorrupt, match="cannot be read"):
        unpack_entry(KEY, body + zlib.crc32(body, zlib.crc32(KEY)).to_bytes(4, "big"))
