#!/bin/bash
# Before a pod ends (a node is drained, a queue preempts, the job is deleted): the driver saves a checkpoint, and
# the other machines stay until it has, because KubeRay ends all pods of a cluster at once.
#   drain.sh head | worker
set -u
folder="$RLPOST_RUN_DIR/launch"
running="${TMPDIR:-/tmp}/rlpost.running"
until_s=$((SECONDS + RLPOST_STOP_S))

if [ "$1" = head ]; then
    if [ ! -e "$running" ]; then exit 0; fi
    touch "${TMPDIR:-/tmp}/rlpost.leaving" "$folder/leaving"
    # As `rlpost stop` does, without the seconds that starting Python takes: some notices are half a minute.
    touch "$RLPOST_RUN_DIR/stop"
    while [ -e "$running" ] && [ $SECONDS -lt $until_s ]; do sleep 1; done
    rm -f "$RLPOST_RUN_DIR/stop" "$folder/leaving"
else
    sleep "${RLPOST_HEAD_START_S:-5}"
    while [ -e "$folder/leaving" ] && [ $SECONDS -lt $until_s ]; do sleep 1; done
fi
