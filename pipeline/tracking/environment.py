"""Tags of a run that describe its code and machine."""

from __future__ import annotations

import functools
import getpass
import logging
import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

logger = logging.getLogger(__name__)

GIT_TIMEOUT_S = 10.0
OTHER_CHECKOUT = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR")
"""Variables of a git hook, which name another checkout."""
COMMIT = "# branch.oid "
"""What git writes before the commit."""


def environment() -> dict[str, str]:
    """Tags with the user, package versions, git commit and host; never environment variables."""
    versions = []
    for package in ("bonafide", "torch", "ray"):
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return {
        **_user(),
        **git_tags(Path(__file__).parents[2]),
        "bonafide.versions": ", ".join([*versions, f"python {platform.python_version()}"]),
        "bonafide.host": f"{platform.node()}, {platform.platform()}",
    }


def _user() -> dict[str, str]:
    try:
        return {"mlflow.user": getpass.getuser()}
    except (KeyError, OSError):  # a user of a container may have no name
        return {}


@functools.cache
def git_tags(checkout: Path) -> dict[str, str]:
    """Tags with the commit of a checkout, and whether it has changes; none, after a warning, if git fails."""
    git = shutil.which("git")
    if git is None or not (checkout / ".git").exists():
        return {}
    # Optional locks would disturb a git that the user runs at the same time.
    command = [git, "--no-optional-locks", "-C", str(checkout)]
    command += ["status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    variables = {name: value for name, value in os.environ.items() if name not in OTHER_CHECKOUT}
    try:
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, check=True, timeout=GIT_TIMEOUT_S, env=variables
        )
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").splitlines() or [f"exit status {error.returncode}"]
        return _without_git(lines[0])
    except subprocess.TimeoutExpired:
        return _without_git(f"no answer in {GIT_TIMEOUT_S:g} s")
    except OSError as error:
        return _without_git(str(error.strerror).lower())
    lines = done.stdout.decode(errors="replace").splitlines()
    commit = next((line.removeprefix(COMMIT) for line in lines if line.startswith(COMMIT)), "")
    if not commit.isalnum():  # a checkout without a commit
        return _without_git("no commit")
    is_dirty = any(not line.startswith("#") for line in lines)
    return {"mlflow.source.git.commit": commit, "bonafide.git.dirty": str(is_dirty).lower()}


def _without_git(why: str) -> dict[str, str]:
    logger.warning("git: %s; runs are tracked without their commit", why)
    return {}
