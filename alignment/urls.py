"""URLs as they may be shown: without user, query and fragment, each of which may be a credential.

No list of suspicious words: a token may be a user name, Azure's is `sig`, others are `key`, `auth`
or `code`, and any name may be percent-encoded.
"""

import hashlib
import re

_URL = re.compile(r"([a-z][a-z0-9+.-]*)://(\S*)", re.IGNORECASE)
_CHAINED = re.compile(r"::(?=[a-zA-Z][a-zA-Z0-9+.-]*://)")
"""Between the links of a chain such as `zip://a.jsonl::https://host/a.zip`."""
_PASSWORD = re.compile(r":(?!\d*$)")
_ENDS = "'\"`)]}>,.;:"
"""What may follow a URL in a sentence."""
_DIGEST = re.compile(r"\?sha256=[0-9a-f]{16}")
_FROM_ENVIRONMENT = re.compile(r"\?\$\{[A-Za-z_][A-Za-z0-9_]*\}$")


def bare_urls(text: str) -> str:
    """The text, each of its URLs without user, query and fragment."""
    return _URL.sub(_bare, text)


def holds_more(path: str) -> bool:
    """Whether a path or URL has a user, a query or a fragment; `?${NAME}` at its end is none."""
    plain = _FROM_ENVIRONMENT.sub("", path)
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
    scheme, whole = found.groups()
    rest = whole.rstrip(_ENDS)
    shown, *chained = _CHAINED.split(rest, maxsplit=1)
    shown = _without_user(shown).partition("#")[0]
    question = shown.find("?")
    # elsewhere than on the web, a question mark without an equals sign is a wildcard
    if question >= 0 and (scheme.lower() in ("http", "https") or "=" in shown[question:]):
        shown = shown[:question]
    return "::".join([f"{scheme}://{shown}", *map(bare_urls, chained)]) + whole[len(rest) :]


def _without_user(rest: str) -> str:
    host, slash, path = rest.partition("/")
    if "@" not in host and _PASSWORD.search(host):  # one with a slash in it, not a port
        return rest.rpartition("@")[2]
    return host.rpartition("@")[2] + slash + path
