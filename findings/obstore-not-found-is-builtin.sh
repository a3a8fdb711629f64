#!/usr/bin/env bash
# obstore has NotFoundError in obstore.exceptions, and raises FileNotFoundError for a missing object, which is no subclass.
#
# Guess from memory: `except obstore.exceptions.NotFoundError` catches a missing object, or the base class BaseError does.
# Seen: get raises Python's FileNotFoundError. Neither NotFoundError nor BaseError catches it.
# And the result of put, {"e_tag": ..., "version": None}, is refused as `mode` of the next put, though that is what a
# compare-and-swap takes: TypeError, because version may be absent and not None.
# Source: obstore 0.12.1.
# Exits 1 if that changes. Downloads a few MB into a temporary folder.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check obstore==0.12.1

"$folder/venv/bin/python" - <<'PY'
import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import MemoryStore

store = MemoryStore()
try:
    obstore.get(store, "missing")
except Exception as error:
    caught = [kind.__name__ for kind in (NotFoundError, BaseError, FileNotFoundError) if isinstance(error, kind)]
    print("get of a missing object:", type(error).__name__, "| caught as:", caught)
result = obstore.put(store, "a", b"1")
print("put:", result)
try:
    obstore.put(store, "a", b"2", mode=result)
    refused = ""
except TypeError as error:
    refused = str(error)
print("put with that as mode:", refused or "done")
assert caught == ["FileNotFoundError"], "changed"
assert refused, "changed"
PY
