// Two traces side by side: counts worked out by hand, and traces that are not of the same records.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "base/error.h"
#include "eval/report/beside_report.h"
#include "tests/detect/hand_trace.h"
#include "tests/report/html_check.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::eval;

namespace {

using test::HandSample;
using test::HandToken;

HandToken token_of(int32_t id, int32_t first, int32_t second, uint8_t phase) {
  HandToken out;
  out.first = first;
  out.second = second;
  out.token = id;
  out.phase = phase;
  return out;
}

HandSample sample_of(const std::string& id, const std::vector<HandToken>& tokens) {
  return {"{\"id\":\"" + id + "\",\"prompt\":\"x\"}", tokens};
}

std::vector<HandSample> first_trace() {
  return {sample_of("a", {token_of(1, 0, 1, 0), token_of(2, 0, 1, 0), token_of(3, 2, 3, 1), token_of(4, 0, 1, 1)}),
          sample_of("b", {token_of(5, 1, 2, 0), token_of(6, 3, 0, 1)})};
}

// a: the same set in another order, one expert of two, both; then another token, which is not compared. b: the same.
std::vector<HandSample> second_trace() {
  return {sample_of("a", {token_of(1, 1, 0, 0), token_of(2, 0, 3, 0), token_of(3, 0, 1, 1), token_of(7, 2, 3, 1)}),
          sample_of("b", {token_of(5, 1, 2, 0), token_of(6, 3, 0, 1)})};
}

std::string refusal(const std::filesystem::path& first, const std::filesystem::path& second) {
  try {
    render_beside(first, second);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("beside: slots that differ, to where the texts part") {
  test::TemporaryDirectory scratch;
  test::write_hand_trace(scratch / "a", first_trace());
  test::write_hand_trace(scratch / "b", second_trace());
  const TraceComparison found = compare_beside(scratch / "a", scratch / "b");
  CHECK(found.samples == 2);
  CHECK(found.other_tokens == 1);
  CHECK(found.tokens == 5);
  REQUIRE(found.layers.size() == 1);
  CHECK(found.layers[0].slots == 10);
  CHECK(found.layers[0].common == 7);

  const std::string html = render_beside(scratch / "a", scratch / "b");
  CHECK(test::mistake_in_html(html) == "");
  CHECK_FALSE(test::from_outside(html));
  CHECK(html.find("3 of 10 slots hold another expert (30.00 %), over 5 tokens of 2 samples and 1 layer.") !=
        std::string::npos);
  CHECK(html.find("The largest share of a layer: 30.00 % (layer 1).") != std::string::npos);
  CHECK(test::data_block(html, "run-trace-1-ids-0") != test::data_block(html, "run-trace-0-ids-0"));
  test::write_hand_trace(scratch / "again", second_trace());
  const std::string same = render_beside(scratch / "b", scratch / "again");
  CHECK(same.find("0 of 12 slots") != std::string::npos);
}

TEST_CASE("beside: other models, records and texts are refused") {
  test::TemporaryDirectory scratch;
  test::write_hand_trace(scratch / "a", first_trace());
  test::write_hand_trace(scratch / "model", first_trace(), "*.router.ids,*.router.weights", "other");
  CHECK(refusal(scratch / "a", scratch / "model").find("expected the model_hash of") != std::string::npos);
  std::vector<HandSample> samples = second_trace();
  samples.pop_back();
  test::write_hand_trace(scratch / "fewer", samples);
  CHECK(refusal(scratch / "a", scratch / "fewer").ends_with(", 2, found 1"));
  samples = second_trace();
  samples[1] = sample_of("c", samples[1].tokens);
  test::write_hand_trace(scratch / "names", samples);
  CHECK(refusal(scratch / "a", scratch / "names").ends_with("sample 1 is \"b\" there, found \"c\""));
  samples = second_trace();
  samples[1].tokens[0].token = 9;
  test::write_hand_trace(scratch / "prompt", samples);
  CHECK(refusal(scratch / "a", scratch / "prompt")
            .ends_with("expected the given tokens of sample \"b\" as in " +
                       (scratch / "a" / "trace.safetensors").string() + ", 1, found another token at position 0"));
  CHECK(refusal(scratch / "a", scratch / "a").find("expected each trace once") != std::string::npos);
  CHECK(refusal(scratch / "a", scratch / "none").find("expected a trace directory with") != std::string::npos);
}
