# Every host of a slice runs this: a TPU machine as root at each boot, a pod as its only process.
# tpu/startup.py writes what is to run before it: launch, commit, bucket, folder, runs, arguments,
# told. What a host says of itself and its log are in the bucket, under the folder.

set -uo pipefail
export HOME="${HOME:-/root}"
home="${YARDSTICK_HOME:-/opt/yardstick}"
mkdir -p "$home" && cd "$home" || exit 1

metadata() { # PATH: what the cloud says of this machine
  curl --silent --fail --retry 5 --header 'Metadata-Flavor: Google' \
    "http://${GCE_METADATA_HOST:-metadata.google.internal}/computeMetadata/v1/instance/$1"
}

storage() { # PATH [OPTION...]: asks Cloud Storage, as the machine's service account
  local token
  token="$(metadata service-accounts/default/token)" || return
  token="${token#*\"access_token\"*:*\"}"
  curl --silent --show-error --fail --retry 5 --header "Authorization: Bearer ${token%%\"*}" \
    "${@:2}" "${STORAGE_EMULATOR_HOST:-https://storage.googleapis.com}$1"
}

download() { # OBJECT FILE
  storage "/storage/v1/b/$bucket/o/${1//\//%2F}?alt=media" --output "$2"
}

upload() { # FILE OBJECT
  storage "/upload/storage/v1/b/$bucket/o?uploadType=media&name=${2//\//%2F}" \
    --output /dev/null --header 'Content-Type: text/plain' --data-binary "@$1"
}

exists() { # FOLDER: whether anything is in it
  storage "/storage/v1/b/$bucket/o?maxResults=1&prefix=${1//\//%2F}%2F" |
    grep '"items"' >/dev/null
}

say() { # STATE [CODE]: what the launcher reads
  echo "yardstick: $1${2:+ with exit code $2}"
  printf '{"state": "%s", "code": %d, "launch": "%s", "time": "%s"}\n' \
    "$1" "${2:-0}" "$launch" "$(date -u +%FT%TZ)" >state.json
  upload state.json "$folder/hosts/$host.json"
}

finish() { # STATE CODE
  kill "$uploader" 2>/dev/null
  say "$1" "${2#0}"
  # The log is whole when `tee` has read the last of it. After signals bash's own `wait` can hang.
  exec >/dev/null 2>&1
  while kill -0 "$logger"; do sleep 1; done
  upload "$log" "$folder/logs/$log"
  exit "$2"
}

install() {
  [ -e "installed-$commit" ] && return
  download "$folder/source-$commit.bundle" source.bundle &&
    rm -rf source && git init --quiet source &&
    git -C source fetch --quiet ../source.bundle HEAD &&
    git -C source checkout --quiet "$commit" &&
    # The machine images bring Python 3.10; uv brings the one that the pins are tested with.
    PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet "uv==0.13.9" &&
    python3 -m uv venv --quiet --clear --python 3.11 source/.venv &&
    (cd source && python3 -m uv pip install --quiet --python .venv/bin/python \
      --constraint constraints.txt --editable '.[tpu,cloud]') &&
    touch "installed-$commit"
}

study() { # runs it to its end, and passes a request to stop on
  (cd source && exec .venv/bin/python "${arguments[@]}") &
  child=$!
  while true; do
    wait "$child"
    code=$?
    # A signal ends `wait` while the study still saves.
    kill -0 "$child" 2>/dev/null || break
  done
  child=''
  return "$code"
}

# A TPU machine that is shut down tells every process, and for a study the second time is final;
# of a pod, only the first process is told.
child=''
stopping=''
trap 'stopping=yes; [ "$told" = first ] && [ -n "$child" ] && kill -TERM "$child"' TERM

slice="${MEGASCALE_SLICE_ID:-$(metadata attributes/tpu-env | sed -n "s/^MEGASCALE_SLICE_ID: *'\(.*\)'/\1/p")}"
worker="${TPU_WORKER_ID:-$(metadata attributes/agent-worker-number)}"
host="${slice:-0}-${worker:-0}"
log="$host-$(date -u +%Y%m%dT%H%M%S).txt"
exec > >(trap '' TERM; exec tee -a "$log") 2>&1
logger=$!
(while sleep 60; do upload "$log" "$folder/logs/$log"; done) >/dev/null 2>&1 &
uploader=$!

say installing
tries=0
until install; do
  [ -n "$stopping" ] && finish stopped 75
  tries=$((tries + 1))
  [ "$tries" = 3 ] && finish failed 1
  sleep 60
done

while [ -z "$stopping" ]; do
  say running
  study
  code=$?
  if [ "$code" = 0 ]; then
    exists "$runs" && finish 'done' 0
    echo "yardstick: nothing is under gs://$bucket/$runs: this commit keeps runs on local disks"
    finish failed 1
  fi
  # 75: asked to stop, and saved; the same command goes on from there.
  if [ "$code" != 75 ]; then
    [ -n "$stopping" ] || [ "$(metadata preempted)" = TRUE ] || finish failed "$code"
    break
  fi
  sleep 10
done
finish stopped 75
