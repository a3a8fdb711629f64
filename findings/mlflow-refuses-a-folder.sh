#!/usr/bin/env bash
# mlflow-skinny 3.17.2: a folder as tracking URI, long the default, is refused when a run is started.
#
# Guess from memory: `mlflow.set_tracking_uri("file:./mlruns")` keeps runs as plain files, without a server or database,
# which is why offline tools use it.
# Seen: setting it is accepted; the first use raises an MlflowException that calls the file store to be in maintenance
# mode and asks for a database such as sqlite:///mlflow.db, unless MLFLOW_ALLOW_FILE_STORE=true. Output:
#     set_tracking_uri accepts the folder
#     start_run: MlflowException
#     with MLFLOW_ALLOW_FILE_STORE=true: a run is made
# Source: mlflow/store/tracking/file_store.py and mlflow/environment_variables.py of the release.
# Exits 1 if that changes. Installs about 100 MB into a temporary folder.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check mlflow-skinny==3.17.2

cat > "$folder/try.py" <<'PY'
import sys

import mlflow

mlflow.set_tracking_uri(f"file:{sys.argv[1]}")
print("set_tracking_uri accepts the folder")
try:
    mlflow.start_run()
except mlflow.exceptions.MlflowException as error:
    print(f"start_run: {type(error).__name__}")
    print(str(error)[:400], file=sys.stderr)
    sys.exit(3)
print("a run is made")
PY
seen=0
"$folder/venv/bin/python" -W ignore "$folder/try.py" "$folder/runs" || seen=$?
[ "$seen" = 3 ] || { echo "changed: exit code $seen, not 3"; exit 1; }
echo -n "with MLFLOW_ALLOW_FILE_STORE=true: "
MLFLOW_ALLOW_FILE_STORE=true "$folder/venv/bin/python" -W ignore "$folder/try.py" "$folder/runs" | tail -n 1 | grep . ||
    { echo "changed: refused nevertheless"; exit 1; }
