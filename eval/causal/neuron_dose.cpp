#include "eval/causal/neuron_dose.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>

#include "base/csv.h"
#include "base/error.h"
#include "probes/edit_spec.h"

namespace signalbox::eval {

using namespace engine;
using namespace probes;

namespace {

class NeuronSink : public ProbeSink {
 public:
  explicit NeuronSink(const NeuronPlace& place) : place_(place) {}
  bool wants(Point point, int32_t layer) const override {
    return layer == place_.layer && (point == Point::router_ids || point == Point::expert_hidden);
  }
  void begin(const StepRows& rows) override { n_rows_ = rows.n_rows; }
  void take(Point, int32_t, const float* data, int64_t width) override {
    hidden_.assign(data, data + n_rows_ * width);
    width_ = width;
  }
  void take_ids(int32_t, const int32_t* ids, const int32_t*, int64_t n_slots) override {
    ids_.assign(ids, ids + n_rows_ * n_slots);
    n_slots_ = n_slots;
  }
  void end() override {
    const int64_t d_ff = width_ / n_slots_;
    for (int64_t t = 0; t < n_rows_; ++t)
      for (int64_t slot = 0; slot < n_slots_; ++slot)
        if (ids_[static_cast<size_t>(t * n_slots_ + slot)] == place_.expert)
          found.push_back({t, hidden_[static_cast<size_t>(t * width_ + slot * d_ff + place_.neuron)]});
  }
  std::vector<NeuronValue> found;

