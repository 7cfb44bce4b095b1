// expert.norm, expert.update_share and expert.direct against numbers made of the reference implementation's tensors,
// and the lens that direct effects go through: the parts of the residual stream add up to the logits, in every family.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <filesystem>

#include "base/half.h"
#include "base/safetensors.h"
#include "engine/lens.h"
#include "eval/data/records.h"
#include "probes/trace.h"
#include "tests/forward/job_runs.h"
#include "tests/tolerances.h"

namespace {

using namespace signalbox;
using namespace signalbox::test;
using namespace signalbox::eval;
namespace fs = std::filesystem;

const fs::path goldens = source_dir() / "tests/goldens";
const char* const families[] = {"deepseek_v2_full", "deepseek_v2_lite", "gpt_oss", "mixtral", "olmoe",
                                "qwen2_moe",        "qwen3_moe"};
const char* const other_models[] = {"gpt_oss_mxfp4", "mixtral_bf16", "mixtral_window_f16", "qwen2_moe_step_bf16"};

using Doubles = std::vector<double>;

Doubles doubles(const safetensors::File& file, const std::string& name) {
  const auto& info = file.at(name);
  Doubles out(static_cast<size_t>(info.elements()));
  for (size_t i = 0; i < out.size(); ++i) {
    const std::byte* from = file.data(info) + i * dtype_size(info.type);
    if (info.type == DType::bf16) {
      uint16_t half;
      std::memcpy(&half, from, 2);
      out[i] = float_of_bf16(half);
      continue;
    }
    uint32_t bits;
    std::memcpy(&bits, from, 4);
    float value;
    std::memcpy(&value, &bits, 4);
    out[i] = info.type == DType::i32 ? static_cast<double>(static_cast<int32_t>(bits)) : static_cast<double>(value);
  }
  return out;
}

// A tensor of the checkpoint, as its files hold it.
Doubles stored(const std::string& family, const std::string& name, const std::string& otherwise = "") {
  for (const std::string& wanted : {name, otherwise})
    for (const auto& entry : fs::directory_iterator(goldens / family / "model"))
      if (entry.path().extension() == ".safetensors")
        if (const auto file = safetensors::File::open(entry.path()); file->find(wanted)) return doubles(*file, wanted);
  FAIL("no tensor " << name);
  return {};
}

std::shared_ptr<Prompt> given(const std::string& family) {
  const auto records = read_records((goldens / family / "records.jsonl").string());
  auto prompt = std::make_shared<Prompt>("p0");
  prompt->tokens = encode_record(records[0], {}, span_names(records)).prompt->tokens;
  return prompt;
}

struct Recorded {
  std::map<int64_t, std::map<std::string, MemorySink::Values>> points;
  Outcome outcome;
};
Recorded record(const Loaded& model, const std::vector<Job>& jobs, const std::string& points,
                const RunOptions& options = {}) {
  MemorySink sink(PointSet::parse(points, probe_shape(model.loaded.model)));
  Recorded out;
  out.outcome = run(model, jobs, options, &sink);
  out.points = std::move(sink.samples);
  return out;
}

Job job_of(int64_t index, std::shared_ptr<const Prompt> prompt, int64_t max_new) {
  Job job;
  job.index = index;
  job.prompt = std::move(prompt);
  job.task = Generate{max_new, {}};
  return job;
}

std::string at_layer(int64_t layer, const char* point) { return "layer." + std::to_string(layer) + "." + point; }

// |a - b| <= limit * the largest |b|, NaN equal to NaN.
void check_near(const std::vector<float>& found, const Doubles& expected, double limit) {
  REQUIRE(found.size() == expected.size());
  double largest = 0, worst = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    CHECK(std::isnan(found[i]) == std::isnan(expected[i]));
    if (std::isnan(expected[i])) continue;
    largest = std::max(largest, std::abs(expected[i]));
    worst = std::max(worst, std::abs(found[i] - expected[i]));
  }
  CHECK(largest > 0);
  CAPTURE(largest);
  CHECK(worst <= limit * std::max(1.0, largest));
}

}  // namespace

