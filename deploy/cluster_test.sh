#!/usr/bin/env bash
# Proves the image on a cluster of containers, from nothing, with podman alone: builds it; runs a job in it as another
# user, without a network; starts a head and two workers with addresses of their own and a token; submits the job, kills a
# worker in mid-epoch and takes it away later as Kubernetes does; compares the weights of the two runs.
#
#   deploy/cluster_test.sh           IMAGE=NAME tests an image that is there; KEEP=1 keeps the one that was built
#
# Exit code 77: skipped, since something is missing. Only what was started here is stopped.
set -euo pipefail
cd "$(dirname "$0")/.."
readonly PYTHON_IMAGE=python:3.11-slim-bookworm STAND_IN=localhost/distaug-python-stand-in
# CUDA is in the image, and while it is built several times.
readonly NEEDED_GB=35
readonly TAG="distaug-test-$$" EPOCHS=30
work=$(mktemp -d)
image=${IMAGE:-}

say() { printf '== %s\n' "$*"; }
skip() { say "SKIPPED: $*"; exit 77; }
fail() { say "FAILED: $*"; exit 1; }
# Without systemd podman complains of every image with a health check.
quiet() { podman --log-level fatal "$@"; }
seconds() { echo $((SECONDS - since)); }

clean() { # EXIT_CODE
    local name
    for name in head worker-1 worker-2; do
        if [ "$1" != 0 ] && podman container exists "$TAG-$name"; then
            podman logs --tail 5 "$TAG-$name" 2>&1 | sed "s/^/   $name: /"
        fi
        podman rm --force --time 1 "$TAG-$name" >"$work/errors"
    done 2>"$work/errors" || true
    podman network rm --force "$TAG" >"$work/errors" 2>&1 || true
    podman volume rm --force "$TAG" >"$work/errors" 2>&1 || true
    [ -n "${IMAGE:-}${KEEP:-}" ] || podman rmi --force "$TAG" >"$work/errors" 2>&1 || true
    rm -rf "$work"
}
trap 'clean $?' EXIT

