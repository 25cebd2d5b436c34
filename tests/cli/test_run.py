"""`spellwork run` and `spellwork resume`: seeing one run through, in spite of everything."""

import contextlib
import json
import os
import pty
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spellwork.cli.output import to_json

ECHO = """
    @workflow
    async def echo(first=None, *, second=None) -> list:
        return [first, second]
"""

# two steps, then it waits until the file `go` is there
STOPPING = """
    def log(line):
        with open("ledger", "a") as file:
            file.write(line + "\\n")

    @activity
    async def step(n: int) -> int:
        log(f"step {n}")
        return n

    @activity
    async def gate() -> None:
        log("gate")
        while not Path("go").exists():
            await asyncio.sleep(0.01)

    @workflow
    async def slow() -> int:
        total = await step(1) + await step(2)
        await gate()
        return total + await step(3)
"""


def test_the_only_workflow_runs_and_its_result_is_json(write, spellwork):
    """What the workflow returns is the only thing on stdout."""
    write("hello.py", "@workflow\nasync def hello(name: str) -> str:\n    return f'hello {name}'\n")
    done = spellwork("run", "hello.py", "--input", '"Ada"')
    assert (done.code, done.out, done.err) == (0, '"hello Ada"\n', "")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("[1]", [1, None]),
        ('{"first": 1, "second": 2}', [1, 2]),
        ('{"other": 1}', [{"other": 1}, None]),
        ('"text"', ["text", None]),
        ("[[1, 2]]", [[1, 2], None]),
        ("{}", [None, None]),
        ("null", [None, None]),
        ("@input.json", ["from a file", None]),
    ],
)
def test_input_is_positional_by_keyword_or_the_only_argument(write, spellwork, folder, given, expected):
    """A list is positional, an object of parameter names is by keyword, anything else is one argument."""
    write("echo.py", ECHO)
    (folder / "input.json").write_text('["from a file"]')
    assert spellwork("run", "echo.py", "--input", given).value == expected


def test_input_is_read_from_stdin(write, process, folder):
    """`--input -` takes what is piped in."""
    write("echo.py", ECHO)
    (folder / "piped").write_text('{"second": "piped"}')
    with (folder / "piped").open() as piped:
        assert process("run", "echo.py", "--input", "-", stdin=piped).end().value == [None, "piped"]


def test_a_parameter_named_like_one_of_start_is_still_an_argument(write, spellwork):
    """A workflow may have parameters called `id` or `workflow`."""
    write("named.py", "@workflow\nasync def named(id: str, workflow: int) -> list:\n    return [id, workflow]\n")
    assert spellwork("run", "named.py", "--input", '{"workflow": 1, "id": "x"}').value == ["x", 1]


def test_results_of_rich_types_become_json(write, spellwork):
    """Dates, bytes, sets, dataclasses and keys that are no text have a JSON form."""
    write(
        "rich_types.py",
        """
        import dataclasses, datetime
        @dataclasses.dataclass
        class Point:
            at: datetime.date
            raw: bytes
            tags: set[int]
            names: dict[int, str]
        @workflow
        async def rich_types() -> Point:
            return Point(datetime.date(2020, 1, 2), b"ab", {3}, {1: "one"})
        """,
    )
    assert spellwork("run", "rich_types.py").value == {
        "at": "2020-01-02",
        "raw": "YWI=",
        "tags": [3],
        "names": {"1": "one"},
    }


@pytest.mark.parametrize(
    ("value", "text"), [(2**70, "1180591620717411303424"), ({(1, 2): {3}}, '{"(1, 2)":[3]}'), (1 + 2j, '"(1+2j)"')]
)
def test_whatever_can_be_stored_has_a_json_form(value, text):
    """Integers beyond 64 bits stay exact, keys that are no text become text, the unknown its text form."""
    assert to_json(value) == text


def test_json_wraps_the_result(write, spellwork):
    """With --json the document says which run it was."""
    write("echo.py", ECHO)
    done = spellwork("run", "echo.py", "--id", "r", "--json")
    assert done.value == {"id": "r", "status": "completed", "result": [None, None]}


