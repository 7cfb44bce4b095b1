// Gradients of weights as they are asked for and written: names, refusals, sums and means, and a router's against the
// gradients of its logits and what it read.
#include "eval/causal/weight_gradients.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>

#include "base/error.h"
#include "base/files.h"
#include "base/safetensors.h"
#include "eval/causal/gradient_trace.h"
#include "eval/data/record_jobs.h"
#include "loaders/open.h"
#include "probes/trace.h"
#include "tests/support.h"

namespace {

using namespace signalbox;
using namespace signalbox::eval;
using namespace signalbox::engine;
namespace fs = std::filesystem;

struct Weighing {
  Session session;
  std::vector<Record> records;
  RecordJobs made;
  explicit Weighing(const std::string& name)
      : session(tools::open_session((test::goldens_dir() / name / "model").string(), {})) {
    for (const char* line :
         {R"({"id":"a","tokens":[5,9,33,17,40,12,61,8,25,30]})", R"({"id":"b","tokens":[44,3,9,71]})"})
      records.push_back(parse_record(json::parse(line, "records"), "records"));
    made = make_jobs(session, records, Generate{}, nullptr);
  }
  // Of one named dir: the tensors' values by name.
  std::map<std::string, std::vector<float>> run(const fs::path& dir, const std::string& weights,
                                                const std::string& points, bool mean, int64_t batch) const {
    GradientRequest request;
    request.metric = Metric::nll;
    request.trace.dir = dir;
    if (!points.empty()) request.trace.points = gradient_points(points, session.shape);
    request.weights = wanted_weights(weights, session);
    request.mean_of_weights = mean;
    request.batch = batch;
    trace_gradients(session, records, made, request, [&](int64_t i) { return records[static_cast<size_t>(i)].source; });
    const auto file = safetensors::File::open(dir / "weights.safetensors");
    std::map<std::string, std::vector<float>> found;
    for (const auto& info : file->tensors()) {
      found[info.name].resize(static_cast<size_t>(info.elements()));
      std::memcpy(found[info.name].data(), file->data(info), info.bytes);
    }
    return found;
  }
};

}  // namespace

TEST_CASE("weight gradients: names, and what is refused") {
  const Weighing setup("olmoe");
  const auto count = [&](const std::string& globs) { return wanted_weights(globs, setup.session).size(); };
  const auto n_layers = static_cast<size_t>(setup.session.model.n_layers()),
             n_experts = static_cast<size_t>(setup.session.model.n_experts());
  CHECK(count("router") == n_layers);
  CHECK(count("layer.1.router,layer.1.router") == 1);
  CHECK(count("layer.1.expert.*") == 3 * n_experts);
  CHECK(count("expert.3.down") == n_layers);
  CHECK(count("embed,lm_head,final_norm") == 3);
  CHECK_THROWS_WITH_AS(count("layer.99.router"),
                       "--weights: expected GLOB[,GLOB...] of names such as embed, layer.3.q, layer.3.router or "
                       "layer.3.expert.5.gate, found \"layer.99.router\", which names none of this model",
                       UsageError);
  CHECK_THROWS_WITH_AS(
      wanted_weights("*.gate", Weighing("gpt_oss_mxfp4").session),
      "--weights: expected weights of F32, F16 or BF16, found layer.0.expert.0.gate, which is stored as "
      "MXFP4",
      UsageError);
}

TEST_CASE("weight gradients: sums and means over records, whatever shares a run; a router's from its logits'") {
  const Weighing setup("qwen2_moe");
  const test::TemporaryDirectory dir;
  const std::string names = "router,embed,lm_head,*norm,q,q.bias,expert.*,shared.*";
  const auto sum = setup.run(dir / "sum", names, "router.logits", false, 1),
             together = setup.run(dir / "together", names, "", false, 8),
             mean = setup.run(dir / "mean", names, "", true, 8);
  CHECK(test::read_file(dir / "sum/weights.safetensors") == test::read_file(dir / "together/weights.safetensors"));
  for (const auto& [name, values] : sum)
    for (size_t i = 0; i < values.size(); ++i) REQUIRE(mean.at(name)[i] == values[i] * 0.5f);
  const json::Value summary = json::parse_file(dir / "mean/summary.json");
  CHECK(json::Ref(summary, "summary").at("weights").at("over_records").string() == "mean");
  CHECK_FALSE(TraceReader(dir / "together").has("grad.router.logits"));
  // W_r = z^T h.
  const int64_t d = setup.session.model.d_model, n_experts = setup.session.model.n_experts();
  TraceRequest request;
  request.dir = dir / "values";
  request.points = PointSet::parse("*.router.in", setup.session.shape);
  setup.session.trace(setup.made.jobs, setup.session.options, request,
                      [&](int64_t i) { return setup.records[static_cast<size_t>(i)].source; }, {});
  const auto values = safetensors::File::open(dir / "values/trace.safetensors"),
             slopes = safetensors::File::open(dir / "sum/trace.safetensors");
  const auto& z_info = slopes->at("grad.router.logits");
  const auto* z = reinterpret_cast<const float*>(slopes->data(z_info));
  const std::vector<int32_t> layers = setup.session.model.moe_layers();
  for (size_t l = 0; l < layers.size(); ++l) {
    const std::string layer = "layer." + std::to_string(layers[l]);
    const auto* h = reinterpret_cast<const float*>(values->data(values->at(layer + ".router.in")));
    const std::vector<float>& got = sum.at("grad.weight." + layer + ".router");
    double largest = 0;
    for (const float x : got) largest = std::max(largest, static_cast<double>(std::fabs(x)));
    CHECK(largest > 0);
    for (int64_t e = 0; e < n_experts; ++e)
      for (int64_t c = 0; c < d; ++c) {
        double want = 0;
        for (int64_t t = 0; t < z_info.shape[0]; ++t)
          want += static_cast<double>(z[(t * z_info.shape[1] + static_cast<int64_t>(l)) * n_experts + e]) *
                  static_cast<double>(h[t * d + c]);
        REQUIRE(std::fabs(static_cast<double>(got[static_cast<size_t>(e * d + c)]) - want) <= 1e-5 * largest);
      }
  }
}
