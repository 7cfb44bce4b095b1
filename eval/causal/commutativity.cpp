#include "eval/causal/commutativity.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>

#include "base/error.h"
#include "base/no_number.h"
#include "eval/causal/answer_runs.h"
#include "eval/data/dice.h"

namespace signalbox::eval {

using namespace engine;

namespace {

enum Control : uint8_t { same_answer, one_token, other_order };
constexpr std::array<const char*, 3> control_names = {"same_answer", "one_token", "other_order"};
constexpr std::array<const char*, 4> donor_names = {"commuted", "same_answer", "one_token", "other_order"};

using Two = std::pair<size_t, size_t>;  // records

// Records by pair, in the order of first appearance.
std::vector<Two> pairs_of(const std::vector<Record>& records) {
  std::map<std::string, size_t> place;
  std::vector<std::vector<size_t>> members;
  for (size_t i = 0; i < records.size(); ++i) {
    const auto [at, is_new] = place.try_emplace(records[i].pair, members.size());
    if (is_new) members.emplace_back();
    members[at->second].push_back(i);
  }
  std::vector<Two> out;
  for (const std::vector<size_t>& two : members) out.emplace_back(two.at(0), two.at(1));
  return out;
}

// Same length, and one token differs.
bool differ_in_one(std::span<const int32_t> a, std::span<const int32_t> b) {
  if (a.size() != b.size()) return false;
  int64_t others = 0;
  for (size_t i = 0; i < a.size(); ++i) others += a[i] != b[i];
  return others == 1;
}

class OrderStudy {
 public:
  OrderStudy(const Session& session, const std::vector<Record>& records, const RecordJobs& made,
             const CommutativityRequest& request)
      : session_(session),
        records_(records),
        made_(made),
        request_(request),
        runs_(session, request.step_tokens, request.step_cells) {
    for (const Two& two : pairs_of(records))
      (*records[two.first].target == *records[two.second].target ? commuted_ : order_).push_back(two);
    for (size_t i = 0; i < made.jobs.size(); ++i)
      rows_.push_back(metric_rows(Metric::logprob, records[i], made.encoded[i], session.encode));
    find_controls();
  }
  Commutativity run();

 private:
  bool stopped() const { return request_.interrupted && *request_.interrupted; }
  void tick(int64_t runs) {
    done_ += runs;
    if (request_.on_progress) request_.on_progress(done_);
  }
  std::span<const int32_t> prompt(size_t i) const {
    return std::span(made_.encoded[i].prompt->tokens).first(static_cast<size_t>(*made_.encoded[i].target_start));
  }
  int64_t n_layers() const { return session_.model.n_layers(); }
  std::span<const float> state(size_t record, int64_t layer) const {
    return answers_[record].stream(layer, answers_[record].answer);
  }
  void find_controls();
  void compare(Commutativity& study);
  void compare(Commutativity& study, int64_t layer, const char* measure,
               const std::function<double(const Two&)>& alike);
  void swap(Commutativity& study);