TEST_CASE("expert shares: norm, share of the update and direct effect of the reference implementation's tensors") {
  for (const char* const family : families) {
    CAPTURE(std::string(family));
    const Loaded model(family);
    const Model& shape = model.loaded.model;
    const auto d = static_cast<size_t>(shape.d_model), n_vocab = static_cast<size_t>(shape.n_vocab);
    const auto golden = safetensors::File::open(goldens / family / "base.safetensors");
    const Doubles head = stored(family, "lm_head.weight", "model.embed_tokens.weight"),
                  gamma = stored(family, "model.norm.weight"), tokens = doubles(*golden, "tokens"),
                  stream = doubles(*golden, at_layer(shape.n_layers() - 1, "resid_out"));
    const Recorded found =
        record(model, {job_of(0, given(family), 0)}, "expert.norm,expert.update_share,expert.direct");
    const size_t n_tokens = tokens.size();
    for (const int32_t layer : shape.moe_layers()) {
      CAPTURE(layer);
      const Doubles outputs = doubles(*golden, at_layer(layer, "expert.out")),
                    weights = doubles(*golden, at_layer(layer, "router.weights")),
                    update = doubles(*golden, at_layer(layer, "moe.out"));
      const size_t k = weights.size() / n_tokens;
      Doubles norms, shares, directs;
      for (size_t t = 0; t < n_tokens; ++t) {
        double squares = 0, of_update = 0;
        for (size_t c = 0; c < d; ++c) squares += stream[t * d + c] * stream[t * d + c];
        for (size_t c = 0; c < d; ++c) of_update += update[t * d + c] * update[t * d + c];
        const double divisor = std::sqrt(squares / static_cast<double>(d) + static_cast<double>(shape.norm_eps));
        for (size_t i = t * k; i < (t + 1) * k; ++i) {
          double square = 0, projection = 0;
          for (size_t c = 0; c < d; ++c) {
            const double part = weights[i] * outputs[i * d + c];
            square += part * part;
            projection += part * update[t * d + c];
          }
          norms.push_back(std::sqrt(square));
          shares.push_back(projection / of_update);
          // The share in every token's logit, then that of the next token over their mean.
          double mean = 0, next = NAN;
          for (size_t v = 0; v < n_vocab; ++v) {
            double logit = 0;
            for (size_t c = 0; c < d; ++c)
              logit += head[v * d + c] * gamma[c] * weights[i] * outputs[i * d + c] / divisor;
            mean += logit / static_cast<double>(n_vocab);
            if (t + 1 < n_tokens && v == static_cast<size_t>(tokens[t + 1])) next = logit;
          }
          directs.push_back(next - mean);
        }
      }
      const auto& points = found.points.at(0);
      check_near(points.at(at_layer(layer, "expert.norm")).data, norms, tolerance::forward);
      check_near(points.at(at_layer(layer, "expert.update_share")).data, shares, tolerance::forward);
      check_near(points.at(at_layer(layer, "expert.direct")).data, directs, tolerance::forward);
    }
  }
}

