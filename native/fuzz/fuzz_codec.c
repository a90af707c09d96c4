/* libFuzzer: clang -g -O1 -fsanitize=fuzzer,address,undefined -o fuzz_codec fuzz_codec.c ../src/[a-z]*.c */
#include "../tests/exercise.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    exercise(data, size);
    return 0;
}
