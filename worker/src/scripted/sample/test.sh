#!/bin/sh
# Tests of greet. Run them with: sh test.sh
set -u
cd "$(dirname "$0")" || exit 1
failed=0

# check WHAT EXPECTED ACTUAL
check() {
    if [ "$2" = "$3" ]; then
        echo "ok: $1"
    else
        echo "FAILED: $1: expected '$2', got '$3'"
        failed=1
    fi
}

check "greets one" "Hello, Ada!" "$(sh greet Ada)"
check "greets several" "Hello, Ada!
Hello, Linus!" "$(sh greet Ada Linus)"
check "shouts" "HELLO, ADA!" "$(sh greet --shout Ada)"

exit $failed
