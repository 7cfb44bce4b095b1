#include "eval/causal/pairs.h"

#include <algorithm>
#include <map>

#include "base/error.h"
#include "eval/causal/recorded_run.h"

namespace signalbox::eval {

using namespace engine;
using namespace kernels;

namespace {

constexpr const char* why_dropped =
    "the clean run does not prefer its answer, or the corrupt run prefers it: of logit_diff above 0 on clean and below "
    "0 "
    "on corrupt are expected, of a target a larger probability on clean";

// Null counts as absent, as everywhere.
bool has_map(const Record& record) { return json::Ref(record.source, record.where).find("map").has_value(); }

std::vector<std::array<int32_t, 2>> read_map(const Record& record, int64_t n_clean, int64_t n_corrupt) {
  const json::Ref ref = json::Ref(record.source, record.where).at("map");
  std::vector<std::array<int32_t, 2>> map;
  std::vector<bool> seen[2] = {std::vector<bool>(static_cast<size_t>(n_clean)),
                               std::vector<bool>(static_cast<size_t>(n_corrupt))};
  for (const json::Ref& entry : ref.items()) {
    if (entry.length() != 2)
      entry.fail("expected [clean position, corrupt position], found " + std::to_string(entry.length()) + " items");
    std::array<int32_t, 2>& to = map.emplace_back();
    for (size_t side = 0; side < 2; ++side) {
      const auto position = static_cast<size_t>(entry[side].integer(0, (side == 0 ? n_clean : n_corrupt) - 1));
      if (seen[side][position])
        entry[side].fail(std::string("expected each position of the ") + (side == 0 ? "clean" : "corrupt") +
                         " record once, found " + std::to_string(position) + " again");
      seen[side][position] = true;
      to[side] = static_cast<int32_t>(position);
    }
  }
  if (map.empty()) ref.fail("expected at least one pair of positions, found none");
  std::sort(map.begin(), map.end());
  return map;
}

std::vector<std::array<int32_t, 2>> positions_of(const Record& clean, const Record& corrupt, int64_t n_clean,
                                                 int64_t n_corrupt) {
  std::vector<std::array<int32_t, 2>> map;
  const bool of_clean = has_map(clean), of_corrupt = has_map(corrupt);
  if (of_clean) map = read_map(clean, n_clean, n_corrupt);
  if (of_corrupt) {
    std::vector<std::array<int32_t, 2>> other = read_map(corrupt, n_clean, n_corrupt);
    if (of_clean && other != map)
      throw Error(corrupt.where,
                  "map: expected the map of the pair's clean record (" + clean.where + "), found another");
    map = std::move(other);
  }
  if (!map.empty()) return map;
  if (n_clean != n_corrupt)
    throw Error(corrupt.where, "expected as many tokens as the clean record of the pair \"" + clean.pair + "\" has (" +
                                   std::to_string(n_clean) + ", " + clean.where +
                                   "), or a \"map\" of positions, found " + std::to_string(n_corrupt));
  for (int32_t t = 0; t < n_clean; ++t) map.push_back({t, t});
  return map;
}

// That both runs are measured by one metric.
void require_one_metric(Metric metric, const CausalPair& pair, const Record& clean, const Record& corrupt,
                        const RecordJobs& made) {
  const MetricRows &a = pair.clean_rows, &b = pair.corrupt_rows;
  const auto same = [&](const char* what, int32_t of_clean, int32_t of_corrupt) {
    if (of_clean != of_corrupt)
      throw Error(corrupt.where, std::string(what) + ": expected that of the pair's clean record (token " +
                                     std::to_string(of_clean) + ", " + clean.where +
                                     "), for both runs are measured by one metric, found token " +
                                     std::to_string(of_corrupt));
  };
  if (metric == Metric::logit_diff) {
    same("answer", a.targets.front(), b.targets.front());
    same("foil", a.foil, b.foil);
    return;
  }
  const auto &of_clean = made.encoded[pair.clean].target_start, &of_corrupt = made.encoded[pair.corrupt].target_start;
  if (metric == Metric::nll && !of_clean)
    throw Error(clean.where,
                "expected a target for the metric nll of a pair, whose texts differ in what is predicted, found none");
  if (of_clean.has_value() != of_corrupt.has_value())
    throw Error(corrupt.where, std::string("target: expected ") + (of_clean ? "that of" : "none, as in") +
                                   " the pair's clean record (" + clean.where + "), found " +
                                   (of_clean ? "none" : "one"));
  // Without a target kl counts every token, whatever it is.
  if (a.n_rows() != b.n_rows() || (of_clean && a.targets != b.targets))
    throw Error(corrupt.where,
                std::string(of_clean ? "target: expected the tokens of that" : "expected as many tokens as") +
                    " of the pair's clean record (" + clean.where +
                    "), for both runs are measured by one metric, found others");
}

}  // namespace

std::vector<CausalPair> causal_pairs(Metric metric, const std::vector<Record>& records, const RecordJobs& made,
                                     const EncodeSetup& setup) {
  struct Sides {
    std::string name;
    const Record *clean = nullptr, *corrupt = nullptr;
  };
  std::vector<Sides> found;
  std::map<std::string, size_t> by_name;
  for (const Record& record : records) {
    if (record.pair.empty()) throw Error(record.where, "expected a key \"pair\", found none");
    const bool clean = record.condition == "clean";
    if (!clean && record.condition != "corrupt")
      throw Error(record.where, "condition: expected \"clean\" or \"corrupt\", found " +
                                    (record.condition.empty() ? "none" : "\"" + record.condition + "\""));
    const auto [place, is_new] = by_name.try_emplace(record.pair, found.size());
    if (is_new) found.push_back({record.pair, nullptr, nullptr});
    Sides& sides = found[place->second];
    const Record*& side = clean ? sides.clean : sides.corrupt;
    if (side)
      throw Error(record.where, "expected one " + record.condition + " record of the pair \"" + record.pair +
                                    "\", found another at " + side->where);
    side = &record;
  }
  std::vector<CausalPair> pairs;
  for (const Sides& sides : found) {
    if (!sides.clean || !sides.corrupt)
      throw Error((sides.clean ? sides.clean : sides.corrupt)->where,
                  std::string("expected a ") + (sides.clean ? "corrupt" : "clean") + " record of the pair \"" +
                      sides.name + "\" too, found none");
    CausalPair& pair = pairs.emplace_back();
    pair.name = sides.name;
    pair.clean = static_cast<size_t>(sides.clean - records.data());
    pair.corrupt = static_cast<size_t>(sides.corrupt - records.data());
    pair.clean_rows = metric_rows(metric, *sides.clean, made.encoded[pair.clean], setup);
    pair.corrupt_rows = metric_rows(metric, *sides.corrupt, made.encoded[pair.corrupt], setup);
    pair.map =
        positions_of(*sides.clean, *sides.corrupt, made.jobs[pair.clean].n_given(), made.jobs[pair.corrupt].n_given());
    require_one_metric(metric, pair, *sides.clean, *sides.corrupt, made);
  }
  return pairs;
}

bool prefers_answer(Metric metric, double clean, double corrupt) {
  switch (metric) {
    case Metric::logit_diff: return clean > 0 && corrupt < 0;
    case Metric::logprob: return clean > corrupt;
    case Metric::nll: return clean < corrupt;
    case Metric::kl: return true;
  }
  return true;
}

SelectedPairs select_pairs(const Session& session, const RecordJobs& made, std::vector<CausalPair> pairs, bool keep_all,
                           const std::string& where, const std::atomic<bool>* interrupted, bool may_be_none) {
  SelectedPairs selected;
  Backend& backend = *session.backend;
  for (CausalPair& pair : pairs) {
    if (interrupted && *interrupted) {
      selected.interrupted = true;
      return selected;
    }
    const auto run = [&](size_t record, const MetricRows& rows) {
      return record_run(session, made.jobs[record], rows.n_rows(), PointSet(), "run");
    };
    const RecordedRun clean = run(pair.clean, pair.clean_rows), corrupt = run(pair.corrupt, pair.corrupt_rows);
    const PairValues values{metric_value(backend, pair.clean_rows, clean.logits, clean.logits),
                            metric_value(backend, pair.corrupt_rows, corrupt.logits, clean.logits)};
    if (keep_all || prefers_answer(pair.clean_rows.metric, values.clean, values.corrupt)) {
      selected.values.push_back(values);
      selected.pairs.push_back(std::move(pair));
    } else {
      selected.dropped.push_back(pair.name);
    }
  }
  if (!may_be_none) require_a_pair(selected, where);
  return selected;
}

void require_a_pair(const SelectedPairs& selected, const std::string& where) {
  if (selected.pairs.empty())
    throw Error(where, "expected a pair that prefers its answer, found none among " +
                           std::to_string(selected.dropped.size()) + " (" + why_dropped + ")");
}

json::Value pairs_summary(const SelectedPairs& selected) {
  json::Value dropped = json::Value::array();
  for (const std::string& name : selected.dropped) dropped.push_back(name);
  json::Value summary = json::Value::object();
  summary.set("read", static_cast<int64_t>(selected.pairs.size() + selected.dropped.size()))
      .set("kept", static_cast<int64_t>(selected.pairs.size()))
      .set("dropped", std::move(dropped));
  if (!selected.dropped.empty()) summary.set("dropped_because", why_dropped);
  return summary;
}

std::string dropped_pairs_text(const SelectedPairs& selected) {
  if (selected.dropped.empty()) return {};
  constexpr size_t most = 8;
  std::string names;
  for (size_t i = 0; i < std::min(most, selected.dropped.size()); ++i)
    names += (i > 0 ? ", " : "") + selected.dropped[i];
  if (selected.dropped.size() > most) names += ", ...";
  return std::to_string(selected.dropped.size()) + " of " +
         std::to_string(selected.pairs.size() + selected.dropped.size()) + " pairs dropped: " + why_dropped + ": " +
         names;
}

}  // namespace signalbox::eval
