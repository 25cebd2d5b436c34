"""The data model of the vetted conformance charts: Python, evaluated. It belongs to the tests, not to the library."""

import copy
import json
from pathlib import Path
from xml.etree import ElementTree as ET

PROCESSOR = "http://www.w3.org/TR/scxml/#SCXMLEventProcessor"
SYSTEM = {"_event", "_sessionid", "_name", "_ioprocessors", "_x"}


class Data(dict):
    """Event data whose keys are attributes as well."""

    __getattr__ = dict.__getitem__


class SystemEvent:
    """`_event` as the charts see it."""

    def __init__(self, event):
        for name in ("name", "sendid", "origin", "origintype", "invokeid"):
            setattr(self, name, getattr(event, name))
        self.type = event.kind
        data = event.data if isinstance(event.data, ET.Element) else event.data or None  # an element's truth is a warning in 3.12
        self.data = Data(data) if type(data) is dict else data
        self.raw = repr(event)

    def __eq__(self, other):
        return isinstance(other, SystemEvent) and vars(self) == vars(other)

    def __hash__(self):
        return hash(vars(self)["name"])


class PythonModel:
    """Evaluates the text of a chart with `eval`."""

    name = "python"

    def __init__(self, folder: Path):
        self.folder = folder

    def _names(self, view):
        location = f"#_scxml_{view.session}"
        names = {
            "_sessionid": view.session, "_name": view.name, "In": view.active, "true": True, "false": False,
            "_ioprocessors": {PROCESSOR: Data(location=location), "scxml": Data(location=location)},
        }  # fmt: skip
        if view.event is not None:
            names["_event"] = SystemEvent(view.event)
        return names

    def value(self, text):
        return lambda view: eval(text.strip(), {**self._names(view), **(view.context or {})})

    def place(self, text, *, declare):
        text = text.strip()

        def assign(view, value):
            context = dict(view.context or {})
            root = text.split(".")[0]
            if root in SYSTEM:
                raise PermissionError(f"{root} can't be changed")
            if not text.isidentifier():
                context[root] = copy.copy(context[root])
                exec(f"{text} = __value", {**self._names(view), "__value": value}, context)
                context.pop("__value", None)
                return context
            if not declare and text not in context:
                raise NameError(text)
            exec(f"{text} = None", {})
            return {**context, text: value}

        return assign

    def script(self, text):
        def execute(view):
            context = dict(view.context or {})
            exec(text.strip(), self._names(view), context)
            return context

        return execute

    def literal(self, text):
        stripped = text.strip()
        try:
            return json.loads(stripped)
        except ValueError:
            pass
        if stripped.startswith("<"):
            return ET.fromstring(stripped)
        return " ".join(stripped.split())

    def load(self, source):
        return self.literal((self.folder / source.removeprefix("file:")).read_text())
