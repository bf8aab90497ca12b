"""What tests of the export share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from glm_train.cli.main import main


@pytest.fixture
def exports(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run `export`; assert the exit code; give what it printed: its output, or the message where it failed."""

    def run(*arguments: object, code: int = 0) -> str:
        found = main(["export", *map(str, arguments)])
        output, error = capsys.readouterr()
        assert found == code, error
        assert "Traceback" not in error
        return error if code else output + error

    return run
