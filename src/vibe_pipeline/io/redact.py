"""Keeping passwords out of parameters, tags, logs and messages."""

import os
import re
from urllib.parse import unquote, urlsplit, urlunsplit

_USERINFO = re.compile(r"(\w+://)[^/\s'\"]+@")
_QUERY = re.compile(r"([?&][^=&\s]*(?:password|passwd|token|secret|key)[^=&\s]*=)[^&\s'\"]+", re.IGNORECASE)
_HUB = re.compile(r"\bhf_[A-Za-z0-9]{16,}")


def redact(text: str) -> str:
    """The text with user names, passwords and tokens in any address, and hub tokens anywhere, replaced by `***`."""
    return _HUB.sub("***", _QUERY.sub(r"\1***", _USERINFO.sub(r"\1***@", text)))


def take_credentials(uri: str) -> str:
    """Move user and password of an http address into the variables that MLflow reads them from.

    Returns:
        The address without them. Addresses of databases stay as they are: their drivers want them whole.
    """
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or "@" not in parts.netloc:
        return uri
    userinfo, host = parts.netloc.rsplit("@", 1)
    user, _, password = userinfo.partition(":")
    os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(user), unquote(password)
    return urlunsplit(parts._replace(netloc=host))
