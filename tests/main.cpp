// The one test binary. `--require-gpu` turns a skipped GPU test into a failure; skips are counted and printed.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdio>
#include <string_view>

#include "kernels/backend.h"
#include "tests/support.h"
#include "tools/signalbox/common.h"

namespace signalbox::test {

namespace {
int skipped = 0;
bool gpu_required = false;
const void* without_gpu = nullptr;  // the last test case that asked for a GPU in vain
}  // namespace

void skip(const char* reason) {
  ++skipped;
  std::printf("skipped: %s\n", reason);
}

bool require_gpu() { return gpu_required; }

bool have_gpu() {
  static const std::string why = built_with_cuda() ? cuda_unavailable() : "built without CUDA";
  if (why.empty()) return true;
  const void* running = doctest::getContextOptions()->currentTest;
  if (running == without_gpu) return false;
  if (gpu_required)
    FAIL_CHECK("expected a GPU, found: " << why);
  else if (!without_gpu)
    std::printf("GPU tests are skipped: %s\n", why.c_str());
  without_gpu = running;
  if (!gpu_required) ++skipped;
  return false;
}

}  // namespace signalbox::test

int main(int argc, char** argv) {
  signalbox::register_builtin_model();
  signalbox::test::gpu_required =
      std::any_of(argv, argv + argc, [](std::string_view argument) { return argument == "--require-gpu"; });
  doctest::Context context(argc, argv);
  const int code = context.run();
  if (!context.shouldExit()) std::printf("skipped tests: %d\n", signalbox::test::skipped);
  return code;
}
