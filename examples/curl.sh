#!/bin/sh
# Start a run, follow it, and resume it with a second prompt, with curl and jq: ./curl.sh [URL] [TOKEN]
set -eu
case ${1:-} in
-*) echo "usage: ./curl.sh [URL] [TOKEN]" >&2; exit 2 ;;
esac
url=${1:-http://127.0.0.1:8000}
token=${2:-sandbox-alice}

ask() {
    curl --silent --show-error --fail-with-body --header "Authorization: Bearer $token" "$@"
}

echo '# start a run'
run=$(ask "$url/agent-runs" --header 'Content-Type: application/json' \
    --data '{"prompt": "Write a haiku about logs", "metadata": {"source": "curl.sh", "speed": 10}}' | jq .id)
echo "$run"

echo '# watch it live, as JSON lines, until it has ended'
ask --no-buffer "$url/agent-runs/$run/logs/stream" --header 'Accept: application/x-ndjson' |
    jq --unbuffered --compact-output '[.event, .id, .data.message_type // .data.status]'

echo '# reconnect after entry 10, as server-sent events'
ask --no-buffer "$url/agent-runs/$run/logs/stream" --header 'Last-Event-ID: 10' | grep --line-buffered '^id:'

echo '# get the result'
ask "$url/agent-runs/$run" | jq --raw-output .result

echo '# resume it: the log continues after its last entry'
ask "$url/agent-runs/$run/resume" --header 'Content-Type: application/json' \
    --data '{"prompt": "Now in French"}' | jq --compact-output '[.id, .status]'
ask --no-buffer "$url/agent-runs/$run/logs/stream?skip=12" --header 'Accept: application/x-ndjson' |
    jq --unbuffered --compact-output '[.event, .id, .data.message_type // .data.status]'
