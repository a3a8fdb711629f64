#!/usr/bin/env bash
# Prefect's own job manifest for Kubernetes is not valid under the strict schema, and its own check insists on it.
#
# Guess from memory: the default manifest of prefect-kubernetes passes the published schema of a Job; a cluster that refuses
# unknown fields (`fieldValidation=Strict`, policy engines) takes it.
# Seen: `parallelism` and `completions` stand in the pod's spec, where no such fields exist. The lenient check passes, the strict
# one names both. Leaving them out raises in the worker's own model ("missing required attributes"). But that model compares by
# JSON patch, and where both stand where they belong, in the job's spec, the patch is a "move" and not an "add": a template
# with them there satisfies both.
#     as shipped:     lenient ok, strict refused, worker ok
#     without both:   strict ok, worker refuses
#     in job's spec:  strict ok, worker ok
# Source: prefect_kubernetes/worker.py (`_get_base_job_manifest`, `_validate_job_manifest`) of prefect-kubernetes 0.8.0 with
# prefect 3.8.8; schemas: kubernetes-validate 1.37.0.
# Exits 1 if that changes. Installs about 300 MB into a temporary folder.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    prefect==3.8.8 prefect-kubernetes==0.8.0 kubernetes-validate==1.37.0 'fastapi<0.151' 'sqlalchemy<2.1'

PREFECT_HOME="$folder/home" "$folder/venv/bin/python" -W ignore - <<'PY'
import copy

import kubernetes_validate
from prefect_kubernetes.worker import KubernetesWorker, KubernetesWorkerJobConfiguration

MISPLACED = ("parallelism", "completions")
template = KubernetesWorker.get_default_base_job_template()["job_configuration"]["job_manifest"]
shipped = copy.deepcopy(template)
shipped["metadata"] = {"generateName": "run-"}
shipped["spec"] |= {"backoffLimit": 0, "ttlSecondsAfterFinished": 60}
pod = shipped["spec"]["template"]["spec"]
pod["serviceAccountName"] = "default"
pod["containers"] = [{"name": "prefect-job", "image": "app:1", "args": ["prefect", "version"]}]

without = copy.deepcopy(shipped)
for name in MISPLACED:
    del without["spec"]["template"]["spec"][name]
moved = copy.deepcopy(without)
moved["spec"] |= dict.fromkeys(MISPLACED, 1)


def valid(manifest, *, strict):
    try:
        kubernetes_validate.validate(manifest, "1.37", strict=strict)
    except kubernetes_validate.ValidationError as error:
        print("   ", error.message)
        return False
    return True


def accepted(manifest):
    try:
        KubernetesWorkerJobConfiguration(job_manifest=copy.deepcopy(manifest))
    except ValueError as error:
        print("   ", str(error).splitlines()[2].strip()[:120])
        return False
    return True


seen = {}
for name, manifest in (("as shipped", shipped), ("without both", without), ("in job's spec", moved)):
    seen[name] = (valid(manifest, strict=False), valid(manifest, strict=True), accepted(manifest))
    print(f"{name}: lenient {seen[name][0]}, strict {seen[name][1]}, worker {seen[name][2]}")
assert seen["as shipped"] == (True, False, True), "changed"
assert seen["without both"] == (True, True, False), "changed"
assert seen["in job's spec"] == (True, True, True), "changed"
PY