TEST_CASE("lens: embedding, attention and every block's parts add up to the logits") {
  std::vector<std::string> names(std::begin(families), std::end(families));
  names.insert(names.end(), std::begin(other_models), std::end(other_models));
  for (const std::string& family : names) {
    CAPTURE(family);
    const Loaded model(family);
    const Model& shape = model.loaded.model;
    const auto n_vocab = static_cast<size_t>(shape.n_vocab);
    auto points = record(model, {job_of(0, given(family), 0)}, "*").points.at(0);
    const auto n_tokens = static_cast<size_t>(points.at("embed").rows());
    Lens lens(*model.backend, shape, model.weights);
    const Doubles divisors = lens.divisors(points.at(at_layer(shape.n_layers() - 1, "resid_out")).data);
    Doubles sum(n_tokens * n_vocab, 0);
    const auto add = [&](const std::vector<float>& parts) {
      std::vector<float> logits(sum.size());
      lens.logits(parts, divisors, logits);
      for (size_t i = 0; i < sum.size(); ++i) sum[i] += logits[i];
      return logits;
    };
    add(points.at("embed").data);
    for (int64_t l = 0; l < shape.n_layers(); ++l) {
      add(points.at(at_layer(l, "attn.out")).data);
      const Moe* moe = shape.layers[static_cast<size_t>(l)].moe();
      if (!moe) {
        add(points.at(at_layer(l, "mlp.out")).data);
        continue;
      }
      if (moe->d_ff_shared > 0) add(points.at(at_layer(l, "shared.out")).data);
      // Slot by slot: by ascending expert here, in slot order in expert.direct.
      const auto& contributions = points.at(at_layer(l, "expert.contribution"));
      const auto& ids = points.at(at_layer(l, "router.ids"));
      const auto& direct = points.at(at_layer(l, "expert.direct"));
      const auto k = static_cast<size_t>(ids.width), d = static_cast<size_t>(shape.d_model);
      for (size_t place = 0; place < k; ++place) {
        std::vector<float> parts;
        for (size_t t = 0; t < n_tokens; ++t) {
          const auto from = contributions.data.begin() + static_cast<int64_t>((t * k + place) * d);
          parts.insert(parts.end(), from, from + static_cast<int64_t>(d));
        }
        const std::vector<float> logits = add(parts);
        const std::shared_ptr<const Prompt> prompt = given(family);
        for (size_t t = 0; t + 1 < n_tokens; ++t) {
          double mean = 0;
          for (size_t v = 0; v < n_vocab; ++v) mean += logits[t * n_vocab + v] / static_cast<double>(n_vocab);
          std::vector<float> route(ids.data.begin() + static_cast<int64_t>(t * k),
                                   ids.data.begin() + static_cast<int64_t>((t + 1) * k));
          std::vector<float> sorted = route;
          std::sort(sorted.begin(), sorted.end());
          const auto slot = std::find(route.begin(), route.end(), sorted[place]) - route.begin();
          const double expected = logits[t * n_vocab + static_cast<size_t>(prompt->tokens[t + 1])] - mean;
          REQUIRE(std::abs(direct.data[t * k + static_cast<size_t>(slot)] - expected) <= 1e-4);
        }
      }
    }
    double worst = 0;
    for (size_t i = 0; i < sum.size(); ++i) worst = std::max(worst, std::abs(sum[i] - points.at("logits").data[i]));
    CHECK(worst <= 1e-4);
  }
}

TEST_CASE("expert shares: those of experts and the projection of the shared expert add up to 1") {
  for (const char* const family : {"deepseek_v2_lite", "qwen2_moe", "olmoe"}) {
    CAPTURE(std::string(family));
    const Loaded model(family);
    const auto points = record(model, {job_of(0, given(family), 0)}, "*").points.at(0);
    for (const int32_t layer : model.loaded.model.moe_layers()) {
      const auto& shares = points.at(at_layer(layer, "expert.update_share"));
      const auto& update = points.at(at_layer(layer, "moe.out"));
      const bool shared = model.loaded.model.layers[static_cast<size_t>(layer)].moe()->d_ff_shared > 0;
      for (int64_t t = 0; t < shares.rows(); ++t) {
        double sum = 0, square = 0, projection = 0;
        for (int64_t i = 0; i < shares.width; ++i) sum += shares.data[static_cast<size_t>(t * shares.width + i)];
        for (int64_t c = 0; c < update.width; ++c) {
          const auto at = static_cast<size_t>(t * update.width + c);
          const double m = update.data[at];
          square += m * m;
          if (shared) projection += m * points.at(at_layer(layer, "shared.out")).data[at];
        }
        REQUIRE(sum + projection / square == doctest::Approx(1).epsilon(1e-5));
        if (shared) REQUIRE(std::abs(projection / square) > 1e-4);
      }
    }
  }
}

