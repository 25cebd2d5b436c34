"""Owns the builder: a chart written as a chain of calls.
It must never be needed to run a chart; `build` gives the same model that the other forms give.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from spellwork.errors import DefinitionError
from spellwork.machine.chart import Chart
from spellwork.machine.content import (
    Assign,
    Block,
    Cancel,
    Content,
    Do,
    Done,
    Each,
    If,
    Invoke,
    Let,
    Log,
    Raise,
    Send,
)  # fmt: skip
from spellwork.machine.event import event_name
from spellwork.machine.model import Guard, Kind, Options, State, Transition
from spellwork.machine.piece import ContentFailed, seconds

Action: TypeAlias = Callable[..., Any] | str | Content
Actions: TypeAlias = Action | Sequence[Action] | None
_CONTENT = (Do, Assign, Let, Raise, Send, Cancel, Log, If, Each)


def block_of(given: Actions) -> Block:
    """Actions as content: functions and names are called, content is taken as it is."""
    if given is None:
        return ()
    if isinstance(given, Sequence) and not isinstance(given, str):
        return tuple(content for each in given for content in block_of(each))
    return (given,) if isinstance(given, _CONTENT) else (Do(given),)


def names_of(given: Any) -> tuple[str, ...]:
    """One or several events as descriptors: names, event classes, enum members."""
    if given is None:
        return ()
    several = given if isinstance(given, (tuple, list)) else (given,)
    return tuple(event_name(each) for each in several)


def targets_of(given: Any) -> tuple[str, ...]:
    """One or several targets: ids, or the classes that declare the states."""
    if given is None:
        return ()
    several = given if isinstance(given, (tuple, list)) else (given,)
    return tuple(each if isinstance(each, str) else str(getattr(each, "state_id", None) or each.__name__) for each in several)


def delay_of(given: Any) -> float:
    """A delay in seconds. DefinitionError if it is none."""
    try:
        return seconds(given)
    except ContentFailed as error:
        raise DefinitionError(str(error)) from None


class StateBuilder:
    """One state under construction. Every method but those that open a state gives the same builder back."""

    def __init__(self, id_: str, kind: Kind = "state", *, deep: bool = False):
        self.id, self.deep = id_, deep
        self.kind: Kind = kind
        self.children: list[StateBuilder] = []
        self._initial: Transition | None = None
        self._transitions: list[Transition] = []
        self._entry: list[Block] = []
        self._exit: list[Block] = []
        self._invokes: list[Invoke] = []
        self._defer: tuple[str, ...] = ()
        self._done: Done | None = None
        self._timers = 0

    def state(self, id: str) -> StateBuilder:
        """Open a state inside this one."""
        return self._child(StateBuilder(id))

    def parallel(self, id: str) -> StateBuilder:
        """Open a state whose children are all active together."""
        return self._child(StateBuilder(id, "parallel"))

    def final(self, id: str, result: Any = None) -> StateBuilder:
        """Open a final state; `result` (a value or a function) is the payload of the done event."""
        child = self._child(StateBuilder(id, "final"))
        child._done = None if result is None else Done(result)
        return child

    def history(self, id: str, default: Any, *, deep: bool = False, do: Actions = None) -> StateBuilder:
        """Add a history state: going to it goes where this state was last, at first to `default`."""
        child = self._child(StateBuilder(id, "history", deep=deep))
        child._transitions.append(Transition(targets=targets_of(default), content=block_of(do)))
        return self

    def initial(self, target: Any, do: Actions = None) -> StateBuilder:
        """Say which state is entered first, and what is done then."""
        self._initial = Transition(targets=targets_of(target), content=block_of(do))
        return self

    def on(
        self, event: Any, to: Any = None, *, guard: Guard | None = None, do: Actions = None, internal: bool = False
    ) -> StateBuilder:
        """Add a transition. Without `to` the machine stays where it is, and nothing is left or entered."""
        self._transitions.append(Transition(names_of(event), targets_of(to), guard, block_of(do), internal))
        return self

    def always(self, to: Any = None, *, guard: Guard | None = None, do: Actions = None) -> StateBuilder:
        """Add an eventless transition: taken as soon as its guard holds."""
        return self.on(None, to, guard=guard, do=do)

    def on_event(self, event: Any) -> TransitionBuilder:
        """Open a transition: `.guard(f).action(f).transition_to("state")`."""
        return TransitionBuilder(self, event)

    def on_done(self, to: Any = None, *, guard: Guard | None = None, do: Actions = None) -> StateBuilder:
        """Add a transition for when the states inside have reached a final one."""
        return self.on(f"done.state.{self.id}", to, guard=guard, do=do)

    def on_entry(self, *actions: Action) -> StateBuilder:
        """Add a block of actions for entering."""
        self._entry.append(block_of(actions))
        return self

    def on_exit(self, *actions: Action) -> StateBuilder:
        """Add a block of actions for leaving."""
        self._exit.append(block_of(actions))
        return self

    def after(self, delay: Any, to: Any = None, *, guard: Guard | None = None, do: Actions = None) -> StateBuilder:
        """Add a transition that is due `delay` (seconds, timedelta, "200ms") after the state was entered."""
        name = self._timer("after", delay)
        return self.on(name, to, guard=guard, do=do)

    def every(self, period: Any, *, do: Actions, guard: Guard | None = None) -> StateBuilder:
        """Do something again and again while the state is active, first after one period."""
        if delay_of(period) <= 0:
            raise DefinitionError(f"{self.id!r} does something every {period!r}; a period is above zero, or time would stand still")
        name = self._timer("every", period)
        again = Send(name, delay=delay_of(period), id=name)
        if guard is None:
            return self.on(name, do=[*block_of(do), again])
        return self.on(name, guard=guard, do=[*block_of(do), again]).on(name, do=again)

    def defer(self, *events: Any) -> StateBuilder:
        """Keep these events, while nothing handles them, until a state is reached that no longer defers them."""
        self._defer += tuple(event_name(event) for event in events)
        return self

    def invoke(
        self, src: Any, *, id: str | None = None, data: Mapping[str, Any] | None = None, forward: bool = False
    ) -> StateBuilder:
        """Run a child while the state is active: a `Chart`, or what the host knows by this name (a `@workflow` has one)."""
        chart = src if isinstance(src, Chart) else None
        name = getattr(src, "name", None)
        if callable(src) and isinstance(name, str):
            src = name
        self._invokes.append(
            Invoke(None if chart else src, None, chart, id, params=tuple((data or {}).items()), autoforward=forward)
        )  # fmt: skip
        return self

    def _timer(self, kind: str, delay: Any) -> str:
        self._timers += 1
        name = f"{kind}.{self.id}.{self._timers}"
        self._entry.append((Send(name, delay=delay_of(delay), id=name),))
        self._exit.append((Cancel(name),))
        return name

    def _child(self, child: StateBuilder) -> StateBuilder:
        self.children.append(child)
        return child

    def model(self) -> State:
        """The state as data."""
        return State(
            self.id, self.kind, tuple(child.model() for child in self.children), self._initial, tuple(self._transitions),
            tuple(self._entry), tuple(self._exit), tuple(self._invokes), (), self._done, self._defer, self.deep,
        )  # fmt: skip


class TransitionBuilder:
    """One transition under construction; `transition_to`, `internal_to` and `stay` close it."""

    def __init__(self, state: StateBuilder, event: Any):
        self._state, self._event, self._guard = state, event, None
        self._actions: list[Action] = []

    def guard(self, guard: Any) -> TransitionBuilder:
        """Take it only if this holds."""
        if self._guard is not None:
            raise DefinitionError("the transition has a guard already; combine the two in one function")
        self._guard = guard
        return self

    def action(self, *actions: Action) -> TransitionBuilder:
        """Do this on the way."""
        self._actions += actions
        return self

    def transition_to(self, *targets: Any) -> StateBuilder:
        """Leave for the target; for the state itself this leaves and enters it."""
        return self._state.on(self._event, targets, guard=self._guard, do=self._actions)

    def internal_to(self, *targets: Any) -> StateBuilder:
        """Go to a state inside without leaving this one."""
        return self._state.on(self._event, targets, guard=self._guard, do=self._actions, internal=True)

    def stay(self) -> StateBuilder:
        """Only do the actions: nothing is left or entered."""
        return self._state.on(self._event, guard=self._guard, do=self._actions)


class ChartBuilder(StateBuilder):
    """A chart under construction: open states on it, then `build` it.

    `context` is a value, or a function that makes one for each machine. `events` are all events that the chart is to
    understand (names or classes). A strict chart refuses events that nothing handles, a lenient one drops them.
    """

    def __init__(self, name: str, *, context: Any = None, events: Sequence[Any] = (), strict: bool = True):
        super().__init__(f"({name})")
        self._name, self._context, self._events, self._strict = name, context, tuple(events), strict

    def initial(self, target: Any, do: Actions = None) -> ChartBuilder:
        """Say which state is entered first, and what is done then."""
        super().initial(target, do)
        return self

    def build(
        self, *, actions: Mapping[str, Callable[..., Any]] | None = None, guards: Mapping[str, Callable[..., Any]] | None = None
    ) -> Chart:
        """The chart.

        Raises:
            ChartRefused: it is malformed.
        """
        options = Options(
            self._name, self._strict, tuple(event_name(event) for event in self._events),
            tuple(event for event in self._events if isinstance(event, type)), context=self._context,
        )  # fmt: skip
        return Chart(self.model(), options, actions=actions, guards=guards)
