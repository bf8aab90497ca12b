"""What tests of several commands share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from support.commands import ran


@pytest.fixture
def converts(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run `convert`; assert the exit code; give what it printed: its output, or the message where it failed."""

    def run(*arguments: object, code: int = 0) -> str:
        output, error = ran(capsys, "convert", *arguments, code=code)
        return error if code else output

    return run
