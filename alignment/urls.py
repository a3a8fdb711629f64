"""URLs as they may be shown: without user, query and fragment, each of which may be a credential.

No list of suspicious words: a token may be a user name, Azure's is `sig`, others are `key`, `auth`
or `code`, and any name may be percent-encoded. And not parsed as a browser does: for it, a slash
in a password ends the host, which leaves the rest of the password in the path. So all that comes
before the last `@` counts as the user, unless the URL is of a storage that knows no users.
"""

import hashlib
import re
from collections.abc import Iterator

_SCHEME = r"[a-z][a-z0-9+.-]{0,30}://"
_KNOWN = "https?|ftps?|sftp|ssh|s3a?|gc?s|az|adl|abfss?|oss|hf"
"""Schemes that are recognised with one slash too, as `Path` writes a URL."""
_URL = re.compile(rf"((?:{_KNOWN}):[/\\]{{1,2}}|{_SCHEME})(\S*)", re.IGNORECASE)
_BEGINS = re.compile(r"\s*[a-z][a-z0-9+.-]+:[/\\]", re.IGNORECASE)
_CHAINED = re.compile(f"::(?={_SCHEME})", re.IGNORECASE)
"""Between the links of a chain such as `zip://a.jsonl::https://host/a.zip`."""
_WITHOUT_USERS = re.compile(
    r"(?:(?:s3a?|gc?s|az|adl|oci|oss|tos)://[a-z0-9._-]*|(?:hf|memory|file|local|zip|tar)://[\w.-]*)"
    rf"(?=::(?:[a-z]+::)*{_SCHEME}|[/?#]|$)"
)
"""Up to the bucket or first folder in storages whose URLs have no user; paths may have an `@`."""
_USER = re.compile(r".*@|[^/]*%40", re.IGNORECASE)
_CUT_PASSWORD = re.compile(r"[^/\[]*:(?!\d*(?:[/?#]|$))")
"""A colon that is not before a port: of a password that a space has cut off from its host."""
_QUERY = re.compile(r"[?#]|%3f", re.IGNORECASE)
_WILDCARD = re.compile(
    r"\?[\w./*?\[\]{},-]*(?:\*|\.(?:jsonl|ndjson|json|csv|tsv|xlsx|parquet)(?:\.gz|\.zst)?)(?::\d+)?"
)
"""A question mark in a pattern of files, which is one elsewhere than on the web."""
_HIDDEN = "..."
_ENDS = "'\"`)]}>,.;:"
"""What may follow a URL in a sentence."""
_DIGEST = re.compile(r"\?sha256=[0-9a-f]{16}")
_VARIABLE = r"\?\$\{[A-Za-z_][A-Za-z0-9_]*\}"
_FROM_ENVIRONMENT = re.compile(f"{_VARIABLE}$")
_IN_URL = re.compile(rf"(?<=\w){_VARIABLE}")


def bare_urls(text: str) -> str:
    """The text, each of its URLs without user, query and fragment."""
    return _URL.sub(_bare, _IN_URL.sub("", text))


def is_url(path: str) -> bool:
    """Whether a path is meant as a URL: it begins with a scheme, which a drive letter is not."""
    return _BEGINS.match(path) is not None


def holds_more(path: str) -> bool:
    """Whether a path or URL has a user, a query or a fragment; `?${NAME}` at its end is none."""
    plain = _FROM_ENVIRONMENT.sub("", path)
    if _URL.match(plain.lstrip()):  # a space ends a URL in a sentence, but not the value of a field
        plain = re.sub(r"\s", "_", plain.strip())
    return bare_urls(plain) != plain


def without_query(path: str) -> str:
    """A path or URL without the query at its end, which may be `?${NAME}`."""
    plain = _FROM_ENVIRONMENT.sub("", path)
    bare, query = plain.partition("?")[::2]
    is_query = plain == path and query and "#" not in query and bare_urls(plain) == bare
    return bare if is_query else plain


def storable(path: str) -> str:
    """A path or URL as it is stored: the digest of a query in its place, `?sha256=...`.

    `?${NAME}` stays, and so does a digest.
    """
    bare = without_query(path)
    query = path[len(bare) :]
    if not query or _FROM_ENVIRONMENT.fullmatch(query) or is_digest(query):
        return path
    return f"{bare}?sha256={hashlib.sha256(path.encode()).hexdigest()[:16]}"


def is_digest(query: str) -> bool:
    """Whether a query, with its question mark, is the digest of another one."""
    return _DIGEST.fullmatch(query) is not None


def _bare(found: re.Match[str]) -> str:
    url = found[0].rstrip(_ENDS)
    return "::".join(map(_bare_link, _links(url))) + found[0][len(url) :]


def _links(url: str) -> Iterator[str]:
    """The links of a chain; one that may have a user is the last: `::` may be in its password."""
    start = 0
    for chained in _CHAINED.finditer(url):
        if not _WITHOUT_USERS.match(url, start):
            break
        yield url[start : chained.start()]
        start = chained.end()
    yield url[start:]


def _bare_link(url: str) -> str:
    found = _URL.match(url)
    if found is None:  # nothing but its scheme is there
        return url
    scheme, rest = found.groups()
    if not _WITHOUT_USERS.match(url):
        rest = _without_user(rest)
    query = _QUERY.search(rest)
    is_pattern = query and _WILDCARD.fullmatch(rest, query.start())
    if query is None or (is_pattern and not scheme.lower().startswith("http")):
        return scheme + rest
    return scheme + rest[: query.start()]


def _without_user(rest: str) -> str:
    user = _USER.match(rest)
    after = rest[user.end() :] if user else rest
    # a question mark before the `@` may be the user's, or begin a query that goes on after it
    is_unclear = (user and _QUERY.search(user[0])) or _CUT_PASSWORD.match(after)
    return _HIDDEN if is_unclear else after
