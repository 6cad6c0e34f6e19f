# Every host of a slice runs this: a TPU machine as root at each boot, a pod as its only process.
# tpu/startup.py writes what is to run before it: launch, commit, bucket, folder, arguments, told.
# What a host says of itself, its log and its runs are in the bucket, under the folder. The study
# keeps its runs on the disk; they are copied while it runs, and brought back to an empty disk.

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

encode() { # TEXT: as part of an address
  local LC_ALL=C at letter
  for ((at = 0; at < ${#1}; at++)); do
    letter="${1:at:1}"
    [[ "$letter" = [A-Za-z0-9._~-] ]] || printf -v letter '%%%02X' "'$letter"
    printf %s "$letter"
  done
}

download() { # OBJECT FILE
  storage "/storage/v1/b/$bucket/o/$(encode "$1")?alt=media" --output "$2"
}

upload() { # FILE OBJECT
  # The file is not read into memory; it may be larger.
  storage "/upload/storage/v1/b/$bucket/o?uploadType=media&name=$(encode "$2")" \
    --output /dev/null --header 'Content-Type: text/plain' --header 'Expect:' \
    --request POST --upload-file "$1"
}

remove() { # OBJECT
  storage "/storage/v1/b/$bucket/o/$(encode "$1")" --output /dev/null --request DELETE
}

objects() { # FOLDER: the names of all that is in it
  local page='' answer
  while true; do
    answer="/storage/v1/b/$bucket/o?prefix=$(encode "$1/")&pageToken=$(encode "$page")"
    answer="$(storage "$answer&fields=items(name),nextPageToken")" || return
    grep -o '"name": *"[^"]*"' <<<"$answer" | sed 's/^.*: *"\(.*\)"$/\1/' |
      while read -r name; do
        # JSON may write a letter as \u003d, which printf reads.
        printf '%b\n' "$name"
      done
    page="$(sed -n 's/.*"nextPageToken": *"\([^"]*\)".*/\1/p' <<<"$answer")"
    [ -n "$page" ] || return 0
  done
}

say() { # STATE [CODE]: what the launcher reads
  echo "yardstick: $1${2:+ with exit code $2}"
  printf '{"state": "%s", "code": %d, "launch": "%s", "time": "%s"}\n' \
    "$1" "${2:-0}" "$launch" "$(date -u +%FT%TZ)" >state.json
  upload state.json "$folder/hosts/$host.json"
}

finish() { # STATE CODE
  kill "$uploader" $copier 2>/dev/null
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

files() { # FOLDER: time, size and name of the files in it, the oldest first
  # Without what is still being written: it is renamed when it is whole.
  (cd "$1" && find . -type f ! -name '*.tmp' ! -path '*.orbax-checkpoint-tmp*' \
    -printf '%T@ %s %P\n') | sort -n
}

restore() { # brings the runs of the bucket to a disk that has none; the first host writes them
  local object file
  [ -e runs ] && return
  [ "$host" = 0-0 ] || { mkdir runs; return; }
  rm -rf restored && mkdir restored && objects "$folder/runs" >listed || return
  while IFS= read -r object; do
    file="restored/${object#"$folder/runs/"}"
    mkdir -p "${file%/*}" && download "$object" "$file" || return
  done <listed
  files restored >copied && mv restored runs
}

copy() { # brings what changed in the runs to the bucket; one at a time
  [ "$host" = 0-0 ] || return 0
  (
    flock 9
    # Of links, as the study removes its older checkpoints meanwhile.
    rm -rf links && cp -al runs links && files links >found || exit
    # Whenever this ends, what is in the bucket can be gone on from: a checkpoint has the records
    # of all steps before it, a result has its checkpoint, and the checkpoints before stay until
    # the new ones are whole.
    grep -Fxv -f copied found >new
    { grep -v -e /checkpoints/ -e '/result\.json$' new
      grep /checkpoints/ new
      grep '/result\.json$' new
    } >ordered
    while read -r time size name; do
      upload "links/$name" "$folder/runs/$name" || exit
      echo "$time $size $name" >>copied
    done <ordered
    cut -d ' ' -f 3- found >kept
    cut -d ' ' -f 3- copied | sort -u | grep -Fxv -f kept | while IFS= read -r name; do
      remove "$folder/runs/$name"
    done
    mv found copied
  ) 9>copying
}

thrice() { # COMMAND: tries again, but not on a machine that shuts down
  "$@" && return
  for _ in 2 3; do
    [ -z "$stopping" ] && sleep 60 && "$@" && return
  done
  return 1
}

study() { # runs it to its end, and passes a request to stop on
  # By this name it knows a checkpoint folder's lock for that of a host that is gone.
  (cd source && YARDSTICK_JOB="$folder" exec .venv/bin/python "${arguments[@]}") &
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
copier=''
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
if ! { thrice install && thrice restore; }; then
  [ -n "$stopping" ] && finish stopped 75
  finish failed 1
fi
# Who sleeps must not keep the log open.
(while sleep 120 >/dev/null 2>&1; do copy; done) &
copier=$!

while [ -z "$stopping" ]; do
  say running
  study
  code=$?
  if [ "$code" = 0 ]; then
    thrice copy && finish 'done' 0
    echo "the study is done, but its runs could not be copied to gs://$bucket/$folder/runs"
    code=1
  else
    copy
  fi
  # 75: asked to stop, and saved; the same command goes on from there.
  if [ "$code" != 75 ]; then
    [ -n "$stopping" ] || [ "$(metadata preempted)" = TRUE ] || finish failed "$code"
    break
  fi
  sleep 10
done
finish stopped 75
