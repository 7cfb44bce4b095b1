// What is counted of edits equals what a recording says, computed here anew, and does not depend on being recorded.
#include <doctest/doctest.h>

#include <cmath>

#include "kernels/shim/shim_backend.h"
#include "tests/forward/job_runs.h"

namespace {

using namespace signalbox;
using namespace signalbox::test;

// WIDER: one expert more than the model selects; FIRST: the first layer with a router.
const std::vector<std::string> lists = {
    R"([{"op":"deactivate","mode":"ban","experts":[0,2],"tokens":{"positions":"3:9"}}])",
    R"([{"op":"misroute","policy":"random","tokens":{"fraction":0.4}}])",
    R"([{"op":"misroute","policy":"swap_last","weights":"keep_slot","tokens":{"margin_below":0.02}}])",
    R"([{"op":"top_k","k":WIDER,"layers":"FIRST","tokens":{"phase":"generated"}}])",
    R"([{"op":"top_k","k":1,"tokens":{"span":"middle"}}])",
    R"([{"op":"scale_expert","by":0.5,"experts":[1]},{"op":"temperature","t":1.5,"tokens":{"positions":"12:"}}])",
    R"([{"op":"scale_expert","by":1,"experts":[1]}])",
};

// The family's own weights of the experts that an unedited router chose, from what a recording holds.
std::vector<float> own_weights(const Router& router, const float* logits, const float* scores,
                               const std::vector<int32_t>& ids) {
  std::vector<float> weights;
  for (const int32_t e : ids) weights.push_back(scores[e]);
  if (router.softmax_over_selected) {
    float top = -INFINITY;
    for (const int32_t e : ids) top = std::max(top, logits[e]);
    double sum = 0;
    for (size_t i = 0; i < ids.size(); ++i) {
      weights[i] = static_cast<float>(std::exp(static_cast<double>(logits[ids[i]] - top)));
      sum += weights[i];
    }
    for (float& w : weights) w /= static_cast<float>(sum);
  }
  if (router.renormalize) {
    float sum = 0;
    for (const float w : weights) sum += w;
    sum += router.renormalize_epsilon;
    for (float& w : weights) w /= sum;
  }
  for (float& w : weights) w *= router.scale;
  return weights;
}

using Points = std::map<std::string, MemorySink::Values>;

struct Slots {
  std::map<int32_t, float> original, applied;  // expert -> weight
};

Slots slots_at(const Model& model, const Points& points, int32_t layer, int64_t t) {
  const std::string at = "layer." + std::to_string(layer) + ".router.";
  const auto row = [&](const std::string& name) {
    const MemorySink::Values& values = points.at(at + name);
    return values.data.data() + t * values.width;
  };
  const int64_t n = points.at(at + "ids").width;
  Slots slots;
  std::vector<int32_t> original;
  for (int64_t i = 0; i < n; ++i) {
    if (row("ids")[i] >= 0) slots.applied[static_cast<int32_t>(row("ids")[i])] = row("weights")[i];
    if (row("original_ids")[i] >= 0) original.push_back(static_cast<int32_t>(row("original_ids")[i]));
  }
  const Router& router = std::get<Moe>(model.layers[static_cast<size_t>(layer)].ffn).router;
  const std::vector<float> weights = own_weights(router, row("logits"), row("scores"), original);
  for (size_t i = 0; i < original.size(); ++i) slots.original[original[i]] = weights[i];
  return slots;
}

// The tokens of the conditions above, by their words: whether edit `list` acts at a token of a layer.
bool acts(size_t list, const Job& job, const Points& points, int32_t first, int32_t layer, int64_t t) {
  switch (list) {
    case 0: return t >= 3 && t < 9;
    case 1: return t >= 0;  // told by the routes below: a share of the tokens is rerouted
    case 2: return points.at("layer." + std::to_string(layer) + ".router.margin").data[static_cast<size_t>(t)] < 0.02f;
    case 3: return layer == first && t >= job.n_given();
    case 4: return t >= job.spans[0].begin && t < job.spans[0].end;
    case 5: return true;
    default: return false;
  }
}

std::vector<Job> jobs_of(const Loaded& model) {
  std::vector<Job> jobs;
  const auto prompt = model.prompt("r", 14, 3), longer = model.prompt("r", 4, 9, prompt->tokens);
  const auto put = [](std::string& text, const std::string& name, int64_t value) {
    if (const size_t at = text.find(name); at != std::string::npos)
      text.replace(at, name.size(), std::to_string(value));
  };
  for (std::string list : lists) {
    put(list, "WIDER", model.loaded.model.n_active() + 1);
    put(list, "FIRST", model.loaded.model.moe_layers().front());
    const Plan plan = model.plan(list);
    for (int kind = 0; kind < 4; ++kind) {
      Job job;
      job.index = static_cast<int64_t>(jobs.size());
      job.prompt = kind == 0 ? prompt : longer;
      job.prefix = prompt;
      job.plan = plan;
      job.spans = {{"middle", 5, 8}};
      if (kind == 0) job.task = Generate{6, {}};
      if (kind == 1) job.task = Score{14, {}};
      if (kind == 2) job.task = Score{0, {}};
      if (kind == 3) job.task = Score{18, {}};  // nothing is predicted
      jobs.push_back(std::move(job));
    }
  }
  return jobs;
}

EditCounts total(const Result& result) {
  EditCounts sum = result.prefix_edits;
  return sum += result.later_edits;
}

EditCounts expected(const Model& model, const Job& job, const Result& result, const Points& points, size_t list) {
  int64_t n = job.n_given() + std::max<int64_t>(0, static_cast<int64_t>(result.tokens.size()) - 1);
  if (job.score() && job.score()->from > 0) n = job.score()->from < n ? n - 1 : 0;
  EditCounts want;
  for (int64_t t = 0; t < n; ++t) {
    bool token = false;
    for (const int32_t layer : model.moe_layers()) {
      const Slots slots = slots_at(model, points, layer, t);
      int64_t changed = 0, n_slots = static_cast<int64_t>(std::max(slots.original.size(), slots.applied.size()));
      for (const auto& [expert, weight] : slots.original) {
        const auto found = slots.applied.find(expert);
        changed -= found != slots.applied.end() && found->second == weight;
      }
      changed += n_slots;
      const bool here = list == 1 ? changed > 0 : acts(list, job, points, model.moe_layers().front(), layer, t);
      if (!here) CHECK(changed == 0);
      token = token || here;
      want.slots += n_slots;
      want.edited_slots += changed;
    }
    ++want.tokens;
    want.edited_tokens += token;
  }
  return want;
}

void check_counts(const char* name, bool on_device) {
  CAPTURE(std::string(name));
  Loaded model(name);
  if (on_device) {
    CudaOptions device;
    device.invariant = true;
    model.move_to(make_shim_backend(device));
  }
  const std::vector<Job> jobs = jobs_of(model);
  MemorySink sink(PointSet::parse("*.router.*", probe_shape(model.loaded.model)));
  const Outcome recorded = run(model, jobs, {}, &sink);
  int64_t edited = 0;
  for (const Job& job : jobs) {
    CAPTURE(job.index);
    const Result& result = recorded.results.at(job.index);
    const EditCounts want =
        expected(model.loaded.model, job, result, sink.samples.at(job.index), static_cast<size_t>(job.index) / 4);
    const EditCounts found = total(result);
    CHECK(found.tokens == want.tokens);
    CHECK(found.edited_tokens == want.edited_tokens);
    CHECK(found.slots == want.slots);
    CHECK(found.edited_slots == want.edited_slots);
    CHECK(result.prefix_edits.tokens == std::min<int64_t>(14, want.tokens));
    edited += found.edited_slots;
  }
  CHECK(edited > 300);
  RunOptions options;
  options.batch = 5;
  options.chunk = 6;
  check_same(run(model, jobs, options).results, recorded.results);
}

}  // namespace

