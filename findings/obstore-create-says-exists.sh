#!/usr/bin/env bash
# obstore's put with mode="create" raises AlreadyExistsError for an object that does not exist, and for the caller's own.
#
# Guess from memory: AlreadyExistsError means that another writer was first, so the caller has lost.
# Seen, on a server that speaks S3:
#     409 Conflict, which S3 gives to one of two concurrent conditional writes and documents as "retry": AlreadyExistsError
#     at once, without a retry, while nothing exists. A plain put gets the same error.
#     the write is carried out and the answer is a 500: the library repeats the request, meets the object that it has just
#     made, and raises AlreadyExistsError.
# Either way only reading the object back, with content that no other writer has, says who won.
# Source: obstore 0.12.1 (object_store maps 409 and 412 to AlreadyExists).
# Exits 1 if that changes. Downloads a few MB into a temporary folder.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check obstore==0.12.1

"$folder/venv/bin/python" - <<'PY'
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import obstore
from obstore.store import S3Store

objects = {}
faults = {"/bucket/conflict": [409], "/bucket/plain": [409], "/bucket/lost": [500]}


class Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_PUT(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        fault = faults.get(self.path, []) and faults[self.path].pop()
        exists = self.path in objects
        if fault != 409 and not (exists and self.headers["If-None-Match"] == "*"):
            objects[self.path] = body
        self.send_response(fault or (412 if exists else 200))
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
store = S3Store(
    "bucket",
    endpoint=f"http://127.0.0.1:{server.server_address[1]}",
    access_key_id="a",
    secret_access_key="b",
    region="us-east-1",
    client_options={"allow_http": True},
)


def outcome(name, **options):
    try:
        obstore.put(store, name, b"mine", **options)
    except obstore.exceptions.AlreadyExistsError:
        return "AlreadyExistsError"
    return "done"


seen = [outcome("conflict", mode="create"), outcome("plain"), outcome("lost", mode="create")]
print("409 on a create:", seen[0], "| there:", objects.get("/bucket/conflict"))
print("409 on a plain put:", seen[1], "| there:", objects.get("/bucket/plain"))
print("500 after the write:", seen[2], "| there:", objects.get("/bucket/lost"))
assert seen == ["AlreadyExistsError"] * 3, "changed"
assert objects == {"/bucket/lost": b"mine"}, "changed"
PY
