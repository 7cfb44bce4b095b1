// Every example of the docs is what it says: an edit list that a model accepts, or a set of points.
#include "tests/docs.h"

#include <regex>

#include "base/safetensors.h"
#include "tests/probes/trace_sample.h"

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::test;

namespace {

// The model of the examples: 27 layers, the first dense, 64 experts of which 6 are active, as docs/edits.md says.
ModelShape example_shape() {
  ModelShape shape;
  shape.d_model = 8;
  shape.n_vocab = 10;
  shape.layers.assign(27, {true, 64, 6, 16, true});
  shape.layers[0] = {false, 0, 0, 32, false};
  for (LayerShape& layer : shape.layers) layer.attention = {4, 2, 4, 4, 4};
  return shape;
}

// The files that examples refer to.
void write_example_files(const TemporaryDirectory& dir) {
  TraceOptions options = trace_options(dir / "baseline", "*", example_shape());
  TraceWriter writer(options);
  std::vector<RowRange> ranges;
  for (int64_t r = 0; r < 40; r += 8) feed(writer, options, {{0, r, 8, 0}});
  const std::vector<std::string> ids = {"q17"};
  writer.finish(ids, [](int64_t) { return json::Value::object(); });
  std::string rd = "layer,expert,rd\n", usage = "layer,expert,domain,count,tokens,share,mean_weight\n";
  for (int l = 1; l < 27; ++l)
    for (int e = 0; e < 64; ++e) {
      const std::string at = std::to_string(l) + "," + std::to_string(e) + ",";
      rd += at + std::to_string((e - 20) * 0.001 * l) + "\n";
      usage += at + ",1,64,0.09375,0.1\n";
    }
  write_file(dir / "rd.csv", rd);
  write_file(dir / "usage.csv", usage);
  const std::vector<safetensors::TensorHeader> headers = {{"honesty", "F32", {8}}, {"typical", "F32", {64, 16}}};
  safetensors::Writer vectors(dir / "vectors.safetensors", headers);
  const std::vector<float> values(8 + 64 * 16, 0.5f);
  vectors.write(values.data(), values.size() * 4);
  vectors.finish();
}

}  // namespace

TEST_CASE("docs: every example of docs/edits.md is a list of edits") {
  TemporaryDirectory dir;
  write_example_files(dir);
  const std::string page = page_of("docs/edits.md");
  const auto examples = fenced_blocks(page, "json edits");
  CHECK(examples.size() >= 10);
  std::string ops;
  for (const std::string& example : examples) {
    CAPTURE(example);
    write_file(dir / "edits.json", example);
    std::shared_ptr<const EditPlan> plan;
    REQUIRE_NOTHROW(plan = EditPlan::load(dir / "edits.json", example_shape(), 0));
    CHECK_NOTHROW(plan->bind({"q17", 0, 30, {{"doc", 2, 5}}}));
    CHECK_FALSE(plan->empty());
    for (const json::Value& edit : plan->source().items()) {
      ops += edit.find("op")->string() + " ";
      for (const char* key : {"mode", "policy", "weights"})
        if (const json::Value* value = edit.find(key)) ops += value->string() + " ";
    }
  }
  for (const char* name : {"deactivate",  "ban",          "steermoe",          "bias",   "activate", "force",
                           "misroute",    "next_best",    "swap_last",         "worst",  "shift",    "permute",
                           "random",      "gumbel",       "frequency_matched", "fixed",  "replay",   "top_k",
                           "temperature", "scale_expert", "scale_shared",      "ablate", "add",      "patch"})
    CHECK_MESSAGE((" " + ops).find(" " + std::string(name) + " ") != std::string::npos, name);
}

TEST_CASE("docs: every refusal of docs/edits.md is refused with these words") {
  TemporaryDirectory dir;
  write_example_files(dir);
  const std::string page = page_of("docs/edits.md");
  const auto examples = fenced_blocks(page, "json refused");
  const auto messages = fenced_blocks(page, "text refusal");
  REQUIRE(examples.size() == messages.size());
  CHECK(examples.size() >= 2);
  for (size_t i = 0; i < examples.size(); ++i) {
    write_file(dir / "edits.json", examples[i]);
    const std::string found = error_of([&] { EditPlan::load(dir / "edits.json", example_shape(), 0); });
    CHECK("edits.json" + found.substr(std::min(found.size(), (dir / "edits.json").string().size())) + "\n" ==
          messages[i]);
  }
}

TEST_CASE("docs: docs/probes.md lists the points and its globs match") {
  const std::string page = page_of("docs/probes.md");
  for (int32_t i = 0; i < n_points; ++i) {
    const PointInfo& info = point_info(static_cast<Point>(i));
    const std::string row = "| `" + std::string(info.per_layer ? "layer.{l}." : "") + std::string(info.name) + "` |";
    CHECK_MESSAGE(page.find(row) != std::string::npos, row);
    const size_t begin = page.find(row), end = page.find('\n', begin);
    if (begin != std::string::npos)
      CHECK_MESSAGE(page.substr(begin, end - begin).ends_with("| yes |") == info.writable, row);
  }
  const auto globs = fenced_blocks(page, "text points");
  CHECK(globs.size() >= 1);
  for (const std::string& block : globs) {
    std::istringstream lines(block);
    for (std::string line; std::getline(lines, line);) {
      CAPTURE(line);
      CHECK_NOTHROW(PointSet::parse(line.substr(0, line.find(' ')), example_shape()));
    }
  }
}
