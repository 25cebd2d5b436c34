"""Which Python files of a tree are to be reviewed, and where on the disk each one lies.

It must never open a file, follow a symbolic link below the root or depend on the directory's order.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

SUFFIXES = (".py", ".pyw")
_SKIPPED = frozenset({"__pycache__", "build", "dist", "node_modules"})


def discover(root: str | os.PathLike[str]) -> list[str]:
    """Return the sorted POSIX paths, relative to `root`, of its Python files.

    A root that is itself a file yields its own name, whatever its suffix. Links below the root
    are left out (their targets are reviewed where they are, and loops can't arise), as are names
    that are not valid Unicode, which no report could spell.

    Raises:
        FileNotFoundError: nothing exists at `root`.
    """
    top = Path(root)
    if not top.exists():
        message = f"nothing to review: {os.fspath(root)!r} does not exist"
        raise FileNotFoundError(message)
    if not top.is_dir():
        return [top.name] if top.is_file() else []
    found: list[str] = []
    for folder, folders, files in os.walk(top):
        here = Path(folder)
        folders[:] = [name for name in folders if _is_reviewed(here / name)]
        found.extend((here / name).relative_to(top).as_posix() for name in files if _is_python(here / name))
    return sorted(found)


def locate(root: str | os.PathLike[str], path: str) -> Path:
    """Return where the file that `discover` called `path` lies, for a root that is a tree or one file."""
    top = Path(root)
    return top if top.is_file() else top / path


def _is_reviewed(folder: Path) -> bool:
    name = folder.name
    if name.startswith(".") or name in _SKIPPED or name.endswith(".egg-info") or not _is_spelt(name):
        return False
    return not (folder / "pyvenv.cfg").exists()


def _is_python(file: Path) -> bool:
    if file.suffix not in SUFFIXES or not _is_spelt(file.name):
        return False
    try:
        return stat.S_ISREG(file.lstat().st_mode)
    except FileNotFoundError:
        # Gone since the directory was listed: it is no longer part of the tree.
        return False


def _is_spelt(name: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in name)
