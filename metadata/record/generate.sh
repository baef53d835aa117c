#!/bin/sh
# Writes record.pb.go with the protoc-gen-go that go.mod pins.
set -eu
bin=$(mktemp -d)
trap 'rm -r "$bin"' EXIT
printf '#!/bin/sh\nexec go tool protoc-gen-go "$@"\n' > "$bin/protoc-gen-go"
chmod +x "$bin/protoc-gen-go"
PATH=$bin:$PATH protoc --go_out=. --go_opt=paths=source_relative record.proto
