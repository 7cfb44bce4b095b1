// The one test binary. `--require-gpu` turns a skipped GPU test into a failure; skips are counted and printed.
// `--gpu-only` is that, and leaves out what device tests do on the host. `--goldens DIR`: where tests/goldens is.
// `-r=times` prints nothing but a line per test case: processor seconds (those of started commands too), file, name.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "kernels/backend.h"
#include "tests/support.h"

namespace signalbox::test {

namespace {
int skipped = 0;
bool gpu_required = false, only_gpu = false;
const void* without_gpu = nullptr;  // the last test case that asked for a GPU in vain
}  // namespace

void skip(const char* reason) {
  ++skipped;
  std::printf("skipped: %s\n", reason);
}

bool require_gpu() { return gpu_required; }
bool gpu_only() { return only_gpu; }

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

namespace {

double seconds(const timeval& time) {
  return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
}

double processor_seconds() {
  double sum = 0;
  for (const int who : {RUSAGE_SELF, RUSAGE_CHILDREN}) {
    rusage usage;
    getrusage(who, &usage);
    sum += seconds(usage.ru_utime) + seconds(usage.ru_stime);
  }
  return sum;
}

class TimesReporter : public doctest::IReporter {
 public:
  explicit TimesReporter(const doctest::ContextOptions& options) : out_(*options.cout) {}
  void test_case_start(const doctest::TestCaseData& test) override {
    test_ = &test;
    start_ = processor_seconds();
  }
  void test_case_end(const doctest::CurrentTestCaseStats&) override {
    char text[32];
    std::snprintf(text, sizeof text, "%9.2f ", processor_seconds() - start_);
    out_ << text << test_->m_file.c_str() << ": " << test_->m_name << std::endl;
  }
  void test_case_reenter(const doctest::TestCaseData&) override {}
  void report_query(const doctest::QueryData&) override {}
  void test_run_start() override {}
  void test_run_end(const doctest::TestRunStats&) override {}
  void test_case_exception(const doctest::TestCaseException&) override {}
  void subcase_start(const doctest::SubcaseSignature&) override {}
  void subcase_end() override {}
  void log_assert(const doctest::AssertData&) override {}
  void log_message(const doctest::MessageData&) override {}
  void test_case_skipped(const doctest::TestCaseData&) override {}

 private:
  std::ostream& out_;
  const doctest::TestCaseData* test_ = nullptr;
  double start_ = 0;
};
REGISTER_REPORTER("times", 1, TimesReporter);

}  // namespace

}  // namespace signalbox::test

int main(int argc, char** argv) {
  const auto given = [&](std::string_view option) { return std::find(argv, argv + argc, option); };
  signalbox::test::only_gpu = given("--gpu-only") != argv + argc;
  signalbox::test::gpu_required = signalbox::test::only_gpu || given("--require-gpu") != argv + argc;
  if (char** goldens = given("--goldens"); goldens != argv + argc) {
    if (goldens + 1 == argv + argc) {
      std::fprintf(stderr, "--goldens: expected a directory, found nothing\n");
      return 2;
    }
    setenv("SIGNALBOX_GOLDENS", goldens[1], 1);
  }
  doctest::Context context(argc, argv);
  const int code = context.run();
  if (!context.shouldExit()) std::printf("skipped tests: %d\n", signalbox::test::skipped);
  return code;
}
