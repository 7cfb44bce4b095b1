// What a study leaves: tables, the plan, and what is said of them.
#include <cmath>
#include <cstdio>

#include "base/csv.h"
#include "base/files.h"
#include "base/text.h"
#include "base/text_table.h"
#include "eval/compress/neurons.h"
#include "eval/compress/study.h"
#include "eval/findings/format.h"
#include "eval/routing/recording_identity.h"

namespace signalbox::eval {

namespace {

namespace fs = std::filesystem;

std::string experts_csv(const StudyResult& result) {
  CsvWriter csv({"layer", "expert", "frequency", "reap", "output_norm", "max_activation", "super_expert", "ablation",
                 "ablation_nll"});
  for (size_t l = 0; l < result.measures.size(); ++l) {
    const LayerMeasures& layer = result.measures[l];
    const auto super = result.super.find(layer.layer);
    for (int32_t e = 0; e < layer.n_experts; ++e) {
      const ExpertSums& expert = layer.experts[e];
      csv.cell(int64_t{layer.layer}).cell(int64_t{e});
      csv.cell(static_cast<double>(expert.tokens()) / static_cast<double>(result.tokens));
      csv.cell(expert.reap()).cell(expert.output_norm()).cell(expert.max_activation());
      csv.cell(int64_t{super != result.super.end() && std::count(super->second.begin(), super->second.end(), e) > 0});
      if (result.ablation.empty()) {
        csv.cell("").cell("");
      } else {
        csv.cell(result.ablation[l][e].kl).cell(result.ablation[l][e].nll);
      }
      csv.end_row();
    }
  }
  return csv.text();
}

json::Value super_json(const StudyResult& result) {
  json::Value out = json::Value::object();
  for (const auto& [layer, experts] : result.super) {
    json::Value ids = json::Value::array();
    for (const int32_t e : experts) ids.push_back(int64_t{e});
    out.set(std::to_string(layer), std::move(ids));
  }
  return out;
}

const QualityRow& row_of(const StudyResult& result, const std::string& plan, int64_t keep) {
  for (const QualityRow& row : result.rows)
    if (row.plan == plan && row.keep == keep) return row;
  return result.rows.front();
}

json::Value plan_json(const StudyResult& result, const StudyOptions& options, const json::Value& about) {
  json::Value plan = json::Value::object(), sizes = json::Value::array();
  plan.set("schema", "signalbox.compress/1");
  for (const char* key : {"model", "model_hash"})
    if (const json::Value* value = about.find(key)) plan.set(key, *value);
  plan.set("method", options.merges ? "merge" : "prune");
  plan.set("score", score_names[static_cast<size_t>(options.score)]).set("super_experts", super_json(result));
  plan.set("keep", result.plans.front().keep).set("layers", layers_json(result.plans.front()));
  for (const Plan& one : result.plans) {
    const QualityRow& row = row_of(result, "plan", one.keep);
    json::Value size = json::Value::object();
    size.set("keep", one.keep).set("parameters", row.parameters).set("active_parameters", row.active_parameters);
    size.set("bytes", row.bytes).set("stored_bytes", row.stored_bytes).set("layers", layers_json(one));
    sizes.push_back(std::move(size));
  }
  return plan.set("sizes", std::move(sizes));
}

json::Value records_json(const std::vector<Record>& records, int64_t tokens) {
  RecordsHash hash;
  json::Value ids = json::Value::array();
  for (const Record& record : records) {
    hash.add(record);
    ids.push_back(record.id);
  }
  json::Value out = json::Value::object();
  out.set("hash", hash.hex()).set("tokens", tokens).set("records", static_cast<int64_t>(records.size()));
  return out.set("ids", std::move(ids));
}

json::Value summary_json(const StudyResult& result, const StudyRecords& records, const Model& model,
                         const StudyOptions& options, json::Value about) {
  json::Value flags = json::Value::object(), shares = json::Value::array(), sizes = json::Value::array();
  for (const Plan& plan : result.plans) sizes.push_back(plan.keep);
  for (const double share : options.share) shares.push_back(share);
  flags.set("method", options.merges ? "merge" : "prune");
  flags.set("score", score_names[static_cast<size_t>(options.score)]).set("keep", std::move(sizes));
  flags.set("share", std::move(shares)).set("pairs", options.pairs).set("output_sample", options.output_sample);
  flags.set("ablation", options.ablation).set("random", options.random).set("protect", options.protect);
  flags.set("seed", options.seed);
  about.set("options", std::move(flags));
  about.set("calibration", records_json(records.calibration, result.tokens));
  json::Value evaluation =
      records_json(records.evaluation, result.predicted + static_cast<int64_t>(records.evaluation.size()));
  evaluation.set("predicted_tokens", result.predicted);
  evaluation.set("from", records.split ? "the half of --data that is not calibration" : "--eval");
  evaluation.set("prompts_in_common_with_calibration", records.in_common);
  about.set("evaluation", std::move(evaluation));
  about.set("super_experts", super_json(result));

  int64_t compared = 0, pairs = 0, widest = 0;
  for (const LayerPairs& layer : result.pairs) {
    pairs += int64_t{layer.n_experts} * (layer.n_experts - 1) / 2;
    for (int32_t a = 0; a < layer.n_experts; ++a)
      for (int32_t b = a + 1; b < layer.n_experts; ++b) compared += !std::isnan(layer.at(layer.weight, a, b));
  }
  for (const Layer& layer : model.layers)
    if (const Moe* moe = layer.moe()) widest = std::max(widest, moe->d_ff);
  json::Value comparison = json::Value::object();
  comparison.set("pairs", pairs).set("pairs_with_weights", compared).set("output_tokens", result.sampled);
  comparison.set("assignment", widest <= exact_neurons ? "exact" : "greedy").set("exact_neurons", exact_neurons);
  about.set("comparison", std::move(comparison));
  json::Value quality = json::Value::array();
  for (const QualityRow& row : result.rows) quality.push_back(quality_json(row));
  return about.set("quality", std::move(quality));
}

std::string millions(int64_t n) { return format_value(static_cast<double>(n) / 1e6, 3); }

}  // namespace

json::Value quality_json(const QualityRow& row) {
  json::Value out = json::Value::object();
  out.set("plan", row.plan).set("keep", row.keep);
  if (row.seed) out.set("seed", *row.seed);
  out.set("parameters", row.parameters).set("active_parameters", row.active_parameters);
  out.set("bytes", row.bytes).set("stored_bytes", row.stored_bytes);
  out.set("ppl", row.quality.ppl).set("kl", row.quality.kl);
  out.set("kl_ci", json::Value::array().push_back(row.quality.kl_ci.lo).push_back(row.quality.kl_ci.hi));
  return out.set("agreement", row.quality.agreement);
}

std::vector<std::string_view> quality_columns() {
  return {"plan", "keep", "seed",     "parameters", "active_parameters", "bytes",     "stored_bytes",
          "ppl",  "kl",   "kl_ci_lo", "kl_ci_hi",   "agreement",         "ppl_ci_lo", "ppl_ci_hi"};
}

void add_quality_cells(CsvWriter& csv, const QualityRow& row) {
  csv.cell(row.plan).cell(row.keep);
  if (row.seed) {
    csv.cell(std::to_string(*row.seed));
  } else {
    csv.cell("");
  }
  csv.cell(row.parameters).cell(row.active_parameters).cell(row.bytes).cell(row.stored_bytes);
  csv.cell(row.quality.ppl).cell(row.quality.kl).cell(row.quality.kl_ci.lo).cell(row.quality.kl_ci.hi);
  csv.cell(row.quality.agreement).cell(row.quality.ppl_ci.lo).cell(row.quality.ppl_ci.hi);
}

std::string quality_csv(const std::vector<QualityRow>& rows) {
  CsvWriter csv(quality_columns());
  for (const QualityRow& row : rows) {
    add_quality_cells(csv, row);
    csv.end_row();
  }
  return csv.text();
}

void write_study(const StudyResult& result, const StudyRecords& records, const Model& model,
                 const StudyOptions& options, json::Value about, const fs::path& directory) {
  write_file_atomically(directory / "experts.csv", experts_csv(result));
  write_pairs_csv(directory / "pairs.csv", result.pairs);
  write_file_atomically(directory / "plan.json", json::dump(plan_json(result, options, about), 2) + "\n");
  write_file_atomically(directory / "quality.csv", quality_csv(result.rows));
  write_file_atomically(directory / "summary.json",
                        json::dump(summary_json(result, records, model, options, std::move(about)), 2) + "\n");
}

std::string study_table(const StudyResult& result, int width) {
  TextTable table({{"plan", false, true},
                   {"experts", true, true},
                   {"seed"},
                   {"M parameters"},
                   {"M active"},
                   {"MB"},
                   {"MB stored"},
                   {"perplexity"},
                   {"KL"},
                   {"KL, 95 %"},
                   {"agreement"}});
  const int decimals = decimals_for(result.rows.front().quality.ppl);
  for (const QualityRow& row : result.rows)
    table.add({row.plan, std::to_string(row.keep), row.seed ? std::to_string(*row.seed) : "", millions(row.parameters),
               millions(row.active_parameters), millions(row.bytes), millions(row.stored_bytes),
               format_value(row.quality.ppl, decimals), format_value(row.quality.kl, 4),
               format_interval(row.quality.kl_ci.lo, row.quality.kl_ci.hi, 4), format_value(row.quality.agreement, 3)},
              row.plan == "plan");
  return table.text(width);
}

std::vector<std::string> study_sentences(const StudyResult& result, const StudyOptions& options) {
  const int decimals = decimals_for(result.rows.front().quality.ppl);
  std::vector<std::string> out;
  const Quality& original = result.rows.front().quality;
  for (const Plan& plan : result.plans) {
    const QualityRow& row = row_of(result, "plan", plan.keep);
    int64_t better = 0, random = 0;
    for (const QualityRow& other : result.rows)
      if (other.plan == "random" && other.keep == plan.keep) {
        ++random;
        better += row.quality.kl < other.quality.kl;
      }
    std::string line = std::string(options.merges ? "Merged" : "Pruned") + " to " + std::to_string(plan.keep) +
                       " experts a layer by " + score_names[static_cast<size_t>(options.score)] + ": perplexity " +
                       format_value(row.quality.ppl, decimals) + " (original " + format_value(original.ppl, decimals) +
                       "), KL " + format_value(row.quality.kl, 4) + " (by frequency " +
                       format_value(row_of(result, "frequency", plan.keep).quality.kl, 4) + ")";
    if (random > 0)
      line +=
          "; nearer to the original than " + std::to_string(better) + " of " + std::to_string(random) + " random plans";
    out.push_back(line + ".");
  }
  return out;
}

}  // namespace signalbox::eval