 private:
  const NeuronPlace& place_;
  int64_t n_rows_ = 0, width_ = 0, n_slots_ = 1;
  std::vector<float> hidden_;
  std::vector<int32_t> ids_;
};

// The neuron is `value` at tokens begin ... end - 1 that select the expert.
void set_neuron(json::Value& edits, EditMemory& memory, const NeuronPlace& place, int64_t d_ff, int64_t begin,
                int64_t end, double value) {
  const std::string name = "dose" + std::to_string(edits.items().size());
  std::vector<float> row(static_cast<size_t>(d_ff), 0.f);
  row[static_cast<size_t>(place.neuron)] = static_cast<float>(value);
  memory.add(name, {{d_ff}, std::move(row)});
  json::Value experts = json::Value::array(), neurons = json::Value::array();
  experts.push_back(int64_t{place.expert});
  neurons.push_back(int64_t{place.neuron});
  edits.push_back(
      json::Value::object()
          .set("op", "ablate")
          .set("point", "expert.hidden")
          .set("layers", std::to_string(place.layer))
          .set("experts", std::move(experts))
          .set("neurons", std::move(neurons))
          .set("value", "memory:" + name)
          .set("tokens", json::Value::object().set("positions", std::to_string(begin) + ":" + std::to_string(end))));
}

}  // namespace

void check_neuron(const Session& session, const NeuronPlace& place) {
  const std::vector<int32_t> routed = session.model.moe_layers();
  const auto refuse = [](const std::string& expected, int64_t found) {
    throw UsageError("--neuron", "expected " + expected + ", found " + std::to_string(found));
  };
  if (!std::binary_search(routed.begin(), routed.end(), place.layer))
    refuse("a layer with a router (" + layer_ranges(routed) + ")", place.layer);
  const Moe& moe = *session.model.layers[static_cast<size_t>(place.layer)].moe();
  if (place.expert >= moe.router.n_experts)
    refuse("an expert below " + std::to_string(moe.router.n_experts), place.expert);
  if (place.neuron >= moe.d_ff) refuse("a neuron below " + std::to_string(moe.d_ff), place.neuron);
}

std::vector<std::vector<NeuronValue>> neuron_values(const Session& session, const std::vector<Job>& jobs,
                                                    const NeuronPlace& place) {
  check_neuron(session, place);
  std::vector<std::vector<NeuronValue>> found;
  Forward forward = session.forward(0);
  for (const Job& job : jobs) {
    NeuronSink sink(place);
    KvPool pool(*session.backend, session.model, KvPool::blocks_for(job.n_given()));
    SequenceCache sequence(pool);
    Batch batch;
    batch.append(sequence, nullptr, job.index, job.prompt->tokens, {}, job.n_given(), 0);
    forward.run(batch, &sink);
    forward.flush(sink);
    found.push_back(std::move(sink.found));
  }
  return found;
}

std::vector<Dose> quantile_doses(const std::vector<std::vector<NeuronValue>>& values) {
  std::vector<double> sorted;
  double sum = 0;
  for (const auto& of_record : values)
    for (const NeuronValue& one : of_record) {
      sorted.push_back(static_cast<double>(one.value));
      sum += sorted.back();
    }
  if (sorted.empty())
    throw Error("--neuron", "expected tokens that select its expert, found none among the reference records");
  std::sort(sorted.begin(), sorted.end());
  std::vector<Dose> doses = {{"0", 0}, {"mean", sum / static_cast<double>(sorted.size())}};
  for (const auto& [name, share] : {std::pair("p01", 0.01), std::pair("p25", 0.25), std::pair("p50", 0.5),
                                    std::pair("p75", 0.75), std::pair("p99", 0.99)})
    doses.push_back({name, quantile(sorted, share)});
  std::stable_sort(doses.begin(), doses.end(), [](const Dose& a, const Dose& b) { return a.value < b.value; });
  return doses;
}

DosedJobs dosed_jobs(const Session& session, const RecordJobs& made,
                     const std::vector<std::vector<NeuronValue>>& values, const NeuronPlace& place, DoseKind kind,
                     double dose) {
  DosedJobs dosed{made, std::vector<EditMemory>(made.jobs.size())};
  const int64_t d_ff = session.model.layers[static_cast<size_t>(place.layer)].moe()->d_ff;
  for (size_t i = 0; i < made.jobs.size(); ++i) {
    if (values[i].empty()) continue;
    json::Value edits = json::Value::array();
    EditMemory& memory = dosed.memories[i];
    if (kind == DoseKind::set) {
      set_neuron(edits, memory, place, d_ff, values[i].front().position, values[i].back().position + 1, dose);
    } else {
      for (const NeuronValue& one : values[i]) {
        const double was = static_cast<double>(one.value);
        set_neuron(edits, memory, place, d_ff, one.position, one.position + 1,
                   kind == DoseKind::add ? was + dose : was * dose);
      }
    }
    dosed.made.jobs[i].plan = EditPlan::parse(json::Ref(edits, "edits"), ".", session.shape, 0, &memory);
  }
  return dosed;
}

DoseRow dose_row(const Dose& dose, const Effects& effects, const std::vector<Record>& records,
                 const std::vector<std::vector<NeuronValue>>& values, uint64_t seed) {
  DoseRow row;
  row.dose = dose;
  std::map<std::string, int64_t> pairs;
  std::vector<int64_t> clusters;
  std::vector<double> total, direct, routes;
  int64_t next = 0;
  for (size_t i = 0; i < records.size(); ++i) {
    if (values[i].empty()) continue;
    row.tokens += static_cast<int64_t>(values[i].size());
    int64_t cluster = next;
    if (!records[i].pair.empty()) cluster = pairs.try_emplace(records[i].pair, next).first->second;
    next += cluster == next;
    clusters.push_back(cluster);
    total.push_back(effects.rows[i].total);
    direct.push_back(effects.rows[i].direct);
    routes.push_back(effects.rows[i].routes);
  }
  row.records = static_cast<int64_t>(total.size());
  const auto mean = [&](const std::vector<double>& of) {
    return !of.empty() && std::isnan(of.front()) ? bootstrap_mean({}, {}, seed) : bootstrap_mean(of, clusters, seed);
  };
  row.total = mean(total);
  row.direct = mean(direct);
  row.routes = mean(routes);
  return row;
}

std::string dose_table(const std::vector<DoseRow>& rows, Metric metric) {
  CsvWriter csv({"dose", "value", "metric", "records", "tokens", "total", "total_lo", "total_hi", "direct", "direct_lo",
                 "direct_hi", "routes", "routes_lo", "routes_hi"});
  for (const DoseRow& row : rows) {
    csv.cell(row.dose.name).cell(row.dose.value).cell(metric_name(metric)).cell(row.records).cell(row.tokens);
    for (const MeanEstimate* of : {&row.total, &row.direct, &row.routes})
      csv.cell(of->mean).cell(of->ci.lo).cell(of->ci.hi);
    csv.end_row();
  }
  return csv.text();
}

}  // namespace signalbox::eval