TEST_CASE("expert shares: of generated tokens, at any batch and chunk, beside jobs that score") {
  const Loaded model("olmoe");
  const Model& shape = model.loaded.model;
  const auto d = static_cast<size_t>(shape.d_model);
  std::vector<Job> jobs;
  for (const int64_t length : {1, 5, 33, 40})
    jobs.push_back(job_of(static_cast<int64_t>(jobs.size()),
                          model.prompt("r" + std::to_string(jobs.size()), length, static_cast<uint32_t>(length)), 6));
  jobs.push_back(job_of(4, jobs[3].prompt, 0));
  jobs.back().task = Score{};
  jobs[1].plan = model.plan(R"([{"op":"scale_expert","by":0,"experts":[1,2,3]},{"op":"top_k","k":2}])");
  const std::string points =
      "expert.*,router.*,layer.1.moe.out,layer." + std::to_string(shape.n_layers() - 1) + ".resid_out";
  RunOptions one;
  one.batch = 1;
  one.chunk = 7;
  const Recorded base = record(model, jobs, points), other = record(model, jobs, points, one);
  Lens lens(*model.backend, shape, model.weights);
  for (const Job& job : jobs) {
    const int64_t sample = job.index;
    CAPTURE(sample);
    std::vector<int32_t> tokens = job.prompt->tokens;
    if (job.generate()) {
      const auto& made = base.outcome.results.at(sample).tokens;
      CHECK(made.size() == static_cast<size_t>(job.max_new()));
      tokens.insert(tokens.end(), made.begin(), made.end());
    }
    const auto& found = base.points.at(sample);
    for (const auto& point : found) {
      const std::string& name = point.first;
      const auto &values = point.second.data, &again = other.points.at(sample).at(name).data;
      CAPTURE(name);
      REQUIRE(again.size() == values.size());
      CHECK(std::memcmp(again.data(), values.data(), again.size() * sizeof(float)) == 0);
    }
    const Doubles divisors = lens.divisors(found.at(at_layer(shape.n_layers() - 1, "resid_out")).data);
    Doubles reader(d);
    for (const int32_t layer : shape.moe_layers()) {
      const auto &outputs = found.at(at_layer(layer, "expert.out")),
                 &weights = found.at(at_layer(layer, "router.weights")),
                 &direct = found.at(at_layer(layer, "expert.direct")), &norm = found.at(at_layer(layer, "expert.norm")),
                 &ids = found.at(at_layer(layer, "router.ids"));
      const auto k = static_cast<size_t>(weights.width);
      REQUIRE(direct.data.size() == tokens.size() * k);
      for (size_t t = 0; t < tokens.size(); ++t) {
        if (t + 1 < tokens.size()) lens.readers(std::span(tokens).subspan(t + 1, 1), reader);
        for (size_t i = t * k; i < (t + 1) * k; ++i) {
          double expected = 0;
          for (size_t c = 0; c < d; ++c)
            if (weights.data[i] != 0) expected += reader[c] * weights.data[i] * outputs.data[i * d + c] / divisors[t];
          if (t + 1 == tokens.size())
            CHECK(std::isnan(direct.data[i]));
          else
            REQUIRE(std::abs(direct.data[i] - expected) <= 1e-5);
          if (ids.data[i] < 0 || weights.data[i] == 0) CHECK(norm.data[i] == 0);
        }
      }
    }
  }
}

TEST_CASE("expert shares: a trace holds a number for each slot, layers stacked") {
  const Loaded model("qwen2_moe_step_bf16");
  const ModelShape shape = probe_shape(model.loaded.model);
  const TemporaryDirectory dir;
  TraceOptions options;
  options.dir = dir.path();
  options.shape = shape;
  options.points = PointSet::parse("expert.norm,expert.update_share,expert.direct", shape);
  const std::vector<Job> jobs = {job_of(0, model.prompt("a", 9, 1), 3), job_of(1, model.prompt("b", 4, 2), 0)};
  {
    TraceWriter writer(options);
    run(model, jobs, {}, &writer);
    const std::vector<std::string> ids = {"a", "b"};
    writer.finish(ids, [](int64_t i) { return json::Value::object().set("id", i == 0 ? "a" : "b"); });
  }
  const TraceReader trace(dir.path());
  const Recorded found = record(model, jobs, "expert.norm,expert.update_share,expert.direct");
  const std::vector<int32_t> layers = shape.moe_layers();
  CHECK(trace.layers() == layers);
  CHECK(trace.n_slots() == shape.n_active());
  for (const char* const name : {"expert.norm", "expert.update_share", "expert.direct"}) {
    CAPTURE(std::string(name));
    CHECK(trace.tensor_shape(name) == std::vector<int64_t>{16, static_cast<int64_t>(layers.size()), shape.n_active()});
    for (int64_t sample = 0; sample < 2; ++sample) {
      const TraceReader::Rows rows = trace.rows(sample);
      const std::vector<float> all = trace.floats(name, rows);
      const auto k = static_cast<size_t>(shape.n_active());
      for (size_t l = 0; l < layers.size(); ++l) {
        const auto& own = found.points.at(sample).at(at_layer(layers[l], name)).data;
        for (size_t t = 0; t < static_cast<size_t>(rows.size()); ++t)
          CHECK(std::memcmp(all.data() + (t * layers.size() + l) * k, own.data() + t * k, k * sizeof(float)) == 0);
      }
    }
  }
}
