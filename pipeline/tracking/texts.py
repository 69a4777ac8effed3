"""Texts for MLflow: cut to its length limits, and free of credentials."""

from __future__ import annotations

import re
from collections.abc import Mapping

# MLflow rejects longer texts.
MAX_KEY_LENGTH = 250
MAX_PARAM_LENGTH = 6000
MAX_TAG_LENGTH = 8000
MAX_DIGEST_LENGTH = 36

# A password may contain an @, and that of a database a / as well.
USER_INFO = re.compile(
    r"((?:postgresql|mysql|mssql)[a-z0-9+_]*://)[^\s\"']*@|([a-z][a-z0-9+.-]*://)[^/\s\"']*@", re.IGNORECASE
)
SECRET_QUERY = re.compile(
    r"([?&][^=&\s\"']*(?:token|key|secret|passw|pwd|signature|credential|odbc_connect)[^=&\s\"']*=)[^&\s\"']*",
    re.IGNORECASE,
)


def without_credentials(text: str) -> str:
    """Remove user names, passwords and secret query values from every URI in a text."""
    return SECRET_QUERY.sub(r"\1…", USER_INFO.sub(r"\1\2", text))


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
