"""The benchmarks that ship with Spellwork and run by ``spellwork bench``: real stores, full durability, raw limits.
Nothing outside this package may import it, and it must never state a figure without the conditions it was measured in.
"""
