#!/bin/bash
# The driver of a run, on the head of its Ray cluster; KubeRay submits this as the Ray job. When a cluster was
# lost, KubeRay starts another one and this again: the run goes on from its newest checkpoint.
set -u
folder="$RLPOST_RUN_DIR/launch"
over="$folder/over.${RLPOST_LAUNCHER##*[:/]}"
running="${TMPDIR:-/tmp}/rlpost.running"
leaving="${TMPDIR:-/tmp}/rlpost.leaving"

if ! mkdir -p "$folder"; then
    echo "error: the run directory $RLPOST_RUN_DIR cannot be written: is its volume mounted, for this user?" >&2
    exit 2
fi
if [ -s "$over" ]; then
    echo "error: not tried again: $(cat "$over")" >&2
    exit 1
fi
if [ -e "$folder/leaving" ]; then  # the last head was ended before it could take its request back
    rm -f "$folder/leaving" "$RLPOST_RUN_DIR/stop"
fi
cp "$RLPOST_FILES/recipe.yaml" "$folder/recipe.yaml" || exit 2
if [ -d "$RLPOST_FILES/files" ]; then cd "$RLPOST_FILES/files" || exit 2; fi

# A signal is for the driver, which saves first; this waits for it.
trap : TERM INT
trap 'rm -f "$running"' EXIT
rm -f "$leaving"
touch "$running"
eval "$RLPOST_COMMAND"' train "$folder/recipe.yaml" --output "$RLPOST_RUN_DIR" --resume'
status=$?

if [ $status = 143 ] && [ -e "$leaving" ]; then
    echo "the machine of the driver is leaving; the next attempt goes on from here"
elif [ $status = 143 ]; then
    echo "the run was told to stop; the next launch with --output $RLPOST_RUN_DIR goes on" | tee "$over"
elif [ $status -ge 1 ] && [ $status -le 130 ]; then
    # Wrong input stays wrong, and so mostly does what failed with a message. Only who was killed is tried again.
    echo "the run ended with status $status; its last words are in the log of that attempt" > "$over"
fi
exit $status