def test_several_workflows_need_a_name(write, spellwork):
    """Without a name the choice is listed; a misspelt one is corrected."""
    write("two.py", "@workflow\nasync def order(): ...\n@workflow\nasync def refund(): ...\n")
    several, typo = spellwork("run", "two.py"), spellwork("run", "two.py:ordr")
    assert several.code == 2
    assert "order, refund; name one, such as two.py:order" in several.err
    assert typo.code == 3
    assert "no workflow 'ordr' (did you mean order?); it has: order, refund" in typo.err
    assert spellwork("run", "two.py:refund").code == 0


def test_files_without_workflows_and_missing_files_are_not_found(write, spellwork, folder):
    """The message names the file and what it should hold; no store is made."""
    write("empty.py", "")
    assert "declares no workflow" in spellwork("run", "empty.py").err
    assert spellwork("run", "empty.py").code == 3
    assert "missing.py does not exist" in spellwork("run", "missing.py").err
    assert spellwork("run", "missing.py").code == 3
    assert spellwork("run", "empty.py", "--input", "@missing").code == 3
    assert not list(folder.glob("*.db*"))


@pytest.mark.parametrize(
    "words",
    [["run", "{}.py"], ["start", "{}"], ["replay", "{}", "--all"], ["machine", "draw", "{}.json"], ["backup", "list", "{}"]],
)
def test_a_name_that_can_name_no_file_is_one_that_does_not_exist(spellwork, words):
    """The file system refuses the question already; found by fuzzing."""
    outcome = spellwork(*(word.format("x" * 400) for word in words))
    assert outcome.code in (3, 4)
    assert "Traceback" not in outcome.err
    assert "name too long" not in outcome.err


def test_bad_json_shows_where_it_breaks(write, spellwork):
    """A forgotten quote is the common mistake, so the message says how to write text."""
    write("echo.py", ECHO)
    plain = spellwork("run", "echo.py", "--input", "Ada")
    assert plain.code == 2
    assert "--input is not JSON: Expecting value at line 1 column 1 of 'Ada'; text needs its own quotes" in plain.err
    assert "at line 1 column" in spellwork("run", "echo.py", "--input", "[1, ]").err


def test_arguments_of_the_wrong_type_are_refused_before_anything_is_written(write, spellwork):
    """The error names workflow and parameter, and the run does not exist."""
    write("typed.py", "@workflow\nasync def typed(n: int) -> int:\n    return n\n")
    done = spellwork("run", "typed.py", "--input", '"x"', "--id", "t", "--json")
    assert done.code == 5
    assert done.error["error"] == "payload"
    assert "workflow typed: n" in done.error["message"]
    assert spellwork("show", "t").code == 3


def test_a_failed_run_ends_with_1(write, spellwork):
    """The failure is told with its type, and where to look; there is no traceback."""
    write("bad.py", "@workflow\nasync def bad() -> int:\n    raise ValueError('boom')\n")
    done = spellwork("run", "bad.py", "--id", "b")
    assert (done.code, done.out) == (1, "")
    assert "run b failed: ValueError: boom" in done.err
    assert "spellwork show b" in done.err
    assert "Traceback" not in done.err
    error = spellwork("run", "bad.py", "--id", "b", "--json").error
    assert error["error"] == "run-failed"
    assert error["message"].startswith("run b failed: ValueError: boom (")
    assert error["message"].endswith("bad.py:6 in bad)"), "it says where"


def test_the_same_id_prints_the_stored_result(write, spellwork, lines_of):
    """Nothing runs twice; other arguments under the id are refused."""
    write("once.py", STOPPING.replace("await gate()", "pass"))
    assert spellwork("run", "once.py", "--id", "o").value == 6
    assert spellwork("run", "once.py", "--id", "o").value == 6
    assert spellwork("resume", "once.py", "o").value == 6
    assert lines_of("ledger") == ["step 1", "step 2", "step 3"]
    write("echo.py", ECHO)
    refused = spellwork("run", "echo.py", "--id", "o", "--json")
    assert (refused.code, refused.error["error"]) == (5, "run-exists")


