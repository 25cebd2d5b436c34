"""Owns `python -m spellwork.cli`.
It must never do more than call the program.
"""

from spellwork.cli.program import main

main()
