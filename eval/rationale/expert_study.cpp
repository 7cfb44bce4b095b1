#include "eval/rationale/expert_study.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "base/csv.h"
#include "base/error.h"
#include "base/files.h"
#include "base/no_number.h"
#include "eval/causal/sequence_run.h"
#include "eval/data/dice.h"
#include "eval/rationale/eraser_scores.h"
#include "eval/store/line_log.h"
#include "eval/store/work_directory.h"

namespace signalbox::eval {

using namespace engine;
using namespace probes;

namespace {

namespace fs = std::filesystem;

constexpr const char *study_samples = "samples.jsonl", *study_journal = "journal.jsonl";
constexpr double ceil_slack = 1e-9;  // 0.2 * 5 is one word

// A way to rank words, or a set of experts.
struct Method {
  std::string name, family;  // family: what its draws are averaged under
  ExpertSet set;             // of experts and matched.N
};

size_t top_count(double share, size_t n) {
  return std::min(n, static_cast<size_t>(std::ceil(share * static_cast<double>(n) - ceil_slack)));
}

std::vector<size_t> ranked_words(const std::vector<double>& scores) {
  std::vector<size_t> order(scores.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return scores[a] > scores[b]; });
  return order;
}

std::vector<bool> first_of(const std::vector<size_t>& order, size_t count) {
  std::vector<bool> chosen(order.size(), false);
  for (size_t i = 0; i < count; ++i) chosen[order[i]] = true;
  return chosen;
}

std::vector<bool> inverted(std::vector<bool> words) {
  words.flip();
  return words;
}

std::vector<std::pair<int64_t, int64_t>> runs_of(const std::vector<bool>& words) {
  std::vector<std::pair<int64_t, int64_t>> runs;
  for (size_t w = 0; w < words.size(); ++w) {
    if (!words[w]) continue;
    const auto at = static_cast<int64_t>(w);
    if (!runs.empty() && runs.back().second == at)
      ++runs.back().second;
    else
      runs.emplace_back(at, at + 1);
  }
  return runs;
}

// d log p(c) / d embedding, dotted with the embedding, summed over each word's tokens.
std::vector<double> gradient_scores(const Session& session, const ChoiceRecord& record, const ClassScores& whole,
                                    size_t predicted) {
  std::vector<double> of_tokens(record.tokens.size(), 0);
  for (size_t c = 0; c < record.choices.size(); ++c) {
    const double factor = (c == predicted ? 1.0 : 0.0) - whole[c].second;
    std::vector<int32_t> tokens = record.tokens;
    tokens.insert(tokens.end(), record.choices[c].begin(), record.choices[c].end());
    Job job;
    job.prompt = std::make_shared<const Prompt>(record.id, tokens);
    job.task = Generate{};
    MetricRows rows;
    rows.metric = Metric::logprob;
    rows.targets = record.choices[c];
    rows.targets.push_back(-1);
    SequenceRequest request;
    request.job = &job;
    request.rows = &rows;
    request.values = request.slopes = "embed";
    request.back = true;
    const SequenceRun run = run_sequence(session, request);
    for (size_t t = 0; t < of_tokens.size(); ++t) {
      const auto x = run.values->row(Point::embed, -1, 0, static_cast<int64_t>(t));
      const auto slope = run.slopes->row(Point::embed, -1, 0, static_cast<int64_t>(t));
      for (size_t i = 0; i < x.size(); ++i)
        of_tokens[t] += factor * static_cast<double>(x[i]) * static_cast<double>(slope[i]);
    }
  }
  std::vector<double> scores;
  for (const auto& word : record.words) {
    double sum = 0;
    for (const int64_t t : word) sum += of_tokens[static_cast<size_t>(t)];
    scores.push_back(sum);
  }
  return scores;
}

// What one record gives under one method and removal, as a line of results.jsonl.
class RecordStudy {
 public:
  RecordStudy(const ExpertStudy& study, const ChoiceRecord& record, const ExpertDetection& found)
      : study_(study), record_(record), found_(found), runs_(*study.session, record) {
    nothing_.assign(record.words.size(), false);
    whole_ = runs_.without(Removal::remove, {nothing_}).front();
    predicted_ = predicted_class(whole_);
  }