def test_ctrl_c_says_which_command_goes_on_and_that_command_does(write, process, spellwork, lines_of, folder, eventually):
    """The printed line can be typed as it is, and no completed step runs again."""
    write("slow work.py", STOPPING)
    first = process("run", "slow work.py", "--id", "order 7", "--store", "a b.db")
    eventually(lambda: "gate" in lines_of("ledger"))
    first.send(signal.SIGINT)
    done = first.end()
    assert done.code == 130
    assert "Traceback" not in done.err
    command = shlex.split(done.err.splitlines()[-1])
    assert command == ["spellwork", "resume", "slow work.py", "--store", "sqlite:a b.db", "order 7"]
    (folder / "go").touch()
    assert spellwork(*command[1:]).value == 6
    assert lines_of("ledger") == ["step 1", "step 2", "gate", "gate", "step 3"]


def test_ctrl_c_with_json_is_an_error_document(write, process, lines_of, eventually):
    """The error says that it was interrupted; a generated id stands in the message."""
    write("slow.py", STOPPING)
    first = process("run", "slow.py", "--json")
    eventually(lambda: "gate" in lines_of("ledger"))
    first.send(signal.SIGINT)
    done = first.end()
    assert (done.code, done.error["error"]) == (130, "interrupted")
    assert "spellwork resume slow.py" in done.error["message"]


def test_ctrl_c_does_not_wait_for_an_activity_in_a_thread(write, process, folder, eventually):
    """An activity that blocks a thread for a minute does not hold the terminal that long."""
    write(
        "stuck.py",
        """
        import threading
        @activity
        def stuck() -> None:
            Path("stuck").touch()
            threading.Event().wait(60)
        @workflow
        async def waits() -> None:
            await stuck()
        """,
    )
    first = process("run", "stuck.py")
    eventually((folder / "stuck").exists)
    first.send(signal.SIGINT)
    assert first.end().code == 130


def test_a_killed_run_goes_on_with_the_same_command(write, process, spellwork, lines_of, folder, eventually):
    """Kill -9 needs no farewell: the same id takes the run up again."""
    write("slow.py", STOPPING)
    first = process("run", "slow.py", "--id", "k")
    eventually(lambda: "gate" in lines_of("ledger"))
    first.kill()
    (folder / "go").touch()
    assert spellwork("run", "slow.py", "--id", "k").value == 6
    assert lines_of("ledger") == ["step 1", "step 2", "gate", "gate", "step 3"]


def test_a_store_that_another_process_runs_is_not_available(write, process, spellwork, lines_of, folder, eventually):
    """A new run is told who owns the store; the run of the same id is waited for."""
    write("slow.py", STOPPING)
    write("echo.py", ECHO)
    first = process("run", "slow.py", "--id", "s")
    eventually(lambda: "gate" in lines_of("ledger"))
    refused = spellwork("run", "echo.py", "--json")
    assert (refused.code, refused.error["error"]) == (4, "store-owned")
    assert f"process {first.popen.pid}" in refused.error["message"]
    second = process("run", "slow.py", "--id", "s").says("waiting for its result")
    (folder / "go").touch()
    assert first.end().value == second.end().value == 6
    assert lines_of("ledger").count("gate") == 1


def test_whoever_waits_for_a_run_takes_over_when_its_process_dies(write, process, lines_of, folder, eventually):
    """The second terminal finishes what the killed first one left."""
    write("slow.py", STOPPING)
    first = process("run", "slow.py", "--id", "s")
    eventually(lambda: "gate" in lines_of("ledger"))
    second = process("resume", "slow.py", "s").says("waiting for its result")
    first.kill()
    (folder / "go").touch()
    assert second.end().value == 6
    assert lines_of("ledger").count("step 1") == 1


