// How long detection takes, and how much memory: SIGNALBOX_MEASURE_DETECTION=1 runs it at full size.
#include <doctest/doctest.h>
#include <sys/resource.h>

#include <chrono>
#include <cmath>
#include <cstdlib>

#include "eval/detect/risk_difference.h"
#include "tests/detect/count_data.h"

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::eval;
using namespace signalbox::test;

TEST_CASE("detection of 1,000 pairs x 26 layers x 64 experts with B = 10,000") {
  const char* asked = std::getenv("SIGNALBOX_MEASURE_DETECTION");
  const bool full = asked && std::string(asked) == "1";
  ContrastCounts counts = empty_counts(26, 64, full ? 1000 : 100, true);
  std::mt19937_64 generator(1);
  const size_t n_rows = counts.n_rows();
  for (size_t r = 0; r < counts.records.size(); ++r) {
    counts.records[r].tokens = static_cast<int64_t>(100 + generator() % 200);
    for (size_t i = 0; i < n_rows; ++i)
      counts.selected[r * n_rows + i] =
          static_cast<uint32_t>(generator() % static_cast<uint64_t>(counts.records[r].tokens));
  }
  ContrastOptions options;
  options.threads = 2;
  options.resamples = full ? 10000 : 300;
  const auto start = std::chrono::steady_clock::now();
  const Detection found = detect(counts, options);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  CHECK(found.rows.size() == 26 * 64);
  if (!full) return;
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const double gigabytes = static_cast<double>(usage.ru_maxrss) / (1 << 20);
  MESSAGE("1,000 pairs, B = 10,000, 2 threads: " << seconds << " s, peak memory " << gigabytes << " GB");
  CHECK(seconds < 30);
  CHECK(gigabytes < 1);
}
