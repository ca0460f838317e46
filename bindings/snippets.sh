#!/usr/bin/env bash
# Writes the pieces of code on a page into a folder, 1.txt and so on, for the tests to run: pages that rot fail.
# Use: snippets.sh PAGE LANGUAGE FOLDER
set -euo pipefail
mkdir -p "$3"
rm -f "$3"/*.txt
awk -v language="$2" -v folder="$3" '
    /^```/ {
        inside = !inside
        file = (inside && $0 == "```" language) ? folder "/" ++n ".txt" : ""
        next
    }
    file { print >file }
    END { if (!n) { print "no " language " on this page" >"/dev/stderr"; exit 1 } }
' "$1"
