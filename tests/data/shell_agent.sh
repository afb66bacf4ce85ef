# Every function of the shell client, in whatever shell runs this; each line of output is a claim of the test.
# shellcheck shell=sh source-path=SCRIPTDIR source=../../userspace/sh/agentix.sh
. /opt/agentix/agentix.sh

name=kept line=kept value=kept file=kept
agx_status Id
agx_status | head -1
agx_status Children
agx_limits MemoryBytes
[ "$(agx_usage Processes)" -ge 1 ] && echo usage
agx_policy Mode
agx_why
mkdir "$AGENTIX_TREE/state/refused" 2>/dev/null || agx_why | head -1
agx_status Nope || echo "no key: $?"
agx_value proc/nope Key || echo "no file: $?"
agx_value proc/nope || echo "no file: $?"
agx_signal NOPE || echo "no signal: $?"
agx_signal POLICY || echo "not mine to send: $?"
printf 'one\ntwo' | agx_save words && agx_load words && echo
agx_load none "a default"
agx_load none ''
agx_load none || echo "none: $?"
agx_save no/folder </dev/null || echo "not saved: $?"
ls -A "$AGENTIX_TREE/state"
agx_remember first words
agx_remember second
cut -d' ' -f2- "$AGENTIX_TREE/mem/episodic/log"
set -- these stay
hit=''
trap 'hit=trapped' USR1
while sleep 0.05; do agx_signal USR1; done & # again and again: one could come before the wait
sender=$!
agx_sleep 600
echo "slept: $?"
kill "$sender"
trap '' USR1
echo "$hit"
agx_sleep 0
echo "slept: $? $* $name $line $value $file"
agx_log "to stderr" too
