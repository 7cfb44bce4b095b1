// Gradients of every point against PyTorch's autograd through an independent forward
// (tests/goldens/gradient_goldens.py), with and without edits, and what must hold exactly: identities of routers, bits
// that depend on nothing but the input.
#include "engine/gradient.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "base/safetensors.h"
#include "engine/device_weights.h"
#include "loaders/model/load.h"
#include "tests/memory_sink.h"
#include "tests/support.h"

namespace {

using namespace signalbox;
using namespace signalbox::tools;
namespace fs = std::filesystem;

const fs::path goldens = test::goldens_dir();
const char* const families[] = {
    "deepseek_v2_full", "deepseek_v2_lite",    "gpt_oss",  "gpt_oss_mxfp4", "mixtral", "mixtral_window_f16", "olmoe",
    "qwen2_moe",        "qwen2_moe_step_bf16", "qwen3_moe"};
constexpr int64_t n_target = 6;

using Points = std::map<std::string, test::MemorySink::Values>;

struct Ran {
  Points slopes, values;
  double metric = 0;
};

// A model of the goldens, ready for the sum of log p of the last tokens.
struct Setup {
  LoadedModel loaded;
  std::unique_ptr<Backend> backend;
  Weights weights;
  explicit Setup(const std::string& name, const CpuOptions& options = {})
      : loaded(load_model((goldens / name / "model").string())),
        backend(make_cpu_backend(options)),
        weights(upload_weights(*backend, loaded.model, loaded.weights, {})) {}

  PointSet points() const {
    std::string globs;
    for (const PointAt& at : PointSet::parse("*", probe_shape(loaded.model)).all())
      if (has_gradient(at.point) && at.point != Point::attn_pattern)
        globs += (globs.empty() ? "" : ",") + point_name(at.point, at.layer);
    return PointSet::parse(globs, probe_shape(loaded.model));
  }
  std::shared_ptr<const EditPlan> plan(const fs::path& file) const {
    return EditPlan::load(file, probe_shape(loaded.model), 0);
  }

  // The sequence `ids`, and before it in the same batch `others`, whose metric counts as well but is not looked at.
  Ran run(const std::vector<int32_t>& ids, const EditPlan* plan = nullptr,
          const std::vector<std::vector<int32_t>>& others = {}) const {
    KvPool pool(*backend, loaded.model, 16);
    Batch batch;
    std::vector<int32_t> targets;
    std::vector<SequenceCache> caches;
    caches.reserve(others.size() + 1);
    std::shared_ptr<const BoundEdits> bound;
    if (plan) bound = plan->bind({"e0", 0, static_cast<int64_t>(ids.size()), {{"doc", 3, 12}, {"question", 9, 17}}});
    const auto append = [&](const std::vector<int32_t>& tokens, int64_t sample, const BoundEdits* edits) {
      caches.emplace_back(pool);
      const int64_t n = static_cast<int64_t>(tokens.size());
      batch.append(caches.back(), edits, sample, tokens, {}, n, std::min(n, n_target + 1));
      for (int64_t t = n - std::min(n, n_target + 1); t < n; ++t)
        targets.push_back(t + 1 < n ? tokens[static_cast<size_t>(t + 1)] : -1);
    };
    for (size_t i = 0; i < others.size(); ++i) append(others[i], static_cast<int64_t>(i) + 1, nullptr);
    append(ids, 0, bound.get());
    const std::vector<float> factors(targets.size(), 1.f);
    Ran ran;
    test::MemorySink slopes(points()), values(PointSet::parse("*.router.ids", probe_shape(loaded.model)));
    Gradient gradient(*backend, loaded.model, weights, plan ? plan->max_slots() : 0);
    gradient.run(batch, &values, slopes, [&](Tensor logits, Tensor d_logits) {
      backend->log_probs_adjoint(d_logits, logits, targets.data(), factors.data(), false);
      std::vector<double> logp(targets.size());
      backend->log_probs(logp.data(), logits, targets.data());
      for (size_t i = targets.size() - std::min(ids.size(), size_t{n_target + 1}); i < targets.size(); ++i)
        if (targets[i] >= 0) ran.metric += logp[i];
    });
    ran.slopes = std::move(slopes.samples[0]);
    ran.values = std::move(values.samples[0]);
    return ran;
  }
};

std::vector<float> floats(const safetensors::File& file, const std::string& name) {
  const auto& info = file.at(name);
  REQUIRE(info.dtype == "F32");
  std::vector<float> out(info.elements());
  std::memcpy(out.data(), file.data(info), out.size() * 4);
  return out;
}

double number(const safetensors::File& file, const std::string& name) {
  double value;
  std::memcpy(&value, file.data(file.at(name)), sizeof value);
  return value;
}

std::vector<int32_t> tokens_of(const safetensors::File& file) {
  const json::Value listed = json::parse(file.metadata().at("tokens"), "tokens");
  std::vector<int32_t> ids;
  for (const json::Ref& id : json::Ref(listed, "tokens").items()) ids.push_back(static_cast<int32_t>(id.integer()));
  return ids;
}

// Largest difference, relative to the largest value.
double gap(const std::vector<float>& got, const std::vector<float>& want) {
  REQUIRE(got.size() == want.size());
  double most = 1e-30, apart = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    REQUIRE(std::isfinite(got[i]));
    most = std::max(most, static_cast<double>(std::fabs(want[i])));
    apart = std::max(apart, static_cast<double>(std::fabs(got[i] - want[i])));
  }
  return apart / most;
}

