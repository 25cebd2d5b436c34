"""Owns the command line, with click for its grammar and rich for its progress.
It must never be imported by the library: `import spellwork` knows no terminal.
"""

from spellwork.cli.program import main

__all__ = ["main"]