  json::Value run(const std::vector<Method>& methods) {
    const TokenRoutes routes = token_routes(*study_.session, record_, study_.detection.layers);
    json::Value results = json::Value::object(), experts = json::Value::object();
    for (const Method& method : methods) {
      const std::vector<double> scores = scores_of(method, routes);
      const std::vector<bool> hard = method.name == "gold" ? record_.gold : top_words(scores, found_.gold_share);
      json::Value of_method = json::Value::object();
      for (const Removal how : study_.removals)
        of_method.set(removal_names[static_cast<size_t>(how)], eraser_result_json(result(scores, hard, how)));
      results.set(method.name, std::move(of_method));
      if (method.set.empty()) continue;
      const std::vector<ClassScores> twins =
          runs_.under({ban_set(*study_.session, method.set), keep_set(*study_.session, method.set)});
      experts.set(method.name, json::Value::object()
                                   .set("comprehensiveness", p() - twins[0][predicted_].second)
                                   .set("sufficiency", p() - twins[1][predicted_].second));
    }
    return json::Value::object()
        .set("id", record_.id)
        .set("classification", record_.names[predicted_])
        .set("right", predicted_ == static_cast<size_t>(record_.choice))
        .set("p", p())
        .set("results", std::move(results))
        .set("experts", std::move(experts));
  }

 private:
  double p() const { return whole_[predicted_].second; }

  std::vector<double> scores_of(const Method& method, const TokenRoutes& routes) {
    if (!method.set.empty()) return route_scores(record_, routes, method.set);
    std::vector<double> scores;
    if (method.name == "gold") {
      for (const bool gold : record_.gold) scores.push_back(gold);
    } else if (method.name == "gradient") {
      return gradient_scores(*study_.session, record_, whole_, predicted_);
    } else if (method.name == "leave_one_out") {
      std::vector<std::vector<bool>> out;
      for (size_t w = 0; w < nothing_.size(); ++w) {
        out.push_back(nothing_);
        out.back()[w] = true;
      }
      for (const ClassScores& without : runs_.without(Removal::remove, out))
        scores.push_back(p() - without[predicted_].second);
    } else {
      Dice dice(study_.seed, method.name + " of " + record_.id);
      for (size_t w = 0; w < nothing_.size(); ++w)
        scores.push_back(static_cast<double>(dice.below(uint64_t{1} << 53)) / 0x1p53);
    }
    return scores;
  }

  EraserResult result(const std::vector<double>& scores, const std::vector<bool>& hard, Removal how) {
    const std::vector<size_t> order = ranked_words(scores);
    std::vector<std::vector<bool>> out = {hard, inverted(hard)};
    for (const double threshold : study_.thresholds) {
      out.push_back(first_of(order, top_count(threshold, order.size())));
      out.push_back(inverted(out.back()));
    }
    const std::vector<ClassScores> found = runs_.without(how, out);
    EraserResult result;
    result.id = record_.id;
    EraserRationale rationale;
    rationale.docid = record_.id;
    rationale.hard = runs_of(hard);
    rationale.soft = scores;
    result.rationales.push_back(std::move(rationale));
    result.classification = record_.names[predicted_];
    result.scores = whole_;
    result.comprehensiveness = found[0];
    result.sufficiency = found[1];
    result.thresholds.emplace();
    for (size_t i = 0; i < study_.thresholds.size(); ++i)
      result.thresholds->push_back({study_.thresholds[i], found[2 + 2 * i], found[3 + 2 * i]});
    if (study_.flips) result.tokens_to_flip = flip(order, how);
    return result;
  }

  // Words taken out in their order until the model chooses something else; all of them where it never does.
  double flip(const std::vector<size_t>& order, Removal how) {
    for (size_t n = 1; n <= order.size(); ++n)
      if (predicted_class(runs_.without(how, {first_of(order, n)}).front()) != predicted_)
        return static_cast<double>(n);
    return static_cast<double>(order.size());
  }

