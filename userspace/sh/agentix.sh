# shellcheck shell=sh
# Agentix for agents in shell: functions over the agent's mounted tree. No socket; POSIX sh and its usual tools.
# agentix-sh(3) is the manual. Bind the folder into the sandbox and source the file:
#
#   agentctl run --bind-ro userspace/sh:/opt/agentix --bind-ro agent.sh:/opt/agent -- /opt/agent
#
# and in the agent:  . /opt/agentix/agentix.sh
#
# What fails says so on standard error, and its status is not 0. A body in parentheses is a subshell, so that its
# variables are its own: sh has no others.

AGX_TREE=${AGENTIX_TREE:-/agent/self}
AGX_TAB=$(printf '\t')

# agx_log WORD...: a line on standard error, which proc/log and `agentctl logs` keep.
agx_log() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

# agx_value FILE [KEY]: a file of lines "Key:<tab>value" in the tree, or the value of one of its keys.
agx_value() (
    [ $# -gt 1 ] || exec cat "$AGX_TREE/$1"
    while IFS= read -r line; do
        case $line in
        "$2:$AGX_TAB"*)
            printf '%s\n' "${line#*"$AGX_TAB"}"
            exit
            ;;
        esac
    done <"$AGX_TREE/$1" || exit 1
    agx_log "$1 has no key $2"
    exit 1
)

# agx_status [KEY], agx_usage [KEY], agx_limits [KEY], agx_policy [KEY]: what the agent is, uses, may use and may do.
agx_status() { agx_value proc/status "$@"; }
agx_usage() { agx_value proc/usage "$@"; }
agx_limits() { agx_value proc/limits "$@"; }
agx_policy() { agx_value policy/effective "$@"; }

# agx_caps: the capabilities that it holds, a line each: handle, capability, source, with tabs between.
agx_caps() { cat "$AGX_TREE/policy/capabilities"; }

# agx_why: what was refused last, and by which rule; nothing if nothing was.
agx_why() { cat "$AGX_TREE/policy/last-denial"; }

# agx_signal NAME: send the agent itself a signal, such as STOP or USR1.
agx_signal() {
    printf '%s\n' "$1" 2>/dev/null >"$AGX_TREE/proc/signal" || {
        agx_log "signal $1 was refused: no such signal, or not an agent's to send"
        return 1
    }
}

# agx_remember WORD...: append a line, with the time, to mem/episodic/log. Nobody can take it back.
agx_remember() { printf '%s %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$*" >>"$AGX_TREE/mem/episodic/log"; }

# agx_save NAME: standard input becomes the file state/NAME, whole or not at all.
agx_save() (
    file=$AGX_TREE/state/$1
    cat >"$file.new" && mv -f -- "$file.new" "$file"
)

# agx_load NAME [DEFAULT]: the file state/NAME; without it the default, if one is given.
agx_load() {
    if [ $# -gt 1 ] && ! [ -e "$AGX_TREE/state/$1" ]; then
        [ -z "$2" ] || printf '%s\n' "$2"
    else
        cat "$AGX_TREE/state/$1"
    fi
}

# agx_sleep SECONDS: sleep, but let a trap run at once and end the sleep: a shell runs none while it waits for an
# ordinary command. The status is over 128 then. A signal that comes just before it is trapped and leaves it asleep.
agx_sleep() {
    sleep "$1" &
    wait "$!" && return
    set -- "$?"
    kill "$!" 2>/dev/null
    return "$1"
}
