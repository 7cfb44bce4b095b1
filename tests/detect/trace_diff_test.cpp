// Two traces of other samples hold patterns of other widths; the tokens that both have are compared all the same.
#include "eval/routing/trace_diff.h"

#include <cstring>

#include "base/safetensors.h"
#include "tests/probes/trace_sample.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::eval;
using namespace signalbox::test;

TEST_CASE("diff: patterns of traces whose longest samples differ") {
  TemporaryDirectory dir;
  const std::string point = "layer.0.attn.pattern";
  write_trace(trace_options(dir / "a", point), {5});
  write_trace(trace_options(dir / "b", point), {5, 9});
  const TraceComparison same = compare_traces(TraceReader(dir / "a"), TraceReader(dir / "b"), 0);
  CHECK(same.tokens == 5);
  CHECK(same.only_b == 1);
  CHECK_FALSE(same.first.has_value());

  // Row 4, head 2, key 3 of the wider one.
  const std::filesystem::path file = dir / "b/trace.safetensors";
  std::string bytes = read_file(file);
  size_t at = 0;
  {
    const auto opened = safetensors::File::open(file);
    at = static_cast<size_t>(opened->data(opened->at(point)) - opened->bytes().data()) + ((4 * 4 + 2) * 9 + 3) * 4;
  }
  const float other = -1;
  std::memcpy(bytes.data() + at, &other, sizeof other);
  write_file(file, bytes);
  const TraceComparison parted = compare_traces(TraceReader(dir / "a"), TraceReader(dir / "b"), 0);
  REQUIRE(parted.first.has_value());
  CHECK(parted.first->point == point);
  CHECK(parted.first->position == 4);
  CHECK(parted.first->index == 2 * 5 + 3);
  CHECK(parted.first->a == static_cast<double>(share_at(0, 4, Point::attn_pattern, 0, 2, 3)));
  CHECK(parted.first->b == -1);
}
