"""Events: operators over streams of values, in memory.
This face only imports; it must never be imported by `import spellwork`.
"""

from spellwork.events import ops
from spellwork.events.stream import Operator, Source, Stream

__all__ = ["Operator", "Source", "Stream", "ops"]