TEST_CASE("edit counts: they are those of a recording, which they do not depend on") {
  for (const char* name : {"deepseek_v2_lite", "qwen3_moe", "gpt_oss"}) check_counts(name, false);
}

TEST_CASE("edit counts: those of a device are those of its recording" *
          doctest::test_suite("repeats: a device's forward, which others run too")) {
  check_counts("deepseek_v2_lite", true);
}

TEST_CASE("edit counts: a write to a point counts its tokens, once, and no slot") {
  const Loaded model("deepseek_v2_lite");
  const auto count = [&](const std::string& edits, std::variant<Generate, Score> task) {
    Job job;
    job.prompt = model.prompt("r", 14, 3);
    job.plan = model.plan(edits);
    job.spans = {{"middle", 5, 8}};
    job.task = std::move(task);
    return total(run(model, {job}).results.at(0));
  };
  const std::string at = R"(","value":"zero","tokens":{"positions":"4:7"}})";
  const EditCounts two = count(
      R"([{"op":"ablate","point":"resid_mid)" + at + R"(,{"op":"ablate","point":"attn.k)" + at + "]", Generate{3, {}});
  CHECK(two == EditCounts{16, 3, two.slots, 0});
  const std::string embed = R"([{"op":"ablate","point":"embed","value":"zero","tokens":{)";
  CHECK(count(embed + R"("span":"middle"}}])", Score{1, {}}).edited_tokens == 3);
  CHECK(count(embed + R"("phase":"generated"}}])", Generate{4, {}}).edited_tokens == 3);
  // Beside edits of routes a token counts once.
  const EditCounts both = count(embed + R"("positions":"0:5"}},{"op":"misroute","policy":"worst","layers":"1",
                                            "tokens":{"positions":"3:8"}}])",
                                Score{0, {}});
  CHECK(both.edited_tokens == 8);
  CHECK(both.edited_slots > 0);
  // A row per slot: tokens without one of the experts are not written to.
  const std::string of_expert = R"([{"op":"ablate","point":"layer.1.expert.out","value":"zero","experts":)";
  const EditCounts some = count(of_expert + "[1]}]", Score{0, {}}),
                   all = count(of_expert + "[0,1,2,3,4,5,6,7]}]", Score{0, {}});
  CHECK(some.edited_tokens > 0);
  CHECK(some.edited_tokens < 14);
  CHECK(all.edited_tokens == 14);
}