  const ExpertStudy& study_;
  const ChoiceRecord& record_;
  const ExpertDetection& found_;
  ChoiceRuns runs_;
  std::vector<bool> nothing_;
  ClassScores whole_;
  size_t predicted_ = 0;
};

std::vector<Method> methods_of(const ExpertStudy& study, const ExpertDetection& found) {
  std::vector<Method> methods = {{"gold", "gold", {}}, {"experts", "experts", found.set}};
  if (study.gradient) methods.push_back({"gradient", "gradient", {}});
  methods.push_back({"leave_one_out", "leave_one_out", {}});
  for (int64_t i = 0; i < study.random; ++i) methods.push_back({"random." + std::to_string(i), "random", {}});
  if (study.random_experts > 0) {
    int64_t i = 0;
    for (ExpertSet& set : matched_sets(*study.session, found.set, found.usage, study.seed, study.random_experts))
      methods.push_back({"matched." + std::to_string(i++), "matched", std::move(set)});
  }
  return methods;
}

double class_score(const json::Ref& scores, const std::string& name) { return scores.at(name).number(); }

// The numbers of one result line against a record's evidence.
std::map<std::string, double> numbers_of(const json::Ref& result, const ChoiceRecord& record) {
  std::map<std::string, double> numbers;
  const std::string name = result.at("classification").string();
  const double p = class_score(result.at("classification_scores"), name);
  numbers["comprehensiveness"] = p - class_score(result.at("comprehensiveness_classification_scores"), name);
  numbers["sufficiency"] = p - class_score(result.at("sufficiency_classification_scores"), name);
  double comprehensive = 0, sufficient = 0;
  const auto thresholds = result.at("thresholded_scores").items();
  for (const json::Ref& at : thresholds) {
    comprehensive += (p - class_score(at.at("comprehensiveness_classification_scores"), name));
    sufficient += (p - class_score(at.at("sufficiency_classification_scores"), name));
  }
  const auto n = static_cast<double>(thresholds.size());
  numbers["comprehensiveness_aopc"] = thresholds.empty() ? no_number : comprehensive / n;
  numbers["sufficiency_aopc"] = thresholds.empty() ? no_number : sufficient / n;
  const json::Ref rationale = result.at("rationales")[0];
  std::vector<double> soft;
  for (const json::Ref& item : rationale.at("soft_rationale_predictions").items()) soft.push_back(item.number());
  numbers["auprc"] = auprc(record.gold, soft);
  double hits = 0, predicted = 0;
  for (const json::Ref& span : rationale.at("hard_rationale_predictions").items())
    for (int64_t w = span.at("start_token").integer(); w < span.at("end_token").integer(); ++w) {
      ++predicted;
      hits += record.gold[static_cast<size_t>(w)];
    }
  numbers["token_f1"] = 2 * hits / (predicted + static_cast<double>(record.n_gold()));
  if (const auto flips = result.find("tokens_to_flip"))
    numbers["tokens_to_flip"] = flips->number() / static_cast<double>(record.n_words());
  return numbers;
}

class Tables {
 public:
  Tables(const ExpertStudy& study, const std::vector<Method>& methods) : study_(study), methods_(methods) {}

  void add(const json::Value& line, const ChoiceRecord& record) {
    const json::Ref ref(line, study_samples);
    const std::string id = record.id;
    values_[{"whole text", "none", "p"}].push_back(ref.at("p").number());
    values_[{"whole text", "none", "accuracy"}].push_back(ref.at("right").boolean());
    std::map<Key, std::pair<double, double>> sums;  // over the draws of a family
    const auto put = [&](const Method& method, const std::string& removal, const std::string& metric, double value) {
      auto& [sum, n] = sums[{method.family, removal, metric}];
      sum += value;
      ++n;
    };
    for (const Method& method : methods_) {
      const json::Ref of = ref.at("results").at(method.name);
      for (const Removal how : study_.removals) {
        const std::string removal = removal_names[static_cast<size_t>(how)];
        results_[method.name + "-" + removal] += json::dump(of.at(removal).value()) + "\n";
        for (const auto& [metric, value] : numbers_of(of.at(removal), record)) put(method, removal, metric, value);
      }
      if (method.set.empty()) continue;
      const json::Ref twins = ref.at("experts").at(method.name);
      for (const char* metric : {"comprehensiveness", "sufficiency"})
        put(method, "experts", metric, twins.at(metric).number());
    }
    for (const auto& [key, sum] : sums) values_[key].push_back(sum.first / sum.second);
  }

  void write() {
    fs::create_directories(study_.dir / "results");
    for (const auto& [name, lines] : results_) write_file_atomically(study_.dir / "results" / (name + ".jsonl"), lines);
    CsvWriter csv({"method", "removal", "metric", "value", "ci_lo", "ci_hi", "n"});
    std::vector<std::string> families = {"whole text"};
    for (const Method& method : methods_)
      if (families.back() != method.family) families.push_back(method.family);
    for (const std::string& family : families)
      for (const auto& [key, values] : values_) {
        if (std::get<0>(key) != family) continue;
        const MeanEstimate estimate = bootstrap_mean(values, {}, study_.seed, study_.resamples);
        csv.cell(family).cell(std::get<1>(key)).cell(std::get<2>(key));
        csv.cell(estimate.mean).cell(estimate.ci.lo).cell(estimate.ci.hi).cell(estimate.n);
        csv.end_row();
      }
    write_file_atomically(study_.dir / "scores.csv", csv.text());
  }