def test_a_run_that_changed_code_blocks_goes_on_after_the_fix(write, process, spellwork, lines_of, folder, eventually):
    """Nondeterminism ends with 1 and loses nothing."""
    write("slow.py", STOPPING)
    first = process("run", "slow.py", "--id", "s")
    eventually(lambda: "gate" in lines_of("ledger"))
    first.kill()
    write("slow.py", STOPPING.replace("step(1)", "step(10)"))
    blocked = process("resume", "slow.py", "s", "--json").end()
    assert blocked.code == 1
    assert blocked.error["error"] in ("nondeterminism", "run-blocked")
    assert spellwork("ps", "--status", "blocked", "--json").value["id"] == "s"
    write("slow.py", STOPPING)
    (folder / "go").touch()
    assert process("resume", "slow.py", "s").end().value == 6


def test_resuming_what_is_not_there_is_not_found(write, spellwork, folder):
    """Neither store nor run come to be by resuming them."""
    write("echo.py", ECHO)
    assert spellwork("resume", "echo.py", "x").code == 3
    assert spellwork("resume", "x").code == 3
    assert not list(folder.glob("*.db*"))
    spellwork("run", "echo.py", "--id", "e")
    assert spellwork("resume", "echo.py", "x").code == 3
    assert spellwork("resume", "a", "b", "c").code == 2
    assert spellwork("resume", "e").code == 5


def test_progress_is_shown_on_a_terminal_only(write, process, lines_of, folder, eventually):
    """On a terminal stderr says how many steps are done and what is waited for; the result stays alone on stdout."""
    write("slow.py", STOPPING)
    controller, terminal = pty.openpty()
    os.set_blocking(controller, False)
    shown = bytearray()

    def read():
        with contextlib.suppress(BlockingIOError):
            shown.extend(os.read(controller, 65536))
        return b"2 steps" in shown and b"step gate" in shown

    first = process("run", "slow.py", "--id", "s", stderr=terminal)
    os.close(terminal)
    eventually(read)
    (folder / "go").touch()
    assert json.loads(first.end().out) == 6
    os.close(controller)


def test_a_broken_file_shows_its_own_traceback(write, process):
    """What is wrong in the user's code is shown where it is."""
    write("broken.py", "raise KeyError('mine')\n")
    done = process("run", "broken.py").end()
    assert done.code == 2
    assert "broken.py cannot be loaded: KeyError: 'mine'" in done.err
    assert "click" not in done.err


def test_a_file_named_like_a_module_is_itself(write, spellwork):
    """json.py in the current directory is the user's, and the library's json stays what it is."""
    write("json.py", ECHO)
    assert spellwork("run", "json.py", "--input", "[1]").value == [1, None]
    assert not hasattr(sys.modules["json"], "echo")


def test_a_signal_that_does_not_fit_is_told_to_whoever_runs(write, process, spellwork):
    """Who waits for an approval must not wait in silence when it was given in the wrong form."""
    write("asks.py", "ok = Signal[bool]('ok')\n\n@workflow\nasync def asks() -> bool:\n    return await ok.receive(timeout=3)\n")
    running = process("run", "asks.py", "--id", "a")
    while spellwork("signal", "a", "ok", '"yes"').code:
        time.sleep(0.05)
    done = running.end()
    assert "signal ok: skipped one that does not fit" in done.err


@pytest.mark.parametrize("given", ["NaN", "[1, Infinity]", '{"a": -Infinity}', "1e400"])
def test_what_is_no_json_is_refused(given, write, spellwork):
    """It could be stored, and would be shown as null."""
    write("echo.py", ECHO)
    done = spellwork("run", "echo.py", "--input", given)
    assert done.code == 2
    assert "--input" in done.err


def test_output_that_cannot_be_written_is_an_error_in_a_line(write, process):
    """A full disk behind it, or none at all, is no reason for a traceback."""
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    for setup, told in (("sys.stdout = open('/dev/full', 'w')", True), ("sys.stdout = None", False)):
        code = f"import sys; from spellwork.cli.program import main; {setup}; main(['--help'])"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr
        assert ("No space left" in done.stderr) is told
