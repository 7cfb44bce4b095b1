// The one test binary. `--require-gpu` turns a skipped GPU test into a failure; skips are counted and printed.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>
#include <cstring>

#include "tests/support.h"
#include "tools/signalbox/common.h"

namespace signalbox::test {

namespace {
int skipped = 0;
}

void skip(const char* reason) {
  ++skipped;
  std::printf("skipped: %s\n", reason);
}

}  // namespace signalbox::test

int main(int argc, char** argv) {
  signalbox::register_builtin_model();
  doctest::Context context(argc, argv);
  const int code = context.run();
  if (!context.shouldExit()) std::printf("skipped tests: %d\n", signalbox::test::skipped);
  return code;
}
