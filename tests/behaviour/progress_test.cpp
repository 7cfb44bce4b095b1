// What is said of how far a command has come.
#include "tools/terminal/progress.h"

#include <doctest/doctest.h>

#include "base/display_width.h"

using namespace signalbox;
using namespace signalbox::tools;

TEST_CASE("progress: the pace is that of late, without what was there before") {
  Pace pace;
  CHECK(!pace.rate());
  pace.add(0, 5000);  // of an earlier process
  CHECK(!pace.rate());
  pace.add(0.5, 5100);
  CHECK(!pace.rate());  // too early to tell
  pace.add(2, 5200);
  CHECK(*pace.rate() == doctest::Approx(100));
  for (int s = 3; s <= 100; ++s) pace.add(s, 5200 + 10 * (s - 2));
  CHECK(*pace.rate() == doctest::Approx(10));  // the fast beginning is more than 30 seconds ago
  Pace still;
  still.add(0, 0);
  still.add(9, 0);
  CHECK(!still.rate());
  // Late in a long command a pause of 30 seconds is not taken for the end of the world.
  for (int s = 1; s <= 1000; ++s) still.add(9 + s, s);
  still.add(1009 + 30, 1000);
  CHECK(*still.rate() > 0.8);
}

TEST_CASE("progress: lines grow sparser, over all stages of a command") {
  ProgressLines lines;
  int first_minute = 0, hour = 0, day = 0;
  for (int s = 0; s <= 24 * 3600; ++s) {
    const bool due = lines.due(s);
    first_minute += due && s <= 60;
    hour += due && s <= 3600;
    day += due;
  }
  CHECK(first_minute == 10);
  CHECK(hour > 30);
  CHECK(hour <= 40);
  CHECK(day <= 65);
}

TEST_CASE("progress: the end is told once the pace has something to go by") {
  Pace pace;
  pace.add(0, 1000);
  pace.add(1.5, 1003);
  CHECK(pace.rate());
  CHECK_FALSE(pace.tells_end(10'000));  // 3 of 9000
  CHECK(pace.tells_end(1300));
  pace.add(15, 1020);
  CHECK(pace.tells_end(10'000));
}

TEST_CASE("progress: lines with units that fit the terminal") {
  CHECK(progress_line("tracing", "tokens", 0.5, 1200.4, 130, 0) == "tracing: 50 %  1200 tokens/s  about 2m10s left");
  CHECK(progress_line("tracing", "tok", 0, std::nullopt, std::nullopt, 0) == "tracing: 0 %  unknown time left");
  CHECK(progress_line("writing", "", 1, 3.25, 5, 0) == "writing: 100 %  3.2/s  about 5s left");
  CHECK(progress_line("running", "samples", 0.1, 0.25, 7260, 0) == "running: 10 %  15.0 samples/min  about 2h01m left");
  CHECK(progress_line("tracing", "tok", 0.5, 1200, 130, 100) ==
        "tracing [###############...............] 50 %  1200 tok/s  about 2m10s left");
  const std::string what = "tracing the baseline for detection, a long name of a stage";
  for (const int width : {1, 5, 20, 30, 40, 46, 50, 80, 100, 140}) {
    CAPTURE(width);
    const std::string line = progress_line(what, "samples", 0.5, 1200, 130, width);
    CHECK(static_cast<int>(display_width(line)) < width);
    CHECK((line.ends_with("50 %  1200 samples/s  about 2m10s left") || width < 40));
    CHECK(line.starts_with(what.substr(0, 1)) == (width >= 46));
  }
  const std::string wide = progress_line("検出のための基準を記録しています", "tok", 0.5, 1200, 130, 50);
  CHECK(display_width(wide) < 50);
  CHECK(wide.starts_with("検"));
  CHECK(wide.ends_with("す 50 %  1200 tok/s  about 2m10s left"));
}
