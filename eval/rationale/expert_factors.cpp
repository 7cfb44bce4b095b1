#include "eval/rationale/expert_factors.h"

#include <algorithm>
#include <set>

#include "base/error.h"
#include "eval/causal/recorded_run.h"
#include "eval/detect/selection.h"
#include "probes/edit_spec.h"

namespace signalbox::eval {

using namespace engine;
using namespace probes;

namespace {

json::Value experts_json(const ExpertSet& set) {
  json::Value layers = json::Value::object();
  for (const auto& [layer, experts] : set) {
    json::Value list = json::Value::array();
    for (const int32_t e : experts) list.push_back(int64_t{e});
    layers.set(std::to_string(layer), std::move(list));
  }
  return layers;
}

json::Value ban_json(const ExpertSet& set) {
  return json::Value::object().set("op", "deactivate").set("mode", "ban").set("experts", experts_json(set));
}

std::shared_ptr<const EditPlan> plan_of(const Session& session, const json::Value& edits) {
  return session.edits(json::Ref(edits, "edits"), ".", 0);
}

}  // namespace

TokenRoutes token_routes(const Session& session, const ChoiceRecord& record, const std::vector<int32_t>& layers) {
  Job job;
  job.prompt = std::make_shared<const Prompt>(record.id, record.tokens);
  job.task = Generate{};
  std::string globs;
  for (const int32_t l : layers)
    globs += (globs.empty() ? "" : ",") + point_name(Point::router_ids, l) + "," + point_name(Point::router_weights, l);
  const RecordedRun run = record_run(session, job, 0, PointSet::parse(globs, session.shape), "routes");
  const Recording::Rows rows = run.store->rows(0);
  const std::vector<int32_t> ids = run.store->ids(rows);
  const std::vector<float> weights = run.store->weights(rows);
  TokenRoutes routes;
  routes.layers = run.store->layers();
  routes.n_experts = run.store->n_experts();
  const auto n_layers = routes.layers.size(), n_slots = static_cast<size_t>(run.store->n_slots());
  const auto n_tokens = record.tokens.size(), n_experts = static_cast<size_t>(routes.n_experts);
  routes.shares.assign(n_layers, std::vector<double>(n_tokens * n_experts, 0));
  routes.selected.assign(n_layers, std::vector<bool>(n_tokens * n_experts, false));
  for (size_t t = 0; t < n_tokens; ++t)
    for (size_t l = 0; l < n_layers; ++l) {
      const size_t first = (t * n_layers + l) * n_slots;
      double sum = 0;
      for (size_t k = 0; k < n_slots; ++k) sum += ids[first + k] >= 0 ? static_cast<double>(weights[first + k]) : 0;
      for (size_t k = 0; k < n_slots; ++k) {
        if (ids[first + k] < 0) continue;
        const size_t at = t * n_experts + static_cast<size_t>(ids[first + k]);
        routes.selected[l][at] = true;
        if (sum > 0) routes.shares[l][at] += static_cast<double>(weights[first + k]) / sum;
      }
    }
  return routes;
}

std::vector<double> route_scores(const ChoiceRecord& record, const TokenRoutes& routes, const ExpertSet& set) {
  std::vector<double> scores;
  for (const auto& word : record.words) {
    double sum = 0;
    for (const int64_t t : word)
      for (size_t l = 0; l < routes.layers.size(); ++l)
        if (const auto found = set.find(routes.layers[l]); found != set.end())
          for (const int32_t e : found->second)
            sum +=
                routes
                    .shares[l][static_cast<size_t>(t) * static_cast<size_t>(routes.n_experts) + static_cast<size_t>(e)];
    scores.push_back(word.empty() ? 0 : sum / static_cast<double>(word.size() * routes.layers.size()));
  }
  return scores;
}

ExpertDetection detect_experts(const Session& session, const std::vector<ChoiceRecord>& records,
                               const DetectionSettings& settings, const std::function<void(int64_t)>& on_record) {
  ExpertDetection made;
  ContrastCounts counts;
  made.usage.assign(session.model.layers.size(), {});
  std::vector<double> used, used_by_evidence;
  double n_tokens = 0, n_evidence = 0;
  for (size_t r = 0; r < records.size(); ++r) {
    const ChoiceRecord& record = records[r];
    const TokenRoutes routes = token_routes(session, record, settings.layers);
    counts.layers = routes.layers;
    counts.n_experts = routes.n_experts;
    const size_t n_experts = static_cast<size_t>(routes.n_experts), n_rows = counts.n_rows();
    used.resize(n_rows, 0);
    used_by_evidence.resize(n_rows, 0);
    for (const bool gold : {true, false}) {
      ContrastRecord side;
      side.id = record.id + (gold ? "/evidence" : "/rest");
      side.pair = record.id;
      side.under_b = !gold;
      side.prompts = {side.id};
      std::vector<uint32_t> selected(n_rows, 0);
      for (size_t w = 0; w < record.words.size(); ++w) {
        if (record.gold[w] != gold) continue;
        for (const int64_t t : record.words[w]) {
          ++side.tokens;
          for (size_t l = 0; l < routes.layers.size(); ++l)
            for (size_t e = 0; e < n_experts; ++e)
              selected[l * n_experts + e] += routes.selected[l][static_cast<size_t>(t) * n_experts + e];
        }
      }
      if (side.tokens == 0) {
        ++counts.n_records_without_tokens;
        continue;
      }
      n_tokens += static_cast<double>(side.tokens);
      if (gold) n_evidence += static_cast<double>(side.tokens);
      for (size_t i = 0; i < n_rows; ++i) {
        used[i] += selected[i];
        if (gold) used_by_evidence[i] += selected[i];
      }
      counts.records.push_back(std::move(side));
      counts.selected.insert(counts.selected.end(), selected.begin(), selected.end());
      ++counts.n_samples;
    }
    made.gold_share += static_cast<double>(record.n_gold()) /
                       static_cast<double>(record.n_words() * static_cast<int64_t>(records.size()));
    if (on_record) on_record(static_cast<int64_t>(r) + 1);
  }
  ContrastOptions options;
  options.a = "evidence";
  options.b = "rest";
  options.seed = settings.seed;
  options.resamples = settings.resamples;
  options.threads = settings.threads;
  made.detection = detect(counts, options);
  const auto n_experts = static_cast<size_t>(counts.n_experts);
  for (size_t l = 0; l < counts.layers.size(); ++l) {
    auto& row = made.usage[static_cast<size_t>(counts.layers[l])];
    for (size_t e = 0; e < n_experts; ++e) row.push_back(used[l * n_experts + e] / n_tokens);
  }
  std::vector<RiskDifference> ranked = top_experts(made.detection.rows, made.detection.rows.size(), 1);
  if (settings.by_usage) {
    const auto use = [&](const RiskDifference& row) {
      const size_t l =
          static_cast<size_t>(std::find(counts.layers.begin(), counts.layers.end(), row.layer) - counts.layers.begin());
      return used_by_evidence[l * n_experts + static_cast<size_t>(row.expert)] / n_evidence;
    };
    std::stable_sort(ranked.begin(), ranked.end(), [&](const auto& a, const auto& b) {
      return std::tuple(-use(a), a.layer, a.expert) < std::tuple(-use(b), b.layer, b.expert);
    });
  }
  for (const RiskDifference& row : ranked) {
    if (static_cast<int64_t>(made.chosen.size()) == settings.top) break;
    if (!settings.by_usage && !(row.value() > 0)) break;
    const Router& router = session.model.layers[static_cast<size_t>(row.layer)].moe()->router;
    std::vector<int32_t>& experts = made.set[row.layer];
    if (static_cast<int32_t>(experts.size()) + router.n_active >= router.n_experts) continue;
    experts.push_back(row.expert);
    made.chosen.push_back(row);
  }
  std::erase_if(made.set, [](const auto& layer) { return layer.second.empty(); });
  if (made.set.empty())
    throw Error("detection", "expected an expert that evidence selects more often than other tokens do, found none");
  for (auto& [layer, experts] : made.set) std::sort(experts.begin(), experts.end());
  return made;
}

std::shared_ptr<const EditPlan> ban_set(const Session& session, const ExpertSet& set) {
  json::Value edits = json::Value::array();
  edits.push_back(ban_json(set));
  return plan_of(session, edits);
}

std::shared_ptr<const EditPlan> keep_set(const Session& session, const ExpertSet& set) {
  json::Value edits = json::Value::array();
  ExpertSet others;
  for (const auto& [layer, experts] : set) {
    const Router& router = session.model.layers[static_cast<size_t>(layer)].moe()->router;
    const auto size = static_cast<int64_t>(experts.size());
    if (size < router.n_active)
      edits.push_back(json::Value::object()
                          .set("op", "top_k")
                          .set("k", size)
                          .set("layers", std::to_string(layer))
                          .set("weights", "preserve_mass"));
    for (int32_t e = 0; e < router.n_experts; ++e)
      if (!std::binary_search(experts.begin(), experts.end(), e)) others[layer].push_back(e);
  }
  edits.push_back(ban_json(others).set("weights", "preserve_mass"));
  return plan_of(session, edits);
}

std::vector<ExpertSet> matched_sets(const Session& session, const ExpertSet& set, const UsageTable& usage,
                                    uint64_t seed, int64_t n) {
  json::Value edits = json::Value::array();
  edits.push_back(ban_json(set));
  const NamedExperts named(json::Ref(edits, "edits"), ".", session.shape);
  std::vector<ExpertSet> sets;
  for (const Replacement& replacement : named.frequency_matched(usage, seed, "experts as factors", n)) {
    ExpertSet other;
    for (const auto& [layer, experts] : set) {
      for (const int32_t e : experts)
        other[layer].push_back(replacement[static_cast<size_t>(layer)][static_cast<size_t>(e)]);
      std::sort(other[layer].begin(), other[layer].end());
    }
    sets.push_back(std::move(other));
  }
  return sets;
}

}  // namespace signalbox::eval
