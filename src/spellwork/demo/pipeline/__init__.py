"""The durable code review: the pure analysers of `spellwork.demo.review`, run by an ordinary workflow.
It must never change a reviewed file, nor keep anything of a run outside the store and the review's own folder.
"""

from spellwork.demo.pipeline.ledger import Ledger, Line
from spellwork.demo.pipeline.proof import Proof, prove
from spellwork.demo.pipeline.session import Session
from spellwork.demo.pipeline.workflow import ACTIVITIES, APPROVAL, Outcome, review

__all__ = ["ACTIVITIES", "APPROVAL", "Ledger", "Line", "Outcome", "Proof", "Session", "prove", "review"]
