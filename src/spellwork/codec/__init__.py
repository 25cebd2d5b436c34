"""Owns the way from typed Python values to bytes and back.
It must never unpickle, evaluate, or import anything by a name found in stored bytes.
"""

from spellwork.codec.payload import Codec, Limits, Shape
from spellwork.codec.redaction import Redaction
from spellwork.codec.registered import RegisteredType
from spellwork.codec.secret import Secret

__all__ = ["Codec", "Limits", "Redaction", "RegisteredType", "Secret", "Shape"]
