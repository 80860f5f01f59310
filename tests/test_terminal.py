"""What reaches a terminal: never a sequence it would obey, never markup that rich would."""

from __future__ import annotations

import io
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from tests.specs import install
from treesearch import doctor, report
from treesearch.cli import app
from treesearch.doctor.base import Check
from treesearch.progress import LiveProgress, PlainProgress, for_console
from treesearch.terminal import encodable, shown

EVIL = "a\x1b]0;pwned\x07\x1b[2J\x9b31m\r\x08\x00[red]b[/red][link=http://x]\u202ecba\u2066\ud800\U000e0041\x7f"
SUMMARY: dict[str, Any] = {
    "problems": 1, "correct": 1, "accuracy": 1.0, "accuracy_ci95": [0.2, 1.0], "oracle_accuracy": 1.0,
    "tokens_generated": 1, "tokens_scored": 1, "tokens_wasted": None, "expansions": 1, "seconds": 1.0,
    "tokens_per_second": 1.0, "labels": [EVIL],
}  # fmt: skip


def harmless(text: str) -> bool:
    """No control character but line ends, nothing that turns letters around; the markup is still there, so not obeyed."""
    bad = {c for c in text if unicodedata.category(c) in ("Cc", "Cs") and c != "\n"} | {*text} & {
        *"\u202e\u2066\U000e0041"
    }
    return not bad


def rendered(what: Any) -> str:
    """As on a terminal without colours."""
    file = io.StringIO()
    Console(file=file, width=400, force_terminal=True, color_system=None).print(what)
    return file.getvalue()


def test_every_character_that_a_terminal_may_obey_is_spelled_out() -> None:
    every = "".join(map(chr, range(0x110000)))
    for char in shown(every):
        assert unicodedata.category(char) not in ("Cc", "Cs", "Zl", "Zp") or char in "\t\n", hex(ord(char))
    assert shown(every).encode() and shown("é ки 中 🎉\t\n") == "é ки 中 🎉\t\n"
    assert shown("\x1b\u202e") == r"\x1b\u202e" and shown(Path("a\x1b")) == r"a\x1b"
    assert encodable("é") and not encodable("\ud800")


@pytest.mark.parametrize(
    "table",
    [
        report.summary_table(SUMMARY, EVIL),
        report.sweep_table(
            [SUMMARY | {"name": EVIL, "labels": EVIL, "budget": None, "seed": 0, "ci_low": 0, "ci_high": 1}]
        ),
        doctor.table([Check("model", "problem", EVIL, EVIL)]),
    ],
    ids=["summary", "sweep", "doctor"],
)
def test_a_table_shows_a_hostile_text_as_it_is_written(table: Any) -> None:
    text = rendered(table)
    whole = "".join(text.split())
    assert harmless(text) and "[red]b[/red][link=http://x]" in whole and r"\x1b]0;pwned\x07" in whole


def test_notes_of_a_run_are_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    PlainProgress(said.append).note(EVIL)
    file = io.StringIO()
    LiveProgress(Console(file=file, width=400, force_terminal=True, color_system=None)).note(EVIL)
    plain = io.StringIO()
    for_console(Console(file=plain, width=400)).note(EVIL)
    for text in (said[0], file.getvalue(), plain.getvalue()):
        assert harmless(text) and "[red]b[/red][link=http://x]" in text


def test_errors_on_the_command_line_are_harmless(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["run", "--set", f"task={EVIL}"])
    assert done.exit_code == 2 and harmless(done.output)
    done = CliRunner().invoke(app, ["solve", "a\udcff"])
    assert done.exit_code == 2 and harmless(done.output) and "no UTF-8" in done.output
