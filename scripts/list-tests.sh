#!/bin/bash
# Builds every test of the workspace and lists the programs: package, target, program, directory to run it in.
# Always for the whole workspace: asking for one package would compile the dependencies again with other features.
set -euo pipefail
cd "$(dirname "$0")/.."
"${CARGO:-cargo}" test --workspace --all-targets --no-run --message-format=json-render-diagnostics |
    /usr/bin/python3 -c '
import json, os, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("reason") == "compiler-artifact" and message["profile"]["test"] and message["executable"]:
        directory = os.path.dirname(message["manifest_path"])
        package = message["package_id"].split("#")[-1].split("@")[0] if "#" in message["package_id"] else "?"
        name = os.path.basename(directory) if package[0].isdigit() else package
        print(name, message["target"]["name"], message["executable"], directory)
'
