#include "eval/direction/validate.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "base/error.h"
#include "base/text.h"
#include "eval/direction/router_space.h"
#include "eval/direction/steering.h"
#include "eval/direction/streams.h"
#include "eval/statistics/draws.h"
#include "eval/statistics/paired.h"

namespace signalbox::eval {

using namespace engine;

namespace {

constexpr const char* ablated = "ablate";

struct Part {
  const char* name;
  const std::vector<std::vector<float>>* vectors;
  const char* suffix;
};

// What is done with a vector, and to which records: those of the other condition are moved by positive doses, those of
// the first by negative ones, and lose what they have by ablation.
struct Treatment {
  std::string dose;
  double factor = 0;  // 0: ablation
  int label = -1;
  bool controlled = false;
};

double mean_of(std::span<const double> values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

Interval central(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return {quantile(values, 0.025), quantile(values, 0.975)};
}

// (1 + draws at least as large) / (1 + draws).
double exceedance(double value, std::span<const double> draws) {
  const auto hits = std::count_if(draws.begin(), draws.end(), [&](double draw) { return draw >= value; });
  return (1.0 + static_cast<double>(hits)) / (1.0 + static_cast<double>(draws.size()));
}

// Adding v times this takes x's share along v away.
double ablating_scale(std::span<const float> v, std::span<const float> x) {
  const std::vector<double> wide(v.begin(), v.end());
  const double squares = dot(wide, v);
  return squares > 0 ? -dot(wide, x) / squares : 0;
}

class Study {
 public:
  Study(const Session& session, const StoredDirections& stored, const Labelled& data, const ValidateRequest& request)
      : session_(session),
        stored_(stored),
        data_(data),
        request_(request),
        controls_(stored.estimator, stored.streams, stored.labels, stored.examples, request.seed),
        made_(make_jobs(session, data.records, Generate{}, nullptr)) {
    for (size_t i = 0; i < data.records.size(); ++i) {
      positions_.push_back(positions_at(stored.places, data.records[i], made_.encoded[i]));
      rows_.push_back(metric_rows(request.metric, data.records[i], made_.encoded[i], session.encode));
      MetricRows divergence;
      divergence.metric = Metric::kl;
      divergence.targets.assign(static_cast<size_t>(made_.jobs[i].n_given() - positions_[i].front()), 0);
      divergence_rows_.push_back(std::move(divergence));
    }
    for (const double dose : request.doses)
      treatments_.push_back({short_number(dose), dose, dose > 0 ? -1 : 1, dose == 1});
    treatments_.push_back({ablated, 0, 1, true});
  }

  Validation run();

 private:
  Kept kept(const std::string& stage) const { return request_.stage ? request_.stage(stage) : Kept(); }
  bool interrupted() const { return request_.interrupted && *request_.interrupted; }
  void progress(int64_t more) {
    done_ += more;
    if (request_.on_progress) request_.on_progress(done_, total());
  }
  int64_t total() const;
  std::vector<Part> parts(int64_t layer) const;
  bool separation(Validation& found);
  Interval auc_interval(const std::vector<double>& scores) const;
  bool effects(Validation& found);
  // What is measured of a record in a layer: a list for each treatment's parts, then controls.
  struct Measured {
    double kl = undefined_number;  // of parts
    std::vector<double> values;    // one a vector
  };
  std::vector<Measured> measured(size_t record, int64_t layer, std::span<const Part> list,
                                 const std::map<std::string_view, std::vector<float>>& controls);
  bool steering(int64_t layer, const Part& part, const Treatment& treatment, SteeringRow& row);
  static json::Value line_of(const std::vector<Measured>& all);
  static std::vector<Measured> read_line(const json::Ref& line);
  std::vector<float> scales(const Steering& record, size_t i, int64_t layer, std::span<const float> vectors,
                            const Treatment& treatment) const;

  const Session& session_;
  const StoredDirections& stored_;
  const Labelled& data_;
  const ValidateRequest& request_;
  DirectionControls controls_;
  RecordJobs made_;
  std::vector<std::vector<int64_t>> positions_;
  std::vector<MetricRows> rows_, divergence_rows_;
  std::vector<Treatment> treatments_;
  std::map<std::tuple<int64_t, std::string, std::string>, double> aucs_;  // of layer, part, kind
  int64_t done_ = 0;
};

std::vector<Part> Study::parts(int64_t layer) const {
  std::vector<Part> list = {{"whole", &stored_.whole, ""}};
  if (reading_router(session_.model, layer)) {
    list.push_back({"router", &stored_.router, ".router"});
    list.push_back({"rest", &stored_.rest, ".rest"});
  }
  return list;
}

int64_t Study::total() const {
  int64_t vectors = 0;
  for (const Treatment& treatment : treatments_) {
    const auto n = static_cast<int64_t>(std::count(data_.labels.begin(), data_.labels.end(), treatment.label));
    for (const int64_t layer : request_.layers)
      vectors += n * (static_cast<int64_t>(parts(layer).size()) + (treatment.controlled ? 3 * request_.controls : 0));
  }
  return vectors;
}

Interval Study::auc_interval(const std::vector<double>& scores) const {
  std::map<int64_t, std::vector<size_t>> by_example;
  for (size_t i = 0; i < scores.size(); ++i) by_example[data_.examples[i]].push_back(i);
  std::vector<const std::vector<size_t>*> units;
  for (const auto& [example, members] : by_example) units.push_back(&members);
  const ResamplingDraws draws(request_.seed, Resampling::bootstrap, 13);
  std::vector<uint32_t> bits(units.size());
  std::vector<double> replicates;
  for (int64_t r = 0; r < request_.resamples; ++r) {
    draws.fill(r, bits);
    std::vector<double> drawn;
    std::vector<int> labels;
    for (const uint32_t word : bits)
      for (const size_t i : *units[ResamplingDraws::below(word, units.size())]) {
        drawn.push_back(scores[i]);
        labels.push_back(data_.labels[i]);
      }
    if (std::count(labels.begin(), labels.end(), 1) % static_cast<int64_t>(labels.size()) == 0) continue;  // one side
    replicates.push_back(rank_auc(drawn, labels));
  }
  if (units.size() < 2 || replicates.empty()) return {undefined_number, undefined_number};
  return central(std::move(replicates));
}

// How well every layer's vectors tell the records apart, against the best layer of every draw.
// False when interrupted.
bool Study::separation(Validation& found) {
  StreamRun run;
  run.batch = request_.batch;
  run.batch_tokens = request_.batch_tokens;
  run.kept = kept("streams");
  run.interrupted = request_.interrupted;
  const std::optional<StreamMeans> streams = mean_streams(session_, made_.jobs, positions_, run);
  if (!streams) return false;
  const auto scores_of = [&](int64_t layer, const std::vector<double>& vector) {
    std::vector<double> scores;
    for (size_t i = 0; i < data_.records.size(); ++i) scores.push_back(dot(vector, streams->row(i, layer)));
    return scores;
  };
  std::map<std::string_view, std::vector<std::vector<double>>> drawn;  // [kind][layer][draw]
  std::map<std::string_view, std::vector<double>> best;                // [kind][draw]
  for (const auto& [kind, name] : control_kinds) {
    drawn[name].resize(static_cast<size_t>(stored_.n_layers));
    for (int64_t r = 0; r < request_.controls; ++r) {
      // As if no label meant anything: those here are drawn anew too, else a vector along the difference, with a sign
      // by chance, would tell the records apart.
      const std::vector<int> labels = kind == DirectionControl::permuted
                                          ? relabelled(data_.labels, data_.examples, ~request_.seed, r)
                                          : data_.labels;
      double most = 0;
      for (int64_t l = 0; l < stored_.n_layers; ++l) {
        const double auc = rank_auc(scores_of(l, controls_.draw(kind, r, l)), labels);
        drawn[name][static_cast<size_t>(l)].push_back(auc);
        most = std::max(most, auc);
      }
      best[name].push_back(most);
    }
  }
  double highest = 0;
  for (int64_t l = 0; l < stored_.n_layers; ++l) {
    double whole_auc = 0;
    for (const Part& part : parts(l)) {
      const std::vector<float>& v = (*part.vectors)[static_cast<size_t>(l)];
      const std::vector<double> scores = scores_of(l, {v.begin(), v.end()});
      ValidationRow row{l, part.name, "direction", "", rank_auc(scores, data_.labels)};
      row.ci = auc_interval(scores);
      row.p = exceedance(row.auc, best["permuted"]);
      aucs_[{l, part.name, "direction"}] = row.auc;
      if (part.suffix[0] == 0) whole_auc = row.auc;
      found.rows.push_back(std::move(row));
    }
    highest = std::max(highest, whole_auc);
    for (const auto& [kind, name] : control_kinds) {
      const std::vector<double>& draws = drawn[name][static_cast<size_t>(l)];
      ValidationRow row{l, "whole", std::string(name), "", mean_of(draws)};
      row.ci = central(draws);
      row.p = exceedance(whole_auc, best[name]);
      aucs_[{l, "whole", std::string(name)}] = row.auc;
      found.rows.push_back(std::move(row));
    }
  }
  found.auc_p = exceedance(highest, best["permuted"]);
  return true;
}

// What vectors [n, d] are multiplied with at each position of record i: [n, positions].
std::vector<float> Study::scales(const Steering& record, size_t i, int64_t layer, std::span<const float> vectors,
                                 const Treatment& treatment) const {
  const auto d = static_cast<size_t>(stored_.d);
  std::vector<float> out;
  for (size_t begin = 0; begin < vectors.size(); begin += d)
    for (size_t p = 0; p < positions_[i].size(); ++p)
      out.push_back(static_cast<float>(treatment.dose == ablated
                                           ? ablating_scale(vectors.subspan(begin, d), record.stream(layer, p))
                                           : treatment.factor));
  return out;
}

// Through routes and otherwise, by the public edits (eval/causal/effects.h). False when interrupted.
bool Study::steering(int64_t layer, const Part& part, const Treatment& treatment, SteeringRow& row) {
  const std::string vector =
      std::string(directions_file) + ":layer." + std::to_string(layer) + ".resid_out" + part.suffix;
  const std::vector<float>& v = (*part.vectors)[static_cast<size_t>(layer)];
  std::vector<Record> records;
  RecordJobs made;
  made.span_names = made_.span_names;
  for (size_t i = 0; i < data_.records.size(); ++i) {
    if (data_.labels[i] != treatment.label) continue;
    json::Value edits = json::Value::array();
    const auto add = [&](int64_t begin, int64_t end, double scale) {
      edits.push_back(json::Value::object()
                          .set("op", "add")
                          .set("point", "layer." + std::to_string(layer) + ".resid_out")
                          .set("vector", vector)
                          .set("scale", scale)
                          .set("tokens", json::Value::object().set("positions",
                                                                   std::to_string(begin) + ":" + std::to_string(end))));
    };
    if (treatment.dose == ablated) {
      const Steering record(session_, made_.jobs[i], rows_[i], divergence_rows_[i], positions_[i], 1, 1);
      for (size_t p = 0; p < positions_[i].size(); ++p)
        add(positions_[i][p], positions_[i][p] + 1, ablating_scale(v, record.stream(layer, p)));
    } else {
      for (const auto& [begin, end] : runs_of(positions_[i])) add(begin, end, treatment.factor);
    }
    records.push_back(data_.records[i]);
    made.encoded.push_back(made_.encoded[i]);
    made.jobs.push_back(made_.jobs[i]);
    made.jobs.back().plan = session_.edits(json::Ref(edits, "edits"), stored_.dir, request_.seed);
  }
  EffectsRequest request;
  request.metric = request_.metric;
  request.edits_dir = stored_.dir;
  request.seed = request_.seed;
  request.interrupted = request_.interrupted;
  request.kept = kept("steering-" + std::to_string(layer) + "-" + part.name + "-" + treatment.dose);
  request.kept.on_kept = {};
  const Effects found = measure_effects(session_, records, made, request);
  if (found.interrupted) return false;
  double held = 0, alone = 0, both = 0, jaccard = 0;
  int64_t routed = 0;
  for (const EffectsRow& one : found.rows) {
    held += one.direct;
    alone += one.routes;
    both += one.interaction;
  }
  const auto n = static_cast<double>(found.rows.size());
  row.routes_held = held / n;
  row.routes_alone = alone / n;
  row.interaction = both / n;
  for (const PropagationRow& one : found.propagation) {
    if (std::isnan(one.jaccard)) continue;
    if (routed == 0) row.jaccard_next = one.jaccard;
    jaccard += one.jaccard;
    ++routed;
  }
  if (routed > 0) row.jaccard = jaccard / static_cast<double>(routed);
  return true;
}

std::vector<Study::Measured> Study::measured(size_t i, int64_t layer, std::span<const Part> list,
                                             const std::map<std::string_view, std::vector<float>>& controls) {
  std::vector<Measured> found;
  Steering record(session_, made_.jobs[i], rows_[i], divergence_rows_[i], positions_[i], request_.step_tokens,
                  request_.step_cells);
  for (const Treatment& treatment : treatments_) {
    if (treatment.label != data_.labels[i]) continue;
    const auto measure = [&](std::span<const float> vectors, bool first) {
      Measured& to = found.emplace_back();
      std::vector<double> kl;
      to.values = record.effects(layer, vectors, scales(record, i, layer, vectors, treatment), first ? &kl : nullptr);
      if (first) to.kl = kl.front();
    };
    for (const Part& part : list) measure((*part.vectors)[static_cast<size_t>(layer)], true);
    if (treatment.controlled)
      for (const auto& [kind, name] : control_kinds) measure(controls.at(name), false);
  }
  return found;
}

json::Value Study::line_of(const std::vector<Measured>& all) {
  json::Value list = json::Value::array();
  for (const Measured& one : all) {
    json::Value values = json::Value::array();
    values.push_back(one.kl);
    for (const double x : one.values) values.push_back(x);
    list.push_back(std::move(values));
  }
  return json::Value::object().set("measured", std::move(list));
}

std::vector<Study::Measured> Study::read_line(const json::Ref& line) {
  std::vector<Measured> all;
  const auto number = [](const json::Ref& of) { return of.is_null() ? undefined_number : of.number(); };
  for (const json::Ref& list : line.at("measured").items()) {
    Measured& one = all.emplace_back();
    one.kl = number(list[0]);
    for (size_t k = 1; k < list.length(); ++k) one.values.push_back(number(list[k]));
  }
  return all;
}

bool Study::effects(Validation& found) {
  // [layer, part or kind, dose] the mean over records of each of its vectors; of directions the records' values too.
  struct Tried {
    std::vector<double> sums;  // one a vector
    UnitValues values;         // of the first vector
    double kl = 0;
  };
  std::map<std::tuple<int64_t, std::string, std::string>, Tried> tried;
  std::vector<std::string> ids;
  for (const Record& record : data_.records) ids.push_back(record.id);
  for (const int64_t layer : request_.layers) {
    const std::vector<Part> list = parts(layer);
    const std::vector<float>& whole = stored_.whole[static_cast<size_t>(layer)];
    const std::vector<double> wide(whole.begin(), whole.end());
    const double length = std::sqrt(dot(wide, std::span<const float>(whole)));
    std::map<std::string_view, std::vector<float>> sets;  // controls [n, d]
    for (const auto& [kind, name] : control_kinds)
      for (int64_t r = 0; r < request_.controls; ++r)
        for (const double x : scaled(controls_.draw(kind, r, layer), length))
          sets[name].push_back(static_cast<float>(x));
    KeptItems kept_items(kept("layer-" + std::to_string(layer)), ids, "records of layer " + std::to_string(layer));
    for (size_t i = 0; i < data_.records.size(); ++i) {
      if (interrupted()) return false;
      std::vector<Measured> all;
      if (const json::Value known = kept_items.find(i); !known.is_null()) {
        all = read_line(json::Ref(known, ids[i]));
      } else {
        all = measured(i, layer, list, sets);
        kept_items.put(i, line_of(all));
      }
      size_t next = 0;
      for (const Treatment& treatment : treatments_) {
        if (treatment.label != data_.labels[i]) continue;
        const auto take = [&](const std::string& name, bool first) {
          const Measured& one = all.at(next++);
          Tried& to = tried[{layer, name, treatment.dose}];
          to.sums.resize(one.values.size());
          for (size_t k = 0; k < one.values.size(); ++k) to.sums[k] += one.values[k];
          if (first) {
            to.values.add(one.values.front(), data_.examples[i]);
            to.kl += one.kl;
          }
          progress(static_cast<int64_t>(one.values.size()));
        };
        for (const Part& part : list) take(part.name, true);
        if (treatment.controlled)
          for (const auto& [kind, name] : control_kinds) take(std::string(name), false);
      }
    }
    kept_items.finish();
  }
  for (const Treatment& treatment : treatments_) {
    const auto n = static_cast<double>(std::count(data_.labels.begin(), data_.labels.end(), treatment.label));
    // The largest effect of each draw over the layers.
    std::map<std::string_view, std::vector<double>> largest;
    if (treatment.controlled)
      for (const auto& [kind, name] : control_kinds) {
        largest[name].assign(static_cast<size_t>(request_.controls), 0);
        for (const int64_t layer : request_.layers) {
          const std::vector<double>& sums = tried.at({layer, std::string(name), treatment.dose}).sums;
          for (size_t k = 0; k < sums.size(); ++k)
            largest[name][k] = std::max(largest[name][k], std::fabs(sums[k]) / n);
        }
      }
    for (const int64_t layer : request_.layers) {
      double effect_of_whole = 0;
      for (const Part& part : parts(layer)) {
        const Tried& of = tried.at({layer, part.name, treatment.dose});
        ValidationRow row{layer, part.name, "direction", treatment.dose, aucs_.at({layer, part.name, "direction"})};
        const ClusteredValues units = of.values.clustered();
        const MeanEstimate estimate =
            corrected_means(std::span(&units, 1), request_.seed, request_.resamples, 1).front();
        row.effect = mean_of(of.values.values);
        row.ci = estimate.ci;
        // Controls have the whole vector's length, so it is the whole that they are compared with.
        if (treatment.controlled && part.suffix[0] == 0) {
          row.p = exceedance(std::fabs(row.effect), largest["permuted"]);
          effect_of_whole = row.effect;
        }
        SteeringRow more;
        more.layer = layer;
        more.part = part.name;
        more.dose = treatment.dose;
        more.condition = treatment.label > 0 ? stored_.contrast.one : stored_.contrast.other;
        more.records = static_cast<int64_t>(of.values.values.size());
        more.effect = row.effect;
        more.kl = of.kl / n;
        more.opposite = static_cast<double>(std::count_if(of.values.values.begin(), of.values.values.end(),
                                                          [&](double x) { return x * row.effect < 0; })) /
                        n;
        if (interrupted() || !steering(layer, part, treatment, more)) return false;
        found.rows.push_back(std::move(row));
        found.steering.push_back(std::move(more));
      }
      if (!treatment.controlled) continue;
      for (const auto& [kind, name] : control_kinds) {
        std::vector<double> means = tried.at({layer, std::string(name), treatment.dose}).sums;
        for (double& x : means) x /= n;
        ValidationRow row{layer, "whole", std::string(name), treatment.dose,
                          aucs_.at({layer, "whole", std::string(name)})};
        row.effect = mean_of(means);
        row.ci = central(means);
        row.p = exceedance(std::fabs(effect_of_whole), largest[name]);
        found.rows.push_back(std::move(row));
      }
    }
  }
  return true;
}

Validation Study::run() {
  Validation found;
  found.records = static_cast<int64_t>(data_.records.size());
  found.interrupted = interrupted() || !separation(found) || !effects(found);
  return found;
}

}  // namespace

Validation validate_directions(const Session& session, const StoredDirections& stored, const Labelled& data,
                               const ValidateRequest& request) {
  Study study(session, stored, data, request);
  return study.run();
}

}  // namespace signalbox::eval