 private:
  using Key = std::tuple<std::string, std::string, std::string>;
  const ExpertStudy& study_;
  const std::vector<Method>& methods_;
  std::map<Key, std::vector<double>> values_;
  std::map<std::string, std::string> results_;
};

void write_experts(const fs::path& dir, const ExpertDetection& found, const std::vector<Method>& methods) {
  write_rd_csv(dir / "rd.csv", found.detection.rows);
  CsvWriter csv({"method", "layer", "expert", "rd", "ci_lo", "ci_hi", "q", "usage"});
  for (const Method& method : methods)
    for (const auto& [layer, experts] : method.set)
      for (const int32_t e : experts) {
        const auto row =
            std::find_if(found.detection.rows.begin(), found.detection.rows.end(),
                         [l = layer, e](const RiskDifference& r) { return r.layer == l && r.expert == e; });
        csv.cell(method.name).cell(int64_t{layer}).cell(int64_t{e}).cell(row->value()).cell(row->ci.lo);
        csv.cell(row->ci.hi).cell(row->q).cell(found.usage[static_cast<size_t>(layer)][static_cast<size_t>(e)]);
        csv.end_row();
      }
  write_file_atomically(dir / "experts.csv", csv.text());
}

}  // namespace

std::vector<bool> top_words(const std::vector<double>& scores, double share) {
  return first_of(ranked_words(scores), top_count(share, scores.size()));
}

ExpertStudyEnd study_experts(const ExpertStudy& study) {
  WorkDirectory work(study.dir, study.manifest);
  if (work.complete()) return ExpertStudyEnd::was_complete;
  const auto stopped = [&] { return study.interrupted && *study.interrupted; };
  const auto n_test = static_cast<int64_t>(study.test.size());
  if (study.on_stage) study.on_stage("routes of evidence", static_cast<int64_t>(study.detect.size()));
  const ExpertDetection found = detect_experts(*study.session, study.detect, study.detection, study.on_progress);
  const std::vector<Method> methods = methods_of(study, found);
  write_experts(study.dir, found, methods);
  LineRules rules;
  rules.n_lines = n_test;
  rules.name = [&](int64_t line) { return "record " + study.test[static_cast<size_t>(line)].id; };
  rules.check_line = [&](int64_t line, const json::Ref& value) {
    if (value.at("id").string() != study.test[static_cast<size_t>(line)].id)
      value.fail("expected the record " + study.test[static_cast<size_t>(line)].id + ", found " +
                 value.at("id").string());
  };
  LineLog log(study.dir / study_samples, study.dir / study_journal, rules);
  if (study.on_stage) study.on_stage("taking words out", n_test);
  for (int64_t r = 0; r < n_test; ++r) {
    if (stopped()) {
      log.sync();
      work.finish(RunStatus::interrupted);
      return ExpertStudyEnd::interrupted;
    }
    if (!log.has(r)) log.put(r, json::dump(RecordStudy(study, study.test[static_cast<size_t>(r)], found).run(methods)));
    if (study.on_progress) study.on_progress(r + 1);
  }
  Tables tables(study, methods);
  for (int64_t r = 0; r < n_test; ++r)
    tables.add(json::parse(log.line(r), study_samples), study.test[static_cast<size_t>(r)]);
  log.finish();
  tables.write();
  int64_t n_matched = 0;
  for (const Method& method : methods) n_matched += method.family == "matched";
  json::Value warnings = json::Value::array();
  for (const std::string& warning : found.detection.warnings) warnings.push_back(warning);
  write_file_atomically(study.dir / "summary.json",
                        json::dump(json::Value::object()
                                       .set("schema", experts_schema)
                                       .set("records_detect", static_cast<int64_t>(study.detect.size()))
                                       .set("records_test", n_test)
                                       .set("rationale_share", found.gold_share)
                                       .set("rationale", "the top ceil(share * words) of the document's words")
                                       .set("unit", "words between spaces; a word's tokens go together")
                                       .set("random_draws", study.random)
                                       .set("matched_sets", n_matched)
                                       .set("seed", static_cast<int64_t>(study.seed))
                                       .set("resamples", study.resamples)
                                       .set("warnings", std::move(warnings)),
                                   2) +
                            "\n");
  work.finish(RunStatus::complete);
  return ExpertStudyEnd::complete;
}

}  // namespace signalbox::eval
