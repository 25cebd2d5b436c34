"""Owns `python -m spellwork`, which is the command `spellwork`. It must never do anything else."""

from spellwork.cli import main

if __name__ == "__main__":
    main()
