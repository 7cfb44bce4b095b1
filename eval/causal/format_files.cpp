// The tables of a study of format sensitivity.
#include "base/files.h"
#include "base/json.h"
#include "eval/causal/format_sensitivity.h"

namespace signalbox::eval {

std::vector<std::string> format_files() { return {"behaviour.csv", "states.csv", "patches.csv", "summary.json"}; }

void write_format(const std::filesystem::path& dir, const FormatStudy& study, const FormatRequest& request,
                  const engine::Session& session, const std::string& input) {
  made_directory(dir);
  CsvWriter behaviour({"variant", "n", "same_tokens", "base_logprob", "logprob", "delta", "ci_lo", "ci_hi", "p", "q",
                       "over_others", "over_ci_lo", "over_ci_hi", "over_p", "over_q", "flips", "base_right", "right"});
  for (const FormatBehaviour& row : study.behaviour) {
    behaviour.cell(row.variant).cell(row.n).cell(row.same_tokens).cell(row.base_logprob).cell(row.logprob);
    append_estimate(behaviour, row.delta);
    append_estimate(behaviour, row.over_others);
    behaviour.cell(row.flips).cell(row.base_right).cell(row.right);
    behaviour.end_row();
  }
  write_file_atomically(dir / "behaviour.csv", behaviour.text());
  CsvWriter states({"layer", "variant", "place", "n", "cosine", "rel_change", "jaccard", "identified", "over_others",
                    "over_ci_lo", "over_ci_hi", "over_p", "over_q"});
  for (const FormatStates& row : study.states) {
    states.cell(int64_t{row.layer}).cell(row.variant).cell(row.place).cell(row.n).cell(row.cosine);
    states.cell(row.rel_change).cell(row.jaccard).cell(row.identified);
    append_estimate(states, row.over_others);
    states.end_row();
  }
  write_file_atomically(dir / "states.csv", states.text());
  CsvWriter patches({"layer", "variant", "place", "direction", "n", "effect", "ci_lo", "ci_hi", "p", "q", "share",
                     "share_lo", "share_hi"});
  for (const FormatPatch& row : study.patches) {
    patches.cell(int64_t{row.layer}).cell(row.variant).cell(row.place).cell(row.direction).cell(row.n);
    append_estimate(patches, row.effect);
    patches.cell(row.share.mean).cell(row.share.ci.lo).cell(row.share.ci.hi);
    patches.end_row();
  }
  write_file_atomically(dir / "patches.csv", patches.text());
  json::Value families = json::Value::object();
  families.set("behaviour", "variants");
  families.set("states", "layers, for each variant and place");
  families.set("patches", "layers, for each variant, place and direction");
  write_file_atomically(
      dir / "summary.json",
      json::dump(json::Value::object()
                     .set("schema", format_schema)
                     .set("model", session.label)
                     .set("model_hash", session.model_hash)
                     .set("input", input.empty() ? json::Value() : json::Value(input))
                     .set("metric", "logprob")
                     .set("ablation", "resample: the stream of another format of the question, at one layer")
                     .set("reference", "the question's other formats")
                     .set("split", nullptr)
                     .set("questions", study.questions)
                     .set("unit", "question")
                     .set("test", "signs of questions flipped, two-sided, against 0")
                     .set("interval", "95 %, BCa over questions, levels widened for few; of shares percentiles")
                     .set("q_over", std::move(families))
                     .set("resamples", request.resamples.n)
                     .set("seed", request.resamples.seed)) +
          "\n");
}

}  // namespace signalbox::eval