tools() {
    local missing=() tool
    for tool in buildah podman; do command -v "$tool" >/dev/null || missing+=("$tool"); done
    [ ${#missing[@]} = 0 ] && return
    { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; } \
        || skip "${missing[*]} not installed, and only root on Debian or Ubuntu can have it installed from here"
    { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
        buildah podman runc debootstrap netavark aardvark-dns iptables iproute2; } >"$work/apt" 2>&1 \
        || { tail -5 "$work/apt"; skip "${missing[*]} not installed, and apt-get cannot install it"; }
}

# What podman's defaults get wrong inside a container or a small virtual machine.
settings() {
    local files
    files=$(ulimit -Hn)
    { [ "$files" = unlimited ] || [ "$files" -gt 65536 ]; } && files=65536
    cat >"$work/containers.conf" <<EOF
[containers]
default_ulimits = ["nofile=$files:$files", "nproc=32768:32768"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
$(command -v runc >/dev/null && echo 'runtime = "runc"')
$(test -x /usr/lib/podman/netavark && printf '[network]\nnetwork_backend = "netavark"\n')
EOF
    export CONTAINERS_CONF="$work/containers.conf"
}

# Sets `base`: the image that the Dockerfile names, or one like it where no registry of images can be reached.
base_image() {
    base=$PYTHON_IMAGE
    podman image exists "docker.io/library/$base" || timeout 120 podman pull -q "docker.io/library/$base" >"$work/pull" 2>&1 \
        && return
    base=$STAND_IN
    podman image exists "$base" && return
    command -v debootstrap >/dev/null || skip "$PYTHON_IMAGE cannot be pulled, and debootstrap is not installed"
    say "$PYTHON_IMAGE cannot be pulled; making a stand-in of Debian 12 with its Python 3.11"
    debootstrap --variant=minbase --include=python3,python3-pip,python3-venv,ca-certificates bookworm "$work/root" \
        >"$work/debootstrap" 2>&1 || { tail -5 "$work/debootstrap"; skip "debootstrap failed"; }
    rm -f "$work"/root/usr/lib/python3.11/EXTERNALLY-MANAGED
    ln -s /usr/bin/python3 "$work/root/usr/local/bin/python"
    ln -s /usr/bin/python3 "$work/root/usr/local/bin/python3"
    ln -s /usr/bin/pip3 "$work/root/usr/local/bin/pip"
    tar -C "$work/root" -c . | podman import -q - "$base" >/dev/null
    rm -rf "$work/root"
}

# Prints the arguments that let the build, not the image, use this machine's pip settings and certificate.
pip_settings() {
    mkdir "$work/pip"
    { echo '[global]'; python3 -m pip config list 2>/dev/null \
        | sed -En "s/^(global|:env:)\.(index-url|extra-index-url|find-links|trusted-host)='(.*)'\$/\2 = \3/p" | sort -u; } \
        >"$work/pip/pip.conf"
    local certificate folder
    certificate=$(python3 -m pip config list 2>/dev/null | sed -En "s/^(global|:env:)\.cert='(.*)'\$/\2/p" | head -1)
    if [ -f "$certificate" ]; then
        cp "$certificate" "$work/pip/certificate.pem"
        echo 'cert = /run/pip/certificate.pem' >>"$work/pip/pip.conf"
    fi
    echo --volume "$work/pip:/run/pip:ro" --volume "$work/pip/pip.conf:/etc/pip.conf:ro"
    # Indexes and wheels that are folders of this machine; an index refers to files beside its own folder.
    while read -r folder; do
        folder=${folder#file://}
        [ "${folder##*/}" = simple ] && folder=${folder%/*}
        if [ -d "$folder" ]; then echo --volume "$folder:$folder:ro"; fi
    done < <(sed -n 's/^[a-z-]* = //p' "$work/pip/pip.conf" | tr ' ' '\n' | sort -u)
}

# Some machines, being containers themselves, may run none.
able() {
    { podman network create --internal "$TAG" && quiet run --rm --network "$TAG" "$base" true; } >"$work/able" 2>&1 \
        || skip "podman cannot run a container on a network of its own here: $(tail -1 "$work/able")"
    podman network rm "$TAG" >/dev/null
}

build() {
    since=$SECONDS
    base_image
    say "base image $base ($(seconds) s)"
    able
    free=$(df --output=avail -BG "$(podman info --format '{{.Store.GraphRoot}}')" | tail -1 | tr -dc 0-9)
    [ "$free" -ge $NEEDED_GB ] || skip "$free GB are free for images, and building one takes $NEEDED_GB"
    since=$SECONDS
    local arguments free
    read -ra arguments <<<"$(pip_settings | tr '\n' ' ')"
    nice buildah bud --isolation chroot --format docker --network host --pull-never "${arguments[@]}" \
        --build-arg PYTHON_IMAGE="$base" --tag "$TAG" . >"$work/build" 2>&1 || { tail -25 "$work/build"; fail "the build"; }
    image=$TAG
    say "built: $(podman image inspect "$image" --format '{{.Size}}' | awk '{printf "%.1f GB", $1 / 1e9}') ($(seconds) s)"
}

job() { # WORKERS
    cat >"$work/job.yaml" <<EOF
name: alone
runs_dir: /runs
data: {source: digits, test_fraction: 0.2}
augment: {ops: [{crop: {padding: 3}}]}
model: {name: smallnet, options: {widths: [32, 64]}}
train: {epochs: $EPOCHS, global_batch: 64, shards: 2}
stop: {patience_epochs: null}
cluster: {workers: $1, gpus_per_worker: 0, cpus_per_worker: 1}
EOF
}

# Nothing in an image is written to but the two scratch folders, as in deploy/compose.yaml and deploy/kuberay.
readonly SAFE=(--pull=never --read-only --tmpfs /tmp:mode=1777 --tmpfs /home/distaug:mode=1777 --cap-drop all
    --security-opt no-new-privileges --shm-size 512m)

alone() {
    since=$SECONDS
    [ "$(podman image inspect "$image" --format '{{.User}}')" = 1000:1000 ] || fail "the image's user is not 1000:1000"
    # KubeRay starts Ray in a login shell, which sets PATH anew.
    quiet run --rm "${SAFE[@]}" --network none --entrypoint /bin/bash "$image" -lc 'ray --version && distaug --version'
    podman volume create "$TAG" >/dev/null
    job 1
    quiet run --rm "${SAFE[@]}" --network none --user 12345:54321 --volume "$TAG:/runs" \
        --volume "$work/job.yaml:/job.yaml:ro" "$image" distaug run /job.yaml >"$work/alone" 2>&1 \
        || { tail -20 "$work/alone"; fail "a run in one container"; }
    say "a run in one container, as a user it does not know, without network ($(seconds) s)"
}

node() { # NAME ARGUMENT...
    local name=$1
    shift
    quiet run --detach "${SAFE[@]}" --name "$TAG-$name" --hostname "$name" --network "$TAG" --network-alias "$name" \
        --volume "$TAG:/runs" --memory 4g --env RAY_AUTH_MODE=token --env RAY_AUTH_TOKEN \
        --env RAY_health_check_period_ms=1000 --env RAY_health_check_failure_threshold=3 \
        "$image" ray start --block --object-store-memory=150000000 "$@" >"$work/node" 2>&1 || { cat "$work/node"; fail "$name"; }
}

# A client of its own, as on a user's machine: it has the job file and, where asked, the token.
client() { # ARGUMENT...
    quiet run --rm "${SAFE[@]}" --network "$TAG" --volume "$work/job.yaml:/home/distaug/job/job.yaml:ro" \
        --workdir /home/distaug/job --env RAY_AUTH_MODE=token ${RAY_AUTH_TOKEN:+--env RAY_AUTH_TOKEN} "$image" "$@"
}

on_head() { podman exec --interactive "$TAG-head" "$@"; }

await() { # SECONDS WHAT COMMAND...: waits until the command succeeds
    local limit=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $limit ] || fail "$what did not happen in time"
        sleep 0.5
    done
}

nodes() { [ "$(on_head ray status 2>/dev/null | sed '/^Pending/,$d' | grep -c '^ *1 node_')" = "$1" ]; }
epoch() { on_head sh -c 'cat /runs/disturbed/history.jsonl 2>/dev/null | wc -l'; } # how many are done
epochs() { [ "$(epoch)" -ge "$1" ]; }
told() { on_head python -c "import json; print(json.load(open('/runs/$1/result.json'))['$2'])"; } # RUN KEY

cluster() {
    since=$SECONDS
    RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
    export RAY_AUTH_TOKEN
    podman network create --internal "$TAG" >/dev/null
    node head --head --dashboard-host=0.0.0.0 --num-cpus=0
    await 180 "the start of the head" nodes 1
    node worker-1 --address=head:6379 --num-cpus=1
    node worker-2 --address=head:6379 --num-cpus=1
    await 180 "the start of the workers" nodes 3
    await 180 "the health of the head" podman healthcheck run "$TAG-head"
    say "a head and two workers, each with its own address and healthy ($(seconds) s)"
}

tokens() {
    local code=0
    since=$SECONDS
    job 2
    RAY_AUTH_TOKEN='' client distaug submit job.yaml --address http://head:8265 >"$work/refused" 2>&1 || code=$?
    [ $code = 5 ] || { cat "$work/refused"; fail "a client without the token left with exit code $code"; }
    say "a client without the token is refused: $(tail -1 "$work/refused") ($(seconds) s)"
}

# Whoever runs containers starts one again that gave up; Ray does where a busy machine takes it more than 30 s to start.
returned() { quiet start "$TAG-worker-2" && nodes 3; }

# Submits the job, and disturbs it twice in mid-epoch.
disturbed() {
    local client disturb
    since=$SECONDS
    client distaug submit job.yaml --address http://head:8265 --name disturbed --follow >"$work/disturbed" 2>&1 &
    client=$!
    for disturb in kill_worker take_worker_away; do
        await 300 "training on two nodes" epochs $(($(epoch) + 4))
        $disturb
        await 180 "the return of the node" returned
        say "worker-2 is back ($(seconds) s)"
    done
    wait $client || { tail -20 "$work/disturbed"; fail "the disturbed run"; }
    [ "$(told disturbed world_size)" = 2 ] || fail "$(told disturbed world_size) workers trained, not 2"
    [ "$(told disturbed restarts)" -ge 2 ] || fail "the run was over before it was disturbed"
    [ "$(told disturbed weights_digest)" = "$(told alone weights_digest)" ] \
        || fail "other weights: $(told disturbed weights_digest), not $(told alone weights_digest)"
    say "the run ended with the weights of the one in one container: $(told disturbed weights_digest) ($(seconds) s)"
}

kill_worker() {
    podman kill "$TAG-worker-2" >/dev/null
    await 180 "the loss of a node" nodes 2
    say "worker-2 killed after $(epoch) of $EPOCHS epochs ($(seconds) s)"
}

# What the kubelet does: the preStop hook of the manifest, then SIGTERM.
take_worker_away() {
    local hook
    hook=$(on_head python -c 'import sys, yaml
(group,) = yaml.safe_load(sys.stdin)["spec"]["workerGroupSpecs"]
print(group["template"]["spec"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1])' \
        <deploy/kuberay/cluster/raycluster.yaml)
    podman exec "$TAG-worker-2" /bin/bash -lc "$hook" >"$work/hook" 2>&1 || { cat "$work/hook"; fail "the preStop hook"; }
    podman stop --time 30 "$TAG-worker-2" >/dev/null 2>&1
    grep -q 'is being taken away' "$work/disturbed" || { tail -20 "$work/disturbed"; fail "the ranks were not told"; }
    say "worker-2 taken away, its ranks told before ($(seconds) s)"
}

tools
settings
if [ -z "$image" ]; then build; fi
alone
cluster
tokens
disturbed
say "all of it in $SECONDS s"
