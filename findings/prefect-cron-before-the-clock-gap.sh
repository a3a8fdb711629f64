#!/usr/bin/env bash
# Prefect 3.8.8 moves a nightly run that falls into the hour that clocks skip to before that hour; 3.9.1 moves it to after it.
#
# Guess from memory: a cron time that does not exist on one day is moved forward, past the gap, as cron and most schedulers do.
# Seen: `30 2 * * *` in Europe/Berlin on 2027-03-28, when 02:00 is followed by 03:00, runs at 01:30 winter time with 3.8.8, and at
# 03:30 summer time with 3.9.1. A job that waits for what another one writes at 02:00 finds nothing there on that night with 3.8.8.
# `30 1 * * *` and `30 2 * * *` then start at the same moment.
# Source: `CronSchedule.get_dates` in prefect/server/schemas/schedules.py of both releases, which the server calls to create runs.
# Exits 1 if that changes. Installs about 300 MB into a temporary folder.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/show.py" <<'PY'
import asyncio
from datetime import datetime
from zoneinfo import ZoneInfo

from prefect.server.schemas.schedules import CronSchedule

berlin = ZoneInfo("Europe/Berlin")
for cron in ("30 1 * * *", "30 2 * * *"):
    schedule = CronSchedule(cron=cron, timezone="Europe/Berlin")
    dates = asyncio.run(schedule.get_dates(2, datetime(2027, 3, 27, 12, tzinfo=berlin)))
    print(cron, *(date.astimezone(berlin).strftime("%d-%H:%M-%Z") for date in dates))
PY
show() {
    python3 -m venv "$folder/$1"
    "$folder/$1/bin/python" -m pip install --quiet --disable-pip-version-check "prefect==$1" 'fastapi<0.151' 'sqlalchemy<2.1'
    echo "$1"
    PREFECT_HOME="$folder/home-$1" "$folder/$1/bin/python" -W ignore "$folder/show.py"
}
{ show 3.8.8; show 3.9.1; } >"$folder/seen"
cat >"$folder/expected" <<'TEXT'
3.8.8
30 1 * * * 28-01:30-CET 29-01:30-CEST
30 2 * * * 28-01:30-CET 29-02:30-CEST
3.9.1
30 1 * * * 28-01:30-CET 29-01:30-CEST
30 2 * * * 28-03:30-CEST 29-02:30-CEST
TEXT
cat "$folder/seen"
diff "$folder/expected" "$folder/seen" || { echo "changed: the night of the clock change is handled in another way" >&2; exit 1; }
