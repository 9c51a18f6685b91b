"""Every check that needs no guest: linters, types, sanity, documentation, fast unit tests.

Usage: check.py [all|fast|lint|unit]; fast is all but ansible-test.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from steps import CORE, ROOT, Step, run_lanes

SCRIPTS = ROOT / "scripts"
FAST = "not lxc and not slow and not e2e"


def shell_files() -> list[Path]:
    """Shell scripts that are or will be committed."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.sh", "activate", ".ci/run"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [path for line in listed.stdout.splitlines() if (path := ROOT / line).exists()]


def ansible_test_lanes(wanted: str) -> list[list[Step]]:
    """The collection's own test runner; pylint takes longer than all else that it looks at, and goes beside it."""
    from ansible_test._util.target.common.constants import CONTROLLER_PYTHON_VERSIONS

    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if version not in CONTROLLER_PYTHON_VERSIONS:
        known = ", ".join(CONTROLLER_PYTHON_VERSIONS)
        print(f" skip  ansible-test: the pinned ansible-core tests on Python {known}, this is {version}")
        return []
    runner = SCRIPTS / "ansible_test.sh"
    pylint = Step("ansible-test pylint", [runner, "sanity", "--test", "pylint"])
    sanity = Step("ansible-test sanity", [runner, "sanity", "--skip-test", "shellcheck", "--skip-test", "pylint"])
    units = Step("ansible-test units", [runner, "units"])
    return {"all": [[pylint], [sanity, units]], "lint": [[pylint], [sanity]], "unit": [[units]]}[wanted]


def lint_steps(scratch: str) -> list[Step]:
    """Linters, types, documentation and changelog."""
    collection_docs = ["antsibull-docs", "lint-collection-docs", "--plugin-docs", "--validate-collection-refs", "self"]
    return [
        Step("ruff", ["ruff", "check"]),
        Step("ruff format", ["ruff", "format", "--check"]),
        Step("mypy", ["mypy"]),
        Step("ansible-lint", ["ansible-lint", "--strict"]),
        Step("documentation", [*collection_docs, "--skip-rstcheck", CORE]),
        Step("changelog", ["antsibull-changelog", "lint"], cwd=CORE),
        Step("yamllint", ["yamllint", "--strict", "."]),
        Step("shellcheck", ["shellcheck", "-x", *shell_files()]),
        Step("collection builds", ["ansible-galaxy", "collection", "build", CORE, "--output-path", scratch]),
    ]


def fast_tests(of: str, place: Path, at_once: int = 0) -> Step:
    """Fast tests as pytest runs them, several files at a time where they wait more than they work."""
    together = ("-n", str(at_once), "--dist", "loadfile") if at_once else ()
    return Step(f"tests of the {of}", ["python", "-m", "pytest", "-q", "-m", FAST, *together, place])


def main(wanted: str = "all") -> int:
    """Run the wanted checks and say how many failed."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="nhi-check-") as scratch:
        # ansible-test is thorough, and takes longer than all else.
        beside = [] if wanted == "fast" else ansible_test_lanes(wanted)
        lab = fast_tests("lab", ROOT / "lab/tests", 4)
        others = [fast_tests("services", CORE / "services/tests", 3), fast_tests("repository", ROOT / "tests")]
        plugins = fast_tests("plugins", CORE / "tests/unit", 2)
        lanes = {
            "all": [[*lint_steps(scratch), lab, *others]],
            "fast": [[*lint_steps(scratch), lab], [plugins, *others]],
            "lint": [lint_steps(scratch)],
            "unit": [[lab, *others]],
        }[wanted]
        results = run_lanes([*beside, *lanes])
    failed = [result.step.name for result in results if result.failed]
    seconds = time.monotonic() - started
    print(f"{len(results) - len(failed)} checks passed, {len(failed)} failed in {seconds:.0f} s", ", ".join(failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
