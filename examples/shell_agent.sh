#!/bin/bash
# An agent in bash that watches a folder: it says which files are new, changed or gone since it last looked, and keeps
# what it saw in state/sums. Each change is a line of its episodic memory. It looks every SECONDS, at once on SIGUSR1,
# and ends on SIGTERM; without SECONDS it looks once.
#
#   agentctl run --bind-ro userspace/sh:/opt/agentix --bind-ro examples/shell_agent.sh:/opt/watch \
#       --bind-ro /etc/apt:/watched -- /opt/watch /watched [SECONDS]
set -eu
# shellcheck source-path=SCRIPTDIR source=../userspace/sh/agentix.sh
. /opt/agentix/agentix.sh

folder=$1
every=${2-}
declare -A before=() now=()

# Lines of sha256sum from standard input, into the map of that name: the sum of each file.
read_sums() {
    local -n sums=$1
    local line
    sums=()
    # shellcheck disable=SC2034 # it is the caller's
    while IFS= read -r line; do sums[${line#*  }]=${line%% *}; done
}

tell() {
    agx_remember "$@"
    echo "$@"
}

look() {
    local name
    read_sums before < <(agx_load sums '')
    (cd "$folder" && find . -type f -readable -exec sha256sum {} +) | agx_save sums
    read_sums now < <(agx_load sums)
    for name in "${!now[@]}"; do
        if [ -z "${before[$name]-}" ]; then
            tell new "$name"
        elif [ "${before[$name]}" != "${now[$name]}" ]; then
            tell changed "$name"
        fi
    done
    for name in "${!before[@]}"; do
        [ -n "${now[$name]-}" ] || tell gone "$name"
    done
}

trap 'agx_log "looking at once"' USR1
trap 'agx_remember "asked to end"; exit 0' TERM
agx_log "agent $(agx_status Id) watches $folder with at most $(agx_limits MemoryBytes) bytes of memory"
look
while [ -n "$every" ]; do
    agx_sleep "$every" || true
    look
done
