#!/bin/sh
# A run from its start to a second prompt, with curl and jq: ./curl.sh [URL] [TOKEN]
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

echo '# come back to it behind entry 10, as server-sent events'
ask --no-buffer "$url/agent-runs/$run/logs/stream" --header 'Last-Event-ID: 10' | grep --line-buffered '^id:'

echo '# its answer'
ask "$url/agent-runs/$run" | jq --raw-output .result

echo '# go on with it: the log goes on behind its last entry'
ask "$url/agent-runs/$run/resume" --header 'Content-Type: application/json' \
    --data '{"prompt": "Now in French"}' | jq --compact-output '[.id, .status]'
ask --no-buffer "$url/agent-runs/$run/logs/stream?skip=12" --header 'Accept: application/x-ndjson' |
    jq --unbuffered --compact-output '[.event, .id, .data.message_type // .data.status]'
