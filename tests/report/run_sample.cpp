#include "tests/report/run_sample.h"

#include <cmath>

#include "eval/findings/audit.h"
#include "eval/findings/metrics_file.h"
#include "eval/findings/results.h"
#include "eval/store/manifest.h"
#include "tests/support.h"

namespace signalbox::test {

using namespace signalbox::eval;

namespace {

// A fixed stream of numbers in [0, 1).
class Stream {
 public:
  explicit Stream(uint64_t seed) : state_(seed * 2862933555777941757u + 3037000493u) {}
  double next() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<double>(state_ >> 11) / 0x1p53;
  }

 private:
  uint64_t state_;
};

constexpr int n_layers = 4, n_experts = 8;

// Expert e of layer l in the invented ranking.
double rd_of(int l, int e) { return (l == 1 && e < 3) ? 0.3 - 0.07 * e : 0.12 * std::sin(3.1 * l + 1.7 * e); }

// `level`: how many of the records the intervention spoils.
InterventionValues values_at(const std::string& name, double level, int64_t n, uint64_t seed) {
  Stream coin(seed), base(1);
  InterventionValues out;
  out.name = name;
  for (int64_t r = 0; r < n; ++r) {
    const double right = base.next() < 0.8, spoiled = coin.next() < level;
    for (const auto& [metric, value] :
         {std::pair("em", spoiled ? 0.0 : right), std::pair("repetition", spoiled ? 0.4 + 0.3 * coin.next() : 0.02),
          std::pair("refused", spoiled ? 1.0 : 0.0)}) {
      out.metrics[metric].records.push_back(r);
      out.metrics[metric].values.push_back(value);
    }
  }
  return out;
}

std::string text_of(const InterventionValues& one, int64_t r) {
  if (one.metrics.at("refused").values[static_cast<size_t>(r)] != 0) return "Sorry, I cannot help with <that>.";
  return one.metrics.at("em").values[static_cast<size_t>(r)] != 0 ? "It is Narqui." : "It is Oslo & so on.";
}

}  // namespace

RunValues sample_values(int64_t n) {
  RunValues run;
  run.metrics = {"em", "repetition", "refused"};
  run.baseline = "baseline";
  run.resamples = 400;
  for (int64_t r = 0; r < n; ++r) {
    run.clusters.push_back("p" + std::to_string(r / 2));
    run.conditions.push_back(r % 2 ? "with_document" : "without_document");
  }
  run.interventions.push_back(values_at("baseline", 0, n, 0));
  run.interventions.back().description = "no edits";
  run.interventions.push_back(values_at(odd_name, 0.6, n, 7));
  run.interventions.back().description = "ban 8 experts in layers 1-3";
  for (int c = 0; c < 21; ++c) {
    const bool bottom = c == 20;
    run.interventions.push_back(values_at(std::string(odd_name) + (bottom ? "/bottom" : "/random-" + std::to_string(c)),
                                          0.05 + 0.01 * c, n, 100 + static_cast<uint64_t>(c)));
    run.interventions.back().control_of = odd_name;
    run.interventions.back().control = bottom ? ControlKind::bottom : ControlKind::random;
  }
  for (const char* policy : {"next_best", "random"})
    for (const double fraction : {0.25, 0.5, 1.0}) {
      const double level = (policy[0] == 'r' ? 0.9 : 0.3) * fraction;
      const std::string name = std::string("mis/policy=") + policy + ",fraction=" + json::dump(json::Value(fraction));
      run.interventions.push_back(values_at(name, level, n, 300 + static_cast<uint64_t>(100 * level)));
      run.interventions.back().grid = {{"policy", policy}, {"fraction", fraction}};
      run.interventions.back().description = "misroute " + std::string(policy) + ", generated tokens";
    }
  for (int e = 0; e < 6; ++e) {
    run.interventions.push_back(
        values_at("audit/L1E" + std::to_string(e), 0.25 - 0.04 * e, n, 500 + static_cast<uint64_t>(e)));
    run.interventions.back().description = "ban 1 expert in layer 1";
    run.interventions.back().audited = ExpertId{1, e};
  }
  return run;
}

void write_sample_run(const std::filesystem::path& dir, const RunValues& run) {
  std::string samples, records, rd = "layer,expert,a1_n,d1_n,a2_n,d2_n,rd,ci_lo,ci_hi,p,q,rd_example\r\n";
  for (const InterventionValues& one : run.interventions)
    for (size_t r = 0; r < run.clusters.size(); ++r) {
      json::Value line = json::Value::object(), scores = json::Value::object();
      line.set("seed", 0).set("intervention", one.name).set("id", "r" + std::to_string(r)).set("sample", 0);
      line.set("text", text_of(one, static_cast<int64_t>(r))).set("tokens", json::Value::array());
      line.set("finish_reason", one.metrics.at("refused").values[r] != 0 && r % 2 ? "length" : "eos");
      for (const std::string& metric : run.metrics) scores.set(metric, one.metrics.at(metric).values[r]);
      samples += json::dump(line.set("scores", scores)) + "\n";
    }
  for (size_t r = 0; r < run.clusters.size(); ++r) {
    json::Value record = json::Value::object();
    record.set("id", "r" + std::to_string(r))
        .set("prompt", "Is a < b & what is the capital of country " + std::to_string(r) + "?")
        .set("condition", run.conditions[r])
        .set("pair", run.clusters[r]);
    records += json::dump(record) + "\n";
  }
  for (int l = 0; l < n_layers; ++l)
    for (int e = 0; e < n_experts; ++e) {
      const double value = rd_of(l, e);
      std::string line = std::to_string(l) + "," + std::to_string(e) + ",1,1,1,1";
      for (double number : {value, value - 0.05, value + 0.05, 0.01, std::abs(value) > 0.1 ? 0.001 : 0.4})
        line += "," + json::dump(json::Value(number));
      rd += line + ",\r\n";
    }
  write_file(dir / "samples.jsonl", samples);
  write_file(dir / "records.jsonl", records);
  std::filesystem::create_directories(dir / "detect" / "memory");
  write_file(dir / "detect" / "memory" / "rd.csv", rd);
  RunFindings findings = run_findings(run, 1);
  write_audit(dir, dir, findings);
  write_metrics(dir, findings);

  Manifest manifest;
  json::Value spec = json::Value::object();
  spec.set("model", "builtin").set("data", "questions.jsonl").set("seeds", json::Value::array().push_back(0));
  manifest.identity.set("version", "0.1.0").set("spec", spec).set("isa", "avx2");
  const json::Value tokens = json::Value::object().set("fraction", "$fraction");
  const json::Value edit = json::Value::object().set("op", "misroute").set("policy", "$policy").set("tokens", tokens);
  const json::Value entry = json::Value::object().set("name", "mis").set("edits", json::Value::array().push_back(edit));
  json::Value given = json::Value::object();
  given.set("title", "Banned & <misrouted>").set("question", "Does either matter?");
  given.set("interventions", json::Value::array().push_back(entry));
  json::Value argv = json::Value::array();
  for (const char* word : {"run", "a spec.json", "--threads", "2", "--out", "out/run", "--batch=3", "--seed", "1"})
    argv.push_back(word);
  manifest.info.set("spec_given", given).set("argv", argv);
  manifest.write(dir);
}

}  // namespace signalbox::test
