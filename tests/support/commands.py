"""The commands of `glm-train`, run in this process."""

from __future__ import annotations

import pytest

from glm_train.cli.main import main


def ran(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> tuple[str, str]:
    """Run a command; assert its exit code, and that no traceback was shown; its output and its errors."""
    found = main([*map(str, arguments)])
    output, error = capsys.readouterr()
    assert found == code, error
    assert "Traceback" not in error
    return output, error
