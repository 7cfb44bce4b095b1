// What a calibration looks like: for terminals, as JSON and as spreadsheets.
#include "base/error.h"
#include "base/files.h"
#include "base/text.h"
#include "eval/experiment/calibration.h"
#include "eval/findings/format.h"
#include "eval/findings/table.h"
#include "eval/store/lock.h"

namespace signalbox::eval {

namespace {

using Kind = TableColumn::Kind;

json::Value share_json(const Share& share) {
  json::Value out = json::Value::object();
  return out.set("value", share.value).set("lo", share.lo).set("hi", share.hi);
}

struct Measure {
  const char* name;
  const char* heading;
  Share share;
};

std::vector<Measure> measures_of(const Confusion& table) {
  return {{"label_rate", "labels that say yes", table.label_rate},
          {"rule_rate", "texts that the score says", table.rule_rate},
          {"sensitivity", "sensitivity", table.sensitivity},
          {"specificity", "specificity", table.specificity},
          {"precision", "precision", table.precision},
          {"f1", "F1", table.f1},
          {"kappa", "kappa", table.kappa}};
}

json::Value rate_json(const CorrectedRate& rate) {
  json::Value out = json::Value::object();
  out.set("rule", share_json(rate.rule.share())).set("rogan_gladen", share_json(rate.rogan_gladen.share()));
  return out.set("ppi", share_json(rate.ppi.share())).set("ppi_tuned", share_json(rate.tuned.share()));
}

Estimate estimate_of(const LinearEstimate& one, int64_t n) {
  const Share share = one.share();
  return {share.value, share.lo, share.hi, n};
}

FindingsTable measure_table(const Confusion& table) {
  FindingsTable out;
  out.columns = {{"", Kind::text, {"measure"}}, {"", Kind::estimate, {"value", "lo", "hi"}, true}};
  out.columns[0].heading = "measure";
  out.columns[1].heading = "value [95 %]";
  for (const Measure& one : measures_of(table))
    out.rows.push_back({"", {std::string(one.heading), Estimate{one.share.value, one.share.lo, one.share.hi}}});
  return out;
}

// Rates, or differences from the baseline.
FindingsTable rate_table(const Calibration& found, bool differences, bool all) {
  FindingsTable out;
  const Kind kind = differences ? Kind::difference : Kind::estimate;
  out.columns = {{"", Kind::text, {"of"}},
                 {differences ? "difference from " + found.baseline : "rate under", Kind::text, {"intervention"}},
                 {"", Kind::text, {"control_of"}},
                 {"n", Kind::count, {"n"}},
                 {"labels", Kind::count, {"n_labels"}},
                 {"wrong", Kind::count, {"n_wrong"}},
                 {found.score, kind, {"rule", "rule_lo", "rule_hi"}, true},
                 {"Rogan-Gladen", kind, {"rogan_gladen", "rogan_gladen_lo", "rogan_gladen_hi"}},
                 {"PPI", kind, {"ppi", "ppi_lo", "ppi_hi"}},
                 {"PPI++", kind, {"ppi_tuned", "ppi_tuned_lo", "ppi_tuned_hi"}},
                 {"", Kind::p, {"lambda"}}};
  for (const CalibratedIntervention& one : found.interventions) {
    if (!all && !one.about.is_main()) continue;
    if (differences && one.about.name == found.baseline) continue;
    const CorrectedRate& rate = differences ? one.difference : one.rate;
    out.rows.push_back(
        {"",
         {std::string(differences ? "difference" : "rate"), one.about.name, one.about.control_of, rate.n, rate.n_labels,
          rate.n_wrong, estimate_of(rate.rule, rate.n), estimate_of(rate.rogan_gladen, rate.n),
          estimate_of(rate.ppi, rate.n), estimate_of(rate.tuned, rate.n), rate.lambda}});
  }
  return out;
}

}  // namespace

json::Value calibration_json(const Calibration& found) {
  const Confusion& table = found.table;
  json::Value out = json::Value::object(), counts = json::Value::object(), notes = json::Value::array();
  counts.set("true_positive", table.true_positive).set("false_positive", table.false_positive);
  counts.set("false_negative", table.false_negative).set("true_negative", table.true_negative);
  out.set("schema", "signalbox.calibration/1").set("score", found.score).set("threshold", found.threshold);
  out.set("n", table.n()).set("clusters", table.n_clusters).set("undefined", found.n_undefined);
  out.set("counts", std::move(counts));
  for (const Measure& one : measures_of(table)) out.set(one.name, share_json(one.share));
  if (!found.interventions.empty()) {
    json::Value all = json::Value::object();
    for (const CalibratedIntervention& one : found.interventions) {
      json::Value rate = rate_json(one.rate);
      rate.set("lambda", one.rate.lambda).set("n", one.rate.n);
      rate.set("n_labels", one.rate.n_labels).set("n_wrong", one.rate.n_wrong);
      if (one.about.name != found.baseline) rate.set("difference", rate_json(one.difference));
      all.set(one.about.name, std::move(rate));
    }
    out.set("baseline", found.baseline).set("labels", found.own ? "own" : "all");
    out.set("interventions", std::move(all));
  }
  for (const std::string& note : found.notes) notes.push_back(note);
  return out.set("notes", std::move(notes));
}

std::string calibration_text(const Calibration& found) {
  const Confusion& table = found.table;
  const auto number = [](int64_t n) {
    std::string text = std::to_string(n);
    return std::string(text.size() < 9 ? 9 - text.size() : 0, ' ') + text;
  };
  std::string out = found.score + " against " + std::to_string(table.n()) + " labels in " +
                    std::to_string(table.n_clusters) + " clusters; a score of " + short_number(found.threshold) +
                    " or more says yes\n\n";
  out += "            score yes  score no\n";
  out += "label yes   " + number(table.true_positive) + " " + number(table.false_negative) + "\n";
  out += "label no    " + number(table.false_positive) + " " + number(table.true_negative) + "\n\n";
  out += table_text(measure_table(table));
  if (!found.interventions.empty()) {
    out += "\n" + table_text(rate_table(found, false, false));
    const FindingsTable differences = rate_table(found, true, false);
    if (!differences.rows.empty()) out += "\n" + table_text(differences);
  }
  for (const std::string& note : found.notes) out += "\n" + note + "\n";
  return out;
}

void write_calibration(const std::filesystem::path& dir, const Calibration& found) {
  made_directory(dir);
  FindingsTable measures = measure_table(found.table);
  const auto names = measures_of(found.table);
  for (size_t i = 0; i < names.size(); ++i) measures.rows[i].cells[0] = std::string(names[i].name);
  const Confusion& table = found.table;
  for (const auto& [name, n] : {std::pair{"true_positive", table.true_positive},
                                {"false_positive", table.false_positive},
                                {"false_negative", table.false_negative},
                                {"true_negative", table.true_negative}})
    measures.rows.push_back({"", {std::string(name), Estimate{static_cast<double>(n)}}});
  write_file_atomically(dir / "confusion.csv", table_csv({measures}));
  if (!found.interventions.empty())
    write_file_atomically(dir / "rates.csv",
                          table_csv({rate_table(found, false, true), rate_table(found, true, true)}));
}

}  // namespace signalbox::eval