// f32 against double: both ways through three layers round about 1e-6 of the largest value.
constexpr double tolerance = 1e-4;

}  // namespace

TEST_CASE("gradient: every point of every family equals autograd's") {
  for (const std::string name : families) {
    CAPTURE(name);
    const auto file = safetensors::File::open(goldens / name / "gradients.safetensors");
    const Setup setup(name);
    const Ran ran = setup.run(tokens_of(*file));
    CHECK(ran.metric == doctest::Approx(number(*file, "base/metric")).epsilon(1e-5));
    size_t compared = 0;
    for (const auto& entry : ran.slopes) {
      const std::string& point = entry.first;
      CAPTURE(point);
      CHECK(gap(entry.second.data, floats(*file, "base/" + point)) < tolerance);
      ++compared;
    }
    size_t expected = 0;
    for (const auto& info : file->tensors()) expected += info.name.rfind("base/", 0) == 0 && info.name != "base/metric";
    CHECK(compared == expected);
  }
}

TEST_CASE("gradient: edited runs equal autograd's" *
          doctest::test_suite("repeats: the same adjoints, for some 500 edits")) {
  size_t compared = 0;
  for (const std::string name : families) {
    const auto file = safetensors::File::open(goldens / name / "gradients.safetensors");
    const Setup setup(name);
    const std::vector<int32_t> ids = tokens_of(*file);
    const size_t d_model = static_cast<size_t>(setup.loaded.model.d_model);
    for (const auto& info : file->tensors()) {
      const std::string& tensor = info.name;
      const size_t slash = tensor.find('/');
      const std::string edit = tensor.substr(0, slash);
      if (edit == "base" || tensor.substr(slash) != "/embed") continue;
      CAPTURE(name);
      CAPTURE(edit);
      const auto plan = setup.plan(goldens / name / "edits" / (edit + ".json"));
      const Ran ran = setup.run(ids, plan.get());
      CHECK(ran.metric == doctest::Approx(number(*file, edit + "/metric")).epsilon(1e-5));
      const std::vector<float>& slope = ran.slopes.at("embed").data;
      std::vector<float> projected;
      for (size_t t = 0; t < ids.size(); ++t) {
        for (int j = 0; j < 4; ++j) {
          double sum = 0;
          for (size_t i = 0; i < d_model; ++i)
            sum += static_cast<double>(slope[t * d_model + i]) * std::cos(0.37 * static_cast<double>(i + 1) * (j + 1));
          projected.push_back(static_cast<float>(sum));
        }
      }
      CHECK(gap(projected, floats(*file, tensor)) < tolerance);
      ++compared;
    }
  }
  CHECK(compared > 300);
}

