"""A plugin of pytest: writes down how many tests passed, and the first that failed, to the file RECORD_OUTCOME."""

import json
import os
from pathlib import Path
from typing import Any

OUTCOME: dict[str, Any] = {"passed": 0, "failed": None}


def pytest_collectreport(report: Any) -> None:
    if report.failed and OUTCOME["failed"] is None:
        OUTCOME["failed"] = report.nodeid


def pytest_runtest_logreport(report: Any) -> None:
    if report.failed and OUTCOME["failed"] is None:
        OUTCOME["failed"] = report.nodeid
    OUTCOME["passed"] += report.when == "call" and report.passed


def pytest_sessionfinish() -> None:
    Path(os.environ["RECORD_OUTCOME"]).write_text(json.dumps(OUTCOME), encoding="utf-8")
