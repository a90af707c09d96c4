#!/bin/sh
# Builds the C sources with a test driver under AddressSanitizer and UndefinedBehaviorSanitizer and runs it.
#   run_sanitized.sh [SECONDS [CORPUS]]        CC chooses the compiler; exit status 77: it has no sanitizers
set -eu
here=$(cd "$(dirname "$0")" && pwd)
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
flags="-std=c11 -g -O1 -Wall -Wextra -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer"
echo 'int main(void) { return 0; }' > "$dir/empty.c"
# shellcheck disable=SC2086
if ! "${CC:-cc}" $flags -o "$dir/empty" "$dir/empty.c" 2> /dev/null || ! "$dir/empty"; then
    echo "${CC:-cc} has no sanitizers here" >&2
    exit 77
fi
# shellcheck disable=SC2086
"${CC:-cc}" $flags -o "$dir/driver" "$here/driver.c" "$here"/../src/*.c
"$dir/driver" "$@"
