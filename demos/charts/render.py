"""Renders the chart with each of its ci/*-values.yaml by each helm, holds what comes of it against Kubernetes' schemas, and says as JSON, a
line for each, what the agent is told: its arguments, its variables and its files.

    render.py HELM...
"""

import json
import pathlib
import re
import subprocess
import sys

import kubernetes_validate
import yaml
from kubernetes_validate.utils import all_versions

CHART = pathlib.Path(__file__).resolve().parents[2] / "charts/honeybeepf"

# Kinds of an operator's own, which Kubernetes' schemas have not.
FOREIGN = "monitoring.coreos.com/"


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}:\n{done.stdout}{done.stderr}")
    return done.stdout


def versions():
    """The oldest and the newest Kubernetes whose schemas there are, of those that the chart is for."""
    minor = lambda version: tuple(int(part) for part in version.split("."))
    known = sorted({".".join(version.split(".")[:2]) for version in all_versions()}, key=minor)
    wanted = re.search(r">=\s*(\d+\.\d+)", yaml.safe_load((CHART / "Chart.yaml").read_text())["kubeVersion"])[1]
    fitting = [version for version in known if minor(version) >= minor(wanted)]
    return [fitting[0], fitting[-1]]


def told(documents, values):
    daemon = next(document for document in documents if document["kind"] == "DaemonSet")
    container = daemon["spec"]["template"]["spec"]["containers"][0]
    files = next(document["data"] for document in documents if document["kind"] == "ConfigMap" and "config.toml" in document["data"])
    # What the node and the secret would say.
    from_elsewhere = lambda of: "node-1" if "fieldRef" in of["valueFrom"] else "x-team=CANARYHEADER"
    variables = {of["name"]: of["value"] if "value" in of else from_elsewhere(of) for of in container["env"]}
    for name in variables:
        variables[name] = re.sub(r"\$\((\w+)\)", lambda of: variables[of[1]], variables[name])
    return {"values": values, "arguments": container["args"], "variables": variables, "files": files}


def main(helms):
    for values in sorted((CHART / "ci").glob("*-values.yaml")):
        for helm in helms:
            run(helm, "lint", "--strict", str(CHART), "--values", str(values))
            for version in versions():
                text = run(helm, "template", "x", str(CHART), "--values", str(values), "--kube-version", version)
                documents = [document for document in yaml.safe_load_all(text) if document]
                for document in documents:
                    if not document["apiVersion"].startswith(FOREIGN):
                        kubernetes_validate.validate(document, version, strict=True)
                line = told(documents, values.name) | {"helm": run(helm, "version", "--short").strip(), "kubernetes": version}
                print(json.dumps(line), flush=True)


main(sys.argv[1:])
