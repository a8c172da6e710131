"""Progress of loops in logs and on terminals."""

from __future__ import annotations

import re
import sys

import pytest

from atlasmith.core import progress
from atlasmith.core.progress import Progress, heartbeat, track


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", clock.monotonic)
    return clock


def test_a_log_has_a_line_now_and_then_and_at_the_end(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress("template", 100, done=20) as loop:
        for step in range(80):
            clock.now += 1.0
            loop.update(loss=1 / (step + 1))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6  # every 15 s of 80 s, and the last
    assert re.fullmatch(r"template: 35 of 100, loss 0\.0667, 1 min 5 s left, \d+\.\d\d GiB", lines[0])
    assert re.fullmatch(r"template: 100 of 100, loss 0\.0125, \d+\.\d\d GiB", lines[-1])


def test_nothing_is_shown_where_it_is_disabled(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("template", 1, enabled=False) as loop:
        loop.update()
    assert capsys.readouterr() == ("", "")


def test_items_are_tracked(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track("abc", "letters")) == ["a", "b", "c"]
    assert capsys.readouterr().out.startswith("letters: 3 of 3")


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with Progress("template", 2) as loop:
        loop.update(loss=0.5)
        loop.update(loss=0.25)
    out, shown = capsys.readouterr()
    assert not out
    assert "template" in shown and "2/2" in shown and "loss 0.2500" in shown


def test_silence_is_broken(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "SILENT_SECONDS", 0.0)
    waiting = progress.threading.Event()
    monkeypatch.setattr(progress, "write_line", lambda line: (print(line), waiting.set()))
    with heartbeat("fuse"), Progress("votenet", 10):
        assert waiting.wait(5)
    assert re.match(r"votenet: 0 of 10, \d+\.\d\d GiB, \d s since the start", capsys.readouterr().out)
