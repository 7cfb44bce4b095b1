// Saturation of one checkpoint's routes by another's, against numpy (make_saturation_goldens.py).
#include "eval/routing/saturation.h"

#include <doctest/doctest.h>

#include <cmath>

#include "base/csv.h"
#include "base/error.h"
#include "tests/detect/hand_trace.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::eval;
using namespace signalbox::test;

namespace {

namespace fs = std::filesystem;

// Ends of intervals that both sides draw for themselves, of 1000 and of 400 replicates: a few hundredths for experts of
// a hundred tokens, less for layers.
double allowed_for(const std::string& name, const std::string& column) {
  if (!column.ends_with("_lo") && !column.ends_with("_hi")) return 1e-12;
  return name == "saturation.csv" ? 0.008 : 0.035;
}

void compare(const fs::path& made, const fs::path& golden, const std::string& name) {
  const CsvTable mine = CsvTable::read(made / name), theirs = CsvTable::read(golden / name);
  REQUIRE(mine.header() == theirs.header());
  REQUIRE(mine.n_rows() == theirs.n_rows());
  for (size_t r = 0; r < mine.n_rows(); ++r)
    for (size_t c = 0; c < mine.header().size(); ++c) {
      CAPTURE(name);
      CAPTURE(r);
      CAPTURE(mine.header()[c]);
      CHECK(std::abs(mine.number(r, c) - theirs.number(r, c)) <= allowed_for(name, mine.header()[c]));
    }
}

}  // namespace

TEST_CASE("saturation: every number as numpy finds it") {
  const fs::path golden = source_dir() / "tests/goldens/routing/saturation";
  TemporaryDirectory scratch;
  const std::string out = (scratch / "out").string(), a = (golden / "earlier").string(),
                    b = (golden / "later").string();
  const Ran ran = run_command(binary() + " diff " + a + " " + b + " --out " + out + " --threads 2 --json");
  REQUIRE_MESSAGE(ran.code == 0, ran.err);
  compare(out, golden, "saturation.csv");
  compare(out, golden, "saturation_experts.csv");
  const json::Value printed = json::parse(ran.out, "diff");
  REQUIRE(printed.find("saturation"));
  CHECK(printed.find("saturation")->items().size() == 2);
  // A checkpoint is saturated by itself.
  const Saturation same = saturation(TraceReader(a), TraceReader(a), {0, 20, 1});
  for (const LayerSaturation& row : same.layers) CHECK(row.saturation == 1);
  for (const ExpertSaturation& row : same.experts) CHECK(row.jaccard == 1);
  CHECK(same.records == 12);
}

TEST_CASE("saturation: what cannot be compared is said") {
  const fs::path golden = source_dir() / "tests/goldens/routing/saturation";
  TemporaryDirectory scratch;
  write_hand_trace(scratch / "t", {{"{\"id\":\"r0\",\"tokens\":[1]}", {HandToken{}}}});
  const auto said = [&](const fs::path& a, const fs::path& b) {
    try {
      saturation(TraceReader(a), TraceReader(b), {});
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("nothing");
  };
  CHECK(said(golden / "earlier", scratch / "t").find("expected the 8 experts of") != std::string::npos);
  // One record alone has no interval.
  const Saturation alone = saturation(TraceReader(scratch / "t"), TraceReader(scratch / "t"), {});
  REQUIRE(alone.layers.size() == 1);
  CHECK(alone.layers[0].saturation == 1);
  CHECK(std::isnan(alone.layers[0].saturation_ci.lo));
}
