// The tables of a study of commutativity.
#include "base/files.h"
#include "base/json.h"
#include "eval/causal/commutativity.h"

namespace signalbox::eval {

std::vector<std::string> commutativity_files() { return {"similarity.csv", "swaps.csv", "pairs.csv", "summary.json"}; }

void write_commutativity(const std::filesystem::path& dir, const Commutativity& study,
                         const CommutativityRequest& request, const engine::Session& session,
                         const std::string& input) {
  made_directory(dir);
  CsvWriter similarity({"layer", "measure", "control", "pairs", "controls", "commuted", "of_controls", "auc", "ci_lo",
                        "ci_hi", "p", "q"});
  for (const SimilarityRow& row : study.similarity) {
    similarity.cell(int64_t{row.layer}).cell(row.measure).cell(row.control).cell(row.pairs).cell(row.controls);
    PairedEstimate auc = row.auc;
    for (double* x : {&auc.mean, &auc.ci.lo, &auc.ci.hi}) *x += 0.5;
    append_estimate(similarity.cell(row.commuted).cell(row.of_controls), auc);
    similarity.end_row();
  }
  write_file_atomically(dir / "similarity.csv", similarity.text());
  CsvWriter swaps({"layer", "donor", "pairs", "logprob", "effect", "ci_lo", "ci_hi", "p", "q", "changed",
                   "over_control", "over_ci_lo", "over_ci_hi", "over_p", "over_q"});
  for (const SwapRow& row : study.swaps) {
    append_estimate(swaps.cell(int64_t{row.layer}).cell(row.donor).cell(row.pairs).cell(row.logprob), row.effect);
    append_estimate(swaps.cell(row.changed), row.over_control);
    swaps.end_row();
  }
  write_file_atomically(dir / "swaps.csv", swaps.text());
  CsvWriter pairs(
      {"pair", "layer", "cosine", "jaccard", "logprob_first", "logprob_second", "effect_first", "effect_second"});
  for (const CommutedPair& row : study.pairs) {
    pairs.cell(row.pair).cell(int64_t{row.layer}).cell(row.cosine).cell(row.jaccard);
    pairs.cell(row.logprob_first).cell(row.logprob_second).cell(row.effect_first).cell(row.effect_second);
    pairs.end_row();
  }
  write_file_atomically(dir / "pairs.csv", pairs.text());
  json::Value families = json::Value::object();
  families.set("similarity", "layers, for each measure and kind of control");
  families.set("swaps", "layers, for each kind of donor");
  write_file_atomically(
      dir / "summary.json",
      json::dump(json::Value::object()
                     .set("schema", commutativity_schema)
                     .set("model", session.label)
                     .set("model_hash", session.model_hash)
                     .set("input", input.empty() ? json::Value() : json::Value(input))
                     .set("metric", "logprob")
                     .set("ablation", "resample: the stream of another question, at one layer")
                     .set("reference", "the pair's other question, and control pairs")
                     .set("split", nullptr)
                     .set("commuted_pairs", study.commuted)
                     .set("other_order_pairs", study.other_order)
                     .set("unit", "pair")
                     .set("test", "signs of pairs flipped, two-sided: AUC against one half, effects against 0")
                     .set("interval", "95 %, BCa over pairs, levels widened for few pairs")
                     .set("q_over", std::move(families))
                     .set("resamples", request.resamples.n)
                     .set("seed", request.resamples.seed)) +
          "\n");
}

}  // namespace signalbox::eval
