"""The demonstrations that ship with Spellwork and run by ``spellwork demo``.

Nothing outside this package may import it.
"""
