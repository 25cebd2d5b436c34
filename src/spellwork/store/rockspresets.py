"""Owns the presets of RocksDB: how much memory, how many threads and which compression a machine gets.
It must never touch what durability rests on.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from rocksdict import BlockBasedOptions, Cache, DBCompressionType, Options


def _tables(options: Options, cache: int, *, bloom: int) -> None:
    tables = BlockBasedOptions()
    tables.set_block_cache(Cache(cache))
    if bloom:
        tables.set_bloom_filter(bloom, False)
    options.set_block_based_table_factory(tables)


def _default(options: Options) -> None:
    options.set_write_buffer_size(32 << 20)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_level_compaction_dynamic_level_bytes(True)
    _tables(options, 64 << 20, bloom=10)


def _ssd(options: Options) -> None:
    options.increase_parallelism(max(2, os.cpu_count() or 2))
    options.set_write_buffer_size(128 << 20)
    options.set_max_write_buffer_number(4)
    options.set_target_file_size_base(128 << 20)
    options.set_max_bytes_for_level_base(512 << 20)
    options.set_bytes_per_sync(1 << 20)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_level_compaction_dynamic_level_bytes(True)
    _tables(options, 512 << 20, bloom=10)


def _small(options: Options) -> None:
    options.set_write_buffer_size(4 << 20)
    options.set_max_background_jobs(1)
    options.set_max_open_files(64)
    options.set_compression_type(DBCompressionType.zstd())
    options.set_level_compaction_dynamic_level_bytes(True)
    _tables(options, 4 << 20, bloom=0)


PRESETS: dict[str, Callable[[Options], None]] = {"default": _default, "small": _small, "ssd": _ssd}
"""`default`: tens of MB of memory; `ssd`: a GB of memory for large stores on fast disks; `small`: a few MB, for small machines."""
