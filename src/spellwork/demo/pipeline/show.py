"""Owns what a person sees while a review runs: the progress bar and the lines above it.
It must never hold anything that the review itself needs.
"""

from __future__ import annotations

import shlex
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from spellwork.demo.pipeline.proof import Kill
from spellwork.demo.pipeline.session import Session
from spellwork.demo.pipeline.standing import Standing


class Show:
    """The bar of one review, up to the moment when nothing moves any more."""

    def __init__(self, console: Console):
        self.console = console
        self.state: Standing | None = None
        self.run_id = ""
        self._told = False
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("files"),
            TimeElapsedColumn(),
            console=console,
        )
        self._task: TaskID = self._bar.add_task("discovering", total=None)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """A line above the bar."""
        self.console.print(text, highlight=False, soft_wrap=True)

    def began(self, run_id: str, *, resumed: bool) -> None:
        """Which run this is."""
        self.run_id = run_id
        self.say(f"{'resuming' if resumed else 'starting'} run [bold]{escape(run_id)}[/]")

    def advance(self, state: Standing) -> None:
        """How far it is."""
        self.state = state
        if state.ended:
            what = "finished"
        elif state.planned is None:
            what = "discovering"
        elif not state.analysed:
            what = "analysing"
        else:
            what = "writing the report" if state.answered else "waiting for approval"
        total = None if state.planned is None else len(state.planned)
        self._bar.update(self._task, description=what, total=total, completed=len(state.committed))

    def ask(self, session: Session) -> None:
        """Tell once how to approve."""
        if not self._told:
            self._told = True
            command = shlex.join(["spellwork", "signal", self.run_id, "approval", "true", "--store", session.store])
            self.say(f"every file is analysed; approve the report with\n  [bold]{escape(command)}[/]")

    def killed(self, kill: Kill, done: int, wanted: int) -> None:
        """Tell of a kill."""
        total = "?" if self.state is None or self.state.planned is None else len(self.state.planned)
        self.say(
            f"[red]kill -9[/] {done} of {wanted}: process {kill.pid} died at {kill.committed} of {total} files, "
            f"{len(kill.in_flight)} in flight; starting it again"
        )
