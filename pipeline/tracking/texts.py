"""Texts for MLflow: cut to its length limits, free of credentials; and tags that describe code and machine."""

from __future__ import annotations

import getpass
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

# MLflow rejects longer texts.
MAX_KEY_LENGTH = 250
MAX_PARAM_LENGTH = 6000
MAX_TAG_LENGTH = 8000
MAX_DIGEST_LENGTH = 36

USER_INFO = re.compile(r"([a-z][a-z0-9+.-]*://)[^/@\s\"']*@", re.IGNORECASE)
SECRET_QUERY = re.compile(
    r"([?&][^=&\s\"']*(?:token|key|secret|password|signature|credential)[^=&\s\"']*=)[^&\s\"']*",
    re.IGNORECASE,
)


def without_credentials(text: str) -> str:
    """Remove user names, passwords and secret query values from every URI in a text."""
    return SECRET_QUERY.sub(r"\1…", USER_INFO.sub(r"\1", text))


def clean_tags(tags: Mapping[str, object]) -> dict[str, str]:
    """Tags as MLflow accepts them; those with a value of None are left out."""
    kept = {key: value for key, value in tags.items() if value is not None}
    return {
        key[:MAX_KEY_LENGTH]: without_credentials(str(value))[:MAX_TAG_LENGTH] for key, value in kept.items()
    }


def flatten(config: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Flatten nested settings to `outer.inner` → text, free of credentials and cut to MLflow's length limits."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"[:MAX_KEY_LENGTH]
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{name}.")
        elif isinstance(value, (list, tuple)):
            flat[name] = without_credentials(", ".join(map(str, value)))[:MAX_PARAM_LENGTH]
        else:
            flat[name] = without_credentials(str(value))[:MAX_PARAM_LENGTH]
    return flat


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
        **_git(),
        "bonafide.versions": ", ".join([*versions, f"python {platform.python_version()}"]),
        "bonafide.host": f"{platform.node()}, {platform.platform()}",
    }


def _user() -> dict[str, str]:
    try:
        return {"mlflow.user": getpass.getuser()}
    except (KeyError, OSError):  # a user of a container may have no name
        return {}


def _git() -> dict[str, str]:
    git = shutil.which("git")
    root = Path(__file__).parents[2]
    if git is None or not (root / ".git").exists():
        return {}

    def output_of(*arguments: str) -> str:
        process = subprocess.run(  # noqa: S603
            [git, "-C", str(root), *arguments], capture_output=True, text=True, check=False, timeout=10
        )
        return process.stdout.strip()

    try:
        is_dirty = bool(output_of("status", "--porcelain", "--untracked-files=no"))
        commit = output_of("rev-parse", "HEAD")
    except (OSError, subprocess.SubprocessError):  # git takes too long on a busy machine or a slow disk
        return {}
    return {"mlflow.source.git.commit": commit, "bonafide.git.dirty": str(is_dirty).lower()}