TEST_CASE("gradient: bits depend on neither threads, instruction set nor what else is in the batch") {
  for (const std::string name : {"deepseek_v2_full", "gpt_oss_mxfp4", "qwen2_moe"}) {
    CAPTURE(name);
    const auto file = safetensors::File::open(goldens / name / "gradients.safetensors");
    const std::vector<int32_t> ids = tokens_of(*file);
    const auto bits = [&](const CpuOptions& options, const std::vector<std::vector<int32_t>>& others) {
      std::vector<float> all;
      for (const auto& [point, slope] : Setup(name, options).run(ids, nullptr, others).slopes)
        all.insert(all.end(), slope.data.begin(), slope.data.end());
      return all;
    };
    const std::vector<float> want = bits({1, "auto"}, {});
    const std::vector<int32_t> other(ids.rbegin(), ids.rend() - 5);
    for (const auto& [options, others] :
         {std::pair(CpuOptions{3, "auto"}, std::vector<std::vector<int32_t>>{}),
          std::pair(CpuOptions{1, "scalar"}, std::vector<std::vector<int32_t>>{}),
          std::pair(CpuOptions{2, "auto"}, std::vector<std::vector<int32_t>>{other, ids})}) {
      const std::vector<float> got = bits(options, others);
      REQUIRE(got.size() == want.size());
      CHECK(std::memcmp(got.data(), want.data(), got.size() * sizeof(float)) == 0);
    }
  }
}

TEST_CASE("gradient: what a router's rule says holds exactly") {
  for (const std::string name : families) {
    CAPTURE(name);
    const auto file = safetensors::File::open(goldens / name / "gradients.safetensors");
    const Setup setup(name);
    const Ran ran = setup.run(tokens_of(*file));
    for (const int32_t l : setup.loaded.model.moe_layers()) {
      const Router& router = setup.loaded.model.layers[static_cast<size_t>(l)].moe()->router;
      const auto& slope = ran.slopes.at(point_name(Point::router_logits, l)).data;
      const auto& ids = ran.values.at(point_name(Point::router_ids, l)).data;
      const size_t n_experts = static_cast<size_t>(router.n_experts), k = static_cast<size_t>(router.n_active);
      const bool among_chosen = router.softmax_over_selected || (router.renormalize && router.renormalize_epsilon == 0);
      size_t nonzero = 0, chosen = 0;
      double most = 0, sum = 0, largest_sum = 0;
      for (size_t i = 0; i < slope.size(); ++i) {
        if (i % n_experts == 0) sum = 0;
        sum += static_cast<double>(slope[i]);
        largest_sum = std::max(largest_sum, i % n_experts == n_experts - 1 ? std::fabs(sum) : 0.0);
        most = std::max(most, static_cast<double>(std::fabs(slope[i])));
        const auto route = ids.begin() + static_cast<int64_t>(i / n_experts * k);
        const bool is_chosen =
            std::count(route, route + static_cast<int64_t>(k), static_cast<float>(i % n_experts)) > 0;
        nonzero += slope[i] != 0 && !is_chosen;
        chosen += slope[i] != 0 && is_chosen;
      }
      CHECK(chosen > 0);
      if (among_chosen) {
        CHECK(nonzero == 0);  // experts that were not chosen have no part in the weights
      } else {
        CHECK(nonzero > 0);
      }
      CHECK(largest_sum <= 1e-5 * most);  // a softmax does not see what all logits have in common
    }
  }
}

TEST_CASE("gradient: one expert whose weight is renormalised has none; steermoe is refused by name") {
  const auto file = safetensors::File::open(goldens / "mixtral/gradients.safetensors");
  const Setup setup("mixtral");
  const auto one = setup.plan(goldens / "mixtral/edits/top_k_one.json");
  const Ran ran = setup.run(tokens_of(*file), one.get());
  for (const int32_t l : setup.loaded.model.moe_layers())
    for (const float x : ran.slopes.at(point_name(Point::router_logits, l)).data) CHECK(x == 0);
  const auto steered = setup.plan(goldens / "mixtral/edits/steermoe_on.json");
  CHECK_THROWS_WITH(
      setup.run(tokens_of(*file), steered.get()),
      "gradient: expected edits whose weights have a gradient, found mode steermoe with the model's weights "
      "(\"weights\": \"keep_scores\" has one)");
}
