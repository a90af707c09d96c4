#!/bin/sh
# Fuzzes the codec with libFuzzer: run.sh [SECONDS [CORPUS_DIRECTORY]]; needs clang.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
"${CC:-clang}" -std=c11 -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all \
    -o "$dir/fuzz_codec" "$here/fuzz_codec.c" "$here"/../src/*.c
mkdir -p "${2:-$dir/corpus}"
"$dir/fuzz_codec" -max_total_time="${1:-60}" -max_len=8192 -print_final_stats=1 "${2:-$dir/corpus}"
