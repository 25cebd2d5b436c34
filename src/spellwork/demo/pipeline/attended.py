"""Owns following a review to its end: in this process, or in one that is killed again and again from outside.
It must never help the review along, except by the approval if that was asked for.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import msgspec

from spellwork import Run
from spellwork.demo.pipeline.proof import Kill, Proof, prove, step_key
from spellwork.demo.pipeline.session import Session, look
from spellwork.demo.pipeline.show import Show
from spellwork.demo.pipeline.standing import Standing
from spellwork.demo.pipeline.victim import Victim
from spellwork.demo.pipeline.workflow import APPROVAL, Outcome

_LOOK_EVERY = 0.03
_ENDED_WITHIN = 30.0


class Finished(msgspec.Struct, frozen=True):
    """A review at its end."""

    run_id: str
    outcome: Outcome
    proof: Proof
    kills: list[Kill]


class Attendance:
    """Watches one review; `approve` says whether to send the approval as well."""

    def __init__(self, session: Session, show: Show, *, approve: bool):
        self._session = session
        self._show = show
        self._approve = approve
        self._sent = False

    async def undisturbed(self) -> Finished:
        """Run the review in this process."""
        async with self._session.engine(owner=True) as engine:
            run_id, resumed = await self._session.choose(engine)
            self._show.began(run_id, resumed=resumed)
            run = await self._session.start(engine, run_id)
            result = asyncio.create_task(run.result())
            try:
                while not result.done():
                    await self._answer(run, await self._look(run))
                    await asyncio.wait([result], timeout=_LOOK_EVERY)
                outcome = await result
            finally:
                result.cancel()
            return await self._finished(run, outcome, [])

    async def killed(self, kills: int, seed: int) -> Finished:
        """Run the review in a child process, and kill that `kills` times with SIGKILL as it goes."""
        async with self._session.engine(owner=False) as engine:
            run_id, resumed = await self._session.choose(engine)
            self._show.began(run_id, resumed=resumed)
            victim = Victim(self._session, run_id)
            try:
                await victim.start()
                run: Run[Outcome] = await engine.get(run_id)
                done = await self._torment(run, victim, kills, seed)
                await victim.end(_ENDED_WITHIN)
            finally:
                await victim.kill()
            return await self._finished(run, await run.result(), done)

    async def _torment(self, run: Run[Outcome], victim: Victim, kills: int, seed: int) -> list[Kill]:
        done: list[Kill] = []
        points: list[int] | None = None
        while True:
            state = await self._look(run)
            if state.ended:
                return done
            if points is None and state.planned is not None:
                points = kill_points(len(state.committed), len(state.planned), kills, seed)
            if points and _is_due(state, points[0], done):
                points.pop(0)
                done.append(await self._kill(run, victim))
                self._show.killed(done[-1], len(done), kills)
                await victim.start()
                continue
            victim.check()
            if not points:
                await self._answer(run, state)
            await asyncio.sleep(_LOOK_EVERY)

    async def _kill(self, run: Run[Outcome], victim: Victim) -> Kill:
        pid = await victim.kill()
        # Read only now: what a dead process did can no longer change.
        state, number = await look(run), (await run.status()).number
        self._show.advance(state)
        settled = {step_key(run.id, number, each.n) for each in state.committed}
        lines = self._session.ledger.lines(run.id)
        in_flight = sorted({line.key for line in lines if line.pid == pid and line.key not in settled})
        return Kill(pid, len(state.committed), in_flight)

    async def _look(self, run: Run[Outcome]) -> Standing:
        state = await look(run)
        self._show.advance(state)
        return state

    async def _answer(self, run: Run[Outcome], state: Standing) -> None:
        if not state.analysed or state.answered or state.ended or self._sent:
            return
        if self._approve:
            self._sent = True
            await run.signal(APPROVAL, value=True, id="demo")
        else:
            self._show.ask(self._session)

    async def _finished(self, run: Run[Outcome], outcome: Outcome, kills: list[Kill]) -> Finished:
        state, number = await self._look(run), (await run.status()).number
        lines = self._session.ledger.lines(run.id)
        return Finished(run.id, outcome, prove(state, lines, run.id, number, self._session.width, kills), kills)


def kill_points(committed: int, planned: int, kills: int, seed: int) -> list[int]:
    """At how many committed files to kill, in order; where there are too few files, several times at the end."""
    ahead = range(committed + 1, planned + 1)
    chosen = random.Random(seed).sample(ahead, min(kills, len(ahead)))  # noqa: S311 - to be repeated, not guessed
    return sorted(chosen) + [planned] * (kills - len(chosen))


def _is_due(state: Standing, point: int, done: Sequence[Kill]) -> bool:
    # Two kills without a committed step between them would look like a review that kills its process by itself.
    floor = done[-1].committed if done else -1
    return state.analysed or len(state.committed) >= max(point, floor + 1)
