// The head of a faithfulness study's page: what was found, in sentences with the study's own numbers.
#pragma once
#include <array>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "eval/report/report_table.h"

namespace signalbox::eval {

struct FaithfulnessTest {
  const char *name, *title, *does, *axis;
};
extern const std::array<FaithfulnessTest, 4> faithfulness_tests;

// Over explanations of all lengths; nullopt where the test was not run.
struct CurveArea {
  Estimate area, accuracy;
  int64_t n = 0;
};
std::optional<CurveArea> area_of_test(const ReportTable& areas, std::string_view test);

// "0.375 [0.250, 0.500]"; without an interval the value alone.
std::string value_with_interval(const Estimate& found, int decimals);

// The tables of a study; `forced_areas` where the answer was forced too.
struct FaithfulnessTables {
  const ReportTable &areas, &routing;
  const std::optional<ReportTable>& forced_areas;
};

// What one test says: how often the answer changes and whether that is more or less than half, how far the routes of
// the answer move, and how far its probability falls. Plain text; empty where the test was not run.
std::vector<std::string> test_sentences(const FaithfulnessTables& tables, const FaithfulnessTest& test);

// Which test changes the answer most, where one stands apart from the others, and which misroutings do more than random
// ones. Nothing is said of a number without an interval. Plain text.
std::vector<std::string> comparison_sentences(const FaithfulnessTables& tables);

// The section of all of these. HTML.
std::string faithfulness_found(const json::Ref& summary, const FaithfulnessTables& tables);

}  // namespace signalbox::eval
