"""The command line's outside: help, unknown commands, errors and exit codes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from perception.cli import main as cli
from perception.core.errors import InputError


@dataclass(frozen=True)
class Arguments:
    """A command for tests."""

    number: int = 1


def fake_command(monkeypatch: pytest.MonkeyPatch, run: object) -> None:
    monkeypatch.setitem(sys.modules, "perception.cli.doctor", SimpleNamespace(Arguments=Arguments, run=run, __doc__="fake"))


def raising(error: BaseException) -> object:
    def run(_arguments: Arguments) -> int:
        raise error

    return run


def test_help_lists_all_commands_and_loads_nothing_heavy() -> None:
    program = "import sys; from perception.cli.main import main; main(['--help']); sys.exit('torch' in sys.modules or 'tyro' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    for name, summary in cli.COMMANDS.items():
        assert f"{name}" in result.stdout
        assert summary in result.stdout


def test_the_help_of_the_demo_does_not_wait_for_torch() -> None:
    program = "import sys; from perception.cli.main import main\ntry: main(['demo', '--help'])\nfinally: print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "--frames" in result.stdout
    assert result.stdout.splitlines()[-1] == "False"


def test_an_unknown_command_lists_the_known_and_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["dmo"]) == 2
    message = capsys.readouterr().err
    assert "unknown command 'dmo'" in message
    assert "demo, up, onboard, replay, report, export, bench, doctor" in message
    assert "did you mean 'demo'?" in message
    assert cli.main([]) == 2


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [(InputError("bag x: no such file"), 2, "error: bag x: no such file\n"), (KeyboardInterrupt(), 130, "interrupted\n")],
)
def test_errors_are_one_line_and_an_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, text: str
) -> None:
    fake_command(monkeypatch, raising(error))
    assert cli.main(["doctor"]) == code
    assert capsys.readouterr().err == text


def test_our_own_bugs_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_command(monkeypatch, raising(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        cli.main(["doctor"])


def test_arguments_reach_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    fake_command(monkeypatch, lambda arguments: seen.append(arguments) or 7)
    assert cli.main(["doctor", "--number", "5"]) == 7
    assert seen == [Arguments(5)]
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["doctor", "--nmber", "5"])
    assert exit_info.value.code == 2


def test_every_command_has_a_module_with_arguments_or_commands_of_its_own() -> None:
    pytest.importorskip("rclpy")
    import importlib

    modules = []
    for name in cli.COMMANDS:
        module = importlib.import_module(f"perception.cli.{name}")
        own = getattr(module, "COMMANDS", {}) if hasattr(module, "main") else {}
        modules += [importlib.import_module(f"{module.__name__}.{inner}") for inner in own] or [module]
    for module in modules:
        assert module.Arguments.__doc__
        assert callable(module.run)


def test_sigterm_leaves_through_the_exits() -> None:
    program = """
import os, signal, sys, types
from dataclasses import dataclass
from perception.cli import main as cli
@dataclass
class Arguments:
    "none"
def run(_):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
    finally:
        print("nodes stopped")
sys.modules["perception.cli.doctor"] = types.SimpleNamespace(Arguments=Arguments, run=run, __doc__="")
sys.exit(cli.main(["doctor"]))
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert result.returncode == 143
    assert result.stdout == "nodes stopped\n"


def test_output_that_nobody_reads_on_ends_quietly() -> None:
    program = """
import sys, types
from dataclasses import dataclass
from perception.cli import main as cli
@dataclass
class Arguments:
    "none"
def run(_):
    while True:
        print("line")
sys.modules["perception.cli.doctor"] = types.SimpleNamespace(Arguments=Arguments, run=run, __doc__="")
sys.exit(cli.main(["doctor"]))
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "line\n"
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 141