  const Session& session_;
  const std::vector<Record>& records_;
  const RecordJobs& made_;
  const CommutativityRequest& request_;
  AnswerRuns runs_;
  int64_t done_ = 0;
  std::vector<Two> commuted_, order_;
  std::vector<MetricRows> rows_;                           // [records]
  std::array<std::vector<std::vector<Two>>, 3> controls_;  // [kind][commuted pair] pairs, one of the pair's first
  std::vector<AnswerRun> answers_;                         // [records] at the answer alone
  std::vector<UnitValues> aucs_;                           // of the rows of similarity
};

// estimates[i] of column i, whose family is all columns with the same key.
template <class Key, class Put>
void estimate_families(const std::vector<UnitValues>& columns, const Resamples& resamples, Key key, Put put) {
  std::map<std::string, std::vector<size_t>> families;
  for (size_t i = 0; i < columns.size(); ++i) families[key(i)].push_back(i);
  for (const auto& [name, members] : families) {
    std::vector<UnitValues> own;
    for (const size_t i : members) own.push_back(columns[i]);
    const std::vector<PairedEstimate> found = estimate_family(own, resamples);
    for (size_t k = 0; k < members.size(); ++k) put(members[k], found[k]);
  }
}

void OrderStudy::find_controls() {
  for (auto& kind : controls_) kind.resize(commuted_.size());
  for (size_t i = 0; i < commuted_.size(); ++i) {
    controls_[other_order][i] = order_;
    for (const size_t own : {commuted_[i].first, commuted_[i].second})
      for (size_t j = 0; j < commuted_.size(); ++j) {
        if (j == i) continue;
        for (const size_t other : {commuted_[j].first, commuted_[j].second}) {
          const bool answer = *records_[own].target == *records_[other].target;
          if (answer) controls_[same_answer][i].emplace_back(own, other);
          if (!answer && differ_in_one(prompt(own), prompt(other))) controls_[one_token][i].emplace_back(own, other);
        }
      }
  }
}

void OrderStudy::compare(Commutativity& study, int64_t layer, const char* measure,
                         const std::function<double(const Two&)>& alike) {
  for (const Control kind : {same_answer, one_token, other_order}) {
    SimilarityRow row;
    row.layer = static_cast<int32_t>(layer);
    row.measure = measure;
    row.control = control_names[kind];
    UnitValues auc;
    for (size_t i = 0; i < commuted_.size(); ++i) {
      const std::vector<Two>& controls = controls_[kind][i];
      if (controls.empty()) continue;
      const double own = alike(commuted_[i]);
      double below = 0, sum = 0;
      for (const Two& control : controls) {
        const double other = alike(control);
        below += other < own ? 1 : other == own ? 0.5 : 0;
        sum += other;
      }
      const auto n = static_cast<double>(controls.size());
      ++row.pairs;
      row.controls += static_cast<int64_t>(controls.size());
      row.commuted += own;
      row.of_controls += sum / n;
      auc.add(below / n - 0.5, static_cast<int64_t>(i));
    }
    if (row.pairs == 0) continue;
    row.commuted /= static_cast<double>(row.pairs);
    row.of_controls /= static_cast<double>(row.pairs);
    if (kind == other_order) row.controls = static_cast<int64_t>(order_.size());
    study.similarity.push_back(row);
    aucs_.push_back(std::move(auc));
  }
}

void OrderStudy::compare(Commutativity& study) {
  const std::vector<int32_t> routed = session_.model.moe_layers();
  for (int64_t l = 0; l < n_layers(); ++l) {
    std::vector<double> centre(static_cast<size_t>(session_.model.d_model));
    for (size_t i = 0; i < records_.size(); ++i)
      for (size_t c = 0; c < centre.size(); ++c) centre[c] += static_cast<double>(state(i, l)[c]);
    for (double& x : centre) x /= static_cast<double>(records_.size());
    const auto cosine = [&](const Two& two) {
      return centred_cosine(state(two.first, l), state(two.second, l), centre);
    };
    compare(study, l, "cosine", cosine);
    const auto place = std::lower_bound(routed.begin(), routed.end(), l);
    const bool has_router = place != routed.end() && *place == l;
    const auto jaccard = [&](const Two& two) {
      const AnswerRun &a = answers_[two.first], &b = answers_[two.second];
      return route_jaccard(a.route(place - routed.begin(), a.answer), b.route(place - routed.begin(), b.answer));
    };
    if (has_router) compare(study, l, "jaccard", jaccard);
    for (const Two& two : commuted_)
      study.pairs.push_back({records_[two.first].pair, static_cast<int32_t>(l), cosine(two),
                             has_router ? jaccard(two) : no_number, answers_[two.first].logprob,
                             answers_[two.second].logprob, no_number, no_number});
  }
}

// Runs each record again, and with the stream of each donor behind each layer.
void OrderStudy::swap(Commutativity& study) {
  struct Donor {
    size_t kind, recipient, record;
    int64_t pair;  // unit
  };
  std::vector<Donor> donors;
  Dice dice(request_.resamples.seed, "donors");
  for (size_t i = 0; i < commuted_.size(); ++i)
    for (const auto& [own, other] : {commuted_[i], Two(commuted_[i].second, commuted_[i].first)}) {
      donors.push_back({0, own, other, static_cast<int64_t>(i)});
      for (const Control kind : {same_answer, one_token}) {
        std::vector<size_t> candidates;
        for (const Two& control : controls_[kind][i])
          if (control.first == own) candidates.push_back(control.second);
        if (!candidates.empty())
          donors.push_back({size_t{1} + kind, own, dice.pick(candidates), static_cast<int64_t>(i)});
      }
    }
  for (size_t i = 0; i < order_.size(); ++i)
    for (const auto& [own, other] : {order_[i], Two(order_[i].second, order_[i].first)})
      donors.push_back({size_t{1} + other_order, own, other, static_cast<int64_t>(i)});

  struct Cell {
    UnitValues effect, base, changed;
    std::map<int64_t, std::vector<double>> of_pair;
  };
  const auto layers = static_cast<size_t>(n_layers());
  std::vector<std::array<Cell, donor_names.size()>> cells(layers);
  std::vector<std::string> recipients;
  for (size_t d = 0; d < donors.size(); ++d)
    if (d == 0 || donors[d].recipient != donors[d - 1].recipient)
      recipients.push_back(records_[donors[d].recipient].id);
  KeptItems kept(request_.kept, std::move(recipients), "records");
  for (size_t begin = 0, item = 0; begin < donors.size(); ++item) {
    if (stopped()) {
      study.interrupted = true;
      return;
    }
    // Donors of one recipient stand together.
    const size_t own = donors[begin].recipient;
    size_t end = begin;
    while (end < donors.size() && donors[end].recipient == own) ++end;
    const double base_logprob = answers_[own].logprob;
    std::vector<std::pair<double, bool>> values;  // log p, and whether the likeliest answer is another
    if (const json::Value known = kept.find(item); !known.is_null()) {
      const json::Ref line(known, records_[own].id);
      for (const json::Ref& value : line.at("values").items())
        values.emplace_back(value[0].number(), value[1].boolean());
    } else {
      const AnswerRun base = runs_.run(made_.jobs[own], rows_[own], answers_[own].answer);
      std::vector<ReplacedStream> replaced;
      for (int64_t l = 0; l < n_layers(); ++l)
        for (size_t d = begin; d < end; ++d)
          replaced.push_back({l, {{base.answer, state(donors[d].record, l).data()}}});
      json::Value list = json::Value::array();
      for (const AnswerValue& value : runs_.replaced(base, replaced)) {
        values.emplace_back(value.logprob, value.likeliest != base.likeliest);
        list.push_back(json::Value::array().push_back(value.logprob).push_back(values.back().second));
      }
      kept.put(item, json::Value::object().set("values", std::move(list)));
    }
    if (values.size() != layers * (end - begin))
      throw Error(records_[own].id,
                  "expected a value for each layer and donor, found " + std::to_string(values.size()));
    for (size_t k = 0; k < values.size(); ++k) {
      const Donor& donor = donors[begin + k % (end - begin)];
      const size_t layer = k / (end - begin);
      Cell& cell = cells[layer][donor.kind];
      const double effect = values[k].first - base_logprob;
      cell.effect.add(effect, donor.pair);
      cell.base.add(base_logprob, donor.pair);
      cell.changed.add(values[k].second, donor.pair);
      cell.of_pair[donor.pair].push_back(effect);
      if (donor.kind == 0) {
        const bool first = own == commuted_[static_cast<size_t>(donor.pair)].first;
        CommutedPair& row = study.pairs[layer * commuted_.size() + static_cast<size_t>(donor.pair)];
        (first ? row.effect_first : row.effect_second) = effect;
      }
    }
    tick(1 + static_cast<int64_t>(values.size()));
    begin = end;
  }
  kept.finish();

  const auto mean = [](const std::vector<double>& x) {
    double sum = 0;
    for (const double one : x) sum += one;
    return sum / static_cast<double>(x.size());
  };
  std::vector<UnitValues> effects, over;
  std::vector<size_t> row_of_over;
  for (size_t l = 0; l < layers; ++l)
    for (size_t kind = 0; kind < donor_names.size(); ++kind) {
      const Cell& cell = cells[l][kind];
      if (cell.effect.values.empty()) continue;
      SwapRow row;
      row.layer = static_cast<int32_t>(l);
      row.donor = donor_names[kind];
      row.pairs = static_cast<int64_t>(cell.of_pair.size());
      row.logprob = mean(cell.base.values);
      row.changed = mean(cell.changed.values);
      row.over_control = {no_number, {no_number, no_number}, no_number, no_number, 0};
      if (kind == 1 || kind == 2) {
        UnitValues gap;
        for (const auto& [pair, values] : cell.of_pair) gap.add(mean(cells[l][0].of_pair[pair]) - mean(values), pair);
        over.push_back(std::move(gap));
        row_of_over.push_back(study.swaps.size());
      }
      effects.push_back(cell.effect);
      study.swaps.push_back(row);
    }
  estimate_families(
      effects, request_.resamples, [&](size_t i) { return study.swaps[i].donor; },
      [&](size_t i, const PairedEstimate& found) { study.swaps[i].effect = found; });
  estimate_families(
      over, request_.resamples, [&](size_t i) { return study.swaps[row_of_over[i]].donor; },
      [&](size_t i, const PairedEstimate& found) { study.swaps[row_of_over[i]].over_control = found; });
}

Commutativity OrderStudy::run() {
  Commutativity study;
  study.commuted = static_cast<int64_t>(commuted_.size());
  study.other_order = static_cast<int64_t>(order_.size());
  for (size_t i = 0; i < records_.size(); ++i) {
    if (stopped()) {
      study.interrupted = true;
      return study;
    }
    const int64_t answer = made_.jobs[i].n_given() - rows_[i].n_rows();
    answers_.push_back(runs_.run(made_.jobs[i], rows_[i], answer));
    tick(1);
  }
  compare(study);
  estimate_families(
      aucs_, request_.resamples, [&](size_t i) { return study.similarity[i].measure + study.similarity[i].control; },
      [&](size_t i, const PairedEstimate& found) { study.similarity[i].auc = found; });
  swap(study);
  return study;
}

}  // namespace

std::vector<Record> product_records() {
  std::vector<Record> records;
  const auto add = [&](int a, int b, char sign, int answer, const std::string& pair) {
    const std::string question = std::to_string(a) + sign + std::to_string(b);
    const json::Value line = json::Value::object()
                                 .set("id", question)
                                 .set("prompt", question + "=")
                                 .set("target", std::to_string(answer))
                                 .set("pair", pair);
    records.push_back(parse_record(line, "own records: " + question));
  };
  for (const char sign : {'*', '-'})
    for (int a = 2; a <= 9; ++a)
      for (int b = a + 1; b <= 9; ++b) {
        const std::string pair = std::to_string(a) + sign + std::to_string(b);
        add(a, b, sign, sign == '*' ? a * b : a - b, pair);
        add(b, a, sign, sign == '*' ? a * b : b - a, pair);
      }
  return records;
}

void require_commuted_pairs(const std::vector<Record>& records) {
  std::map<std::string, std::vector<const Record*>> members;
  for (const Record& record : records) {
    if (record.pair.empty()) throw Error(record.where, "expected a key \"pair\" that names the question, found none");
    if (!record.target) throw Error(record.where, "expected a key \"target\" with the answer, found none");
    std::vector<const Record*>& of_pair = members[record.pair];
    of_pair.push_back(&record);
    if (of_pair.size() > 2)
      throw Error(record.where,
                  "expected two records, the two orders, of pair \"" + record.pair + "\", found a third one");
  }
  int64_t commuted = 0;
  for (const auto& [pair, two] : members) {
    if (two.size() != 2)
      throw Error(two.front()->where, "expected two records, the two orders, of pair \"" + pair + "\", found one");
    commuted += *two.front()->target == *two.back()->target;
  }
  if (commuted < 2)
    throw Error("--input",
                "expected at least two pairs whose records have the same target, found " + std::to_string(commuted));
}

int64_t commutativity_runs(const Session& session, const std::vector<Record>& records) {
  // Each record twice, and with each donor (at most three) behind each layer.
  return static_cast<int64_t>(records.size()) * (2 + 3 * session.model.n_layers());
}

Commutativity study_commutativity(const Session& session, const std::vector<Record>& records, const RecordJobs& made,
                                  const CommutativityRequest& request) {
  return OrderStudy(session, records, made, request).run();
}

}  // namespace signalbox::eval
