#include "eval/causal/effects.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>

#include "base/csv.h"
#include "base/error.h"
#include "base/files.h"
#include "engine/lens.h"
#include "eval/causal/recorded_run.h"
#include "probes/activation_store.h"
#include "probes/edit_memory.h"
#include "probes/edit_spec.h"

namespace signalbox::eval {

using namespace engine;
using namespace kernels;
using namespace probes;

namespace {

constexpr int64_t runs_per_record = 4;

double log_mass(const float* z, int64_t n) {
  const double top = *std::max_element(z, z + n);
  double mass = 0;
  for (int64_t v = 0; v < n; ++v) mass += std::exp(static_cast<double>(z[v]) - top);
  return top + std::log(mass);
}

// KL(softmax(p) || softmax(q)) in nats.
double divergence(const float* p, const float* q, int64_t n) {
  const double of_p = log_mass(p, n), of_q = log_mass(q, n);
  double sum = 0;
  for (int64_t v = 0; v < n; ++v) {
    const double log_p = static_cast<double>(p[v]) - of_p;
    sum += std::exp(log_p) * (log_p - (static_cast<double>(q[v]) - of_q));
  }
  return std::max(0.0, sum);
}

class Study {
 public:
  Study(const Session& session, const EffectsRequest& request, int32_t highest)
      : session_(session),
        backend_(*session.backend),
        request_(request),
        highest_(highest),
        lens_(backend_, session.model, session.weights) {
    const std::vector<int32_t> moe = session.model.moe_layers();
    for (const int32_t l : moe)
      if (l > highest) later_routed_.push_back(l);
    std::string globs = "*.router.ids,*.router.weights,*.router.logits";
    for (int32_t l = highest + 1; l < session.shape.n_layers(); ++l) {
      globs += "," + point_name(Point::resid_out, l);
    }
    points_ = PointSet::parse(globs, session.shape);
  }

  struct OfRecord {
    EffectsRow row;
    std::vector<Travel> travels;  // of layers highest + 1, ...
  };
  OfRecord record(const Record& record, const Job& job, const MetricRows& rows, const EditMemory* memory);
  // A line of a record, and back.
  json::Value line_of(const OfRecord& of) const;
  OfRecord read_line(const json::Ref& line, const std::string& id) const;
  std::vector<PropagationRow> propagation(const std::vector<OfRecord>& records) const;

 private:
  using Run = RecordedRun;
  Run run(const Job& job, const MetricRows& rows, const EditPlan* plan, const std::string& name) const {
    return record_run(session_, job, rows.n_rows(), points_, name, plan);
  }
  std::shared_ptr<const EditPlan> plan(json::Value edits, const std::shared_ptr<ActivationStore>& held,
                                       const EditMemory* memory) const;
  void travel(std::vector<Travel>& travels, const Run& base, const Run& edited, int64_t first);

  const Session& session_;
  Backend& backend_;
  const EffectsRequest& request_;
  int32_t highest_;
  Lens lens_;
  PointSet points_;
  std::vector<int32_t> later_routed_;
};

// These edits, and the later layers' routes of a recording.
std::shared_ptr<const EditPlan> Study::plan(json::Value edits, const std::shared_ptr<ActivationStore>& held,
                                            const EditMemory* given) const {
  EditMemory memory = given ? *given : EditMemory();
  memory.add(held);
  edits.push_back(json::Value::object()
                      .set("op", "replay")
                      .set("trace", "memory:" + held->name())
                      .set("layers", layer_ranges(later_routed_))
                      .set("weights", request_.holds_weights ? "recorded" : "model"));
  return EditPlan::parse(json::Ref(edits, "edits"), request_.edits_dir, session_.shape, request_.seed, &memory);
}

Study::OfRecord Study::record(const Record& record, const Job& job, const MetricRows& rows, const EditMemory* memory) {
  OfRecord found;
  found.travels.resize(static_cast<size_t>(session_.shape.n_layers() - highest_ - 1));
  EffectsRow& row = found.row;
  row.id = record.id;
  const Run base = run(job, rows, nullptr, "base");
  const Run edited = job.plan ? run(job, rows, job.plan.get(), "edited") : base;
  const auto value = [&](const Run& of) { return metric_value(backend_, rows, of.logits, base.logits); };
  row.base = value(base);
  row.total = value(edited) - row.base;
  if (!later_routed_.empty()) {
    if (job.plan) {
      const auto direct = plan(job.plan->source(), base.store, memory),
                 routes = plan(json::Value::array(), edited.store, nullptr);
      row.direct = value(run(job, rows, direct.get(), "direct")) - row.base;
      row.routes = value(run(job, rows, routes.get(), "routes")) - row.base;
    } else {
      row.direct = row.routes = 0;
    }
    row.interaction = row.total - row.direct - row.routes;
  }
  if (job.plan) {
    const int64_t first = std::min(job.plan->first_position(sequence_info(job)), job.n_given());
    row.edited_tokens = job.n_given() - first;
    travel(found.travels, base, edited, first);
  }
  return found;
}

json::Value Study::line_of(const OfRecord& of) const {
  json::Value line = json::Value::object(), travels = json::Value::array();
  const EffectsRow& row = of.row;
  line.set("base", row.base).set("total", row.total).set("direct", row.direct);
  line.set("routes", row.routes).set("interaction", row.interaction).set("edited_tokens", row.edited_tokens);
  for (const Travel& t : of.travels) {
    json::Value sums = json::Value::array();
    for (const int64_t x : {t.tokens, t.slots, t.left, t.crossed, t.logits}) sums.push_back(x);
    for (const double x : {t.jaccard, t.squares, t.relative, t.cosine, t.kl}) sums.push_back(x);
    travels.push_back(std::move(sums));
  }
  return line.set("travel", std::move(travels));
}

Study::OfRecord Study::read_line(const json::Ref& line, const std::string& id) const {
  line.reject_unknown({"id", "base", "total", "direct", "routes", "interaction", "edited_tokens", "travel"});
  const auto or_undefined = [](const json::Ref& value) { return value.is_null() ? undefined_number : value.number(); };
  const auto number = [&](const char* key) { return or_undefined(line.at(key)); };
  OfRecord found;
  found.row = {id,
               number("base"),
               number("total"),
               number("direct"),
               number("routes"),
               number("interaction"),
               line.at("edited_tokens").size()};
  for (const json::Ref& sums : line.at("travel").items()) {
    Travel t;
    size_t i = 0;
    for (int64_t* x : {&t.tokens, &t.slots, &t.left, &t.crossed, &t.logits}) *x = sums[i++].size();
    for (double* x : {&t.jaccard, &t.squares, &t.relative, &t.cosine, &t.kl}) *x = or_undefined(sums[i++]);
    found.travels.push_back(t);
  }
  if (static_cast<int64_t>(found.travels.size()) != session_.shape.n_layers() - highest_ - 1)
    line.at("travel").fail("expected a list for each later layer");
  return found;
}

void Study::travel(std::vector<Travel>& travels, const Run& base, const Run& edited, int64_t first) {
  const ActivationStore &a = *base.store, &b = *edited.store;
  const int64_t n = a.n_tokens(), d_model = session_.model.d_model, n_vocab = session_.model.n_vocab;
  const auto all = a.rows(0);
  const std::vector<int32_t> ids = a.ids(all), other_ids = b.ids(b.rows(0));
  const std::vector<float> logits = a.floats("router.logits", all), other_logits = b.floats("router.logits", b.rows(0));
  const auto n_routed = static_cast<int64_t>(a.layers().size());
  const int64_t n_experts = static_cast<int64_t>(logits.size()) / (n * n_routed);
  for (int32_t l = highest_ + 1; l < session_.shape.n_layers(); ++l) {
    Travel& to = travels[static_cast<size_t>(l - highest_ - 1)];
    const std::string name = point_name(Point::resid_out, l);
    const std::vector<float> stream = a.floats(name, all), other = b.floats(name, b.rows(0));
    if (backend_.invariant() && std::memcmp(stream.data(), other.data(), static_cast<size_t>(first * d_model) * 4) != 0)
      throw Error("causal effects",
                  "expected the tokens before the first edited one to be what they were, found others in "
                  "layer " +
                      std::to_string(l));
    if (first >= n) continue;
    const int64_t count = n - first;
    const auto part = [&](const std::vector<float>& x) {
      return std::span(x).subspan(static_cast<size_t>(first * d_model), static_cast<size_t>(count * d_model));
    };
    std::vector<float> read(static_cast<size_t>(count * n_vocab)), other_read(read.size());
    lens_.logits(part(stream), lens_.divisors(part(stream)), read);
    lens_.logits(part(other), lens_.divisors(part(other)), other_read);
    for (int64_t t = 0; t < count; ++t) {
      double size = 0, other_size = 0, change = 0, dot = 0;
      for (int64_t c = 0; c < d_model; ++c) {
        const double x = part(stream)[static_cast<size_t>(t * d_model + c)],
                     y = part(other)[static_cast<size_t>(t * d_model + c)];
        size += x * x;
        other_size += y * y;
        change += (y - x) * (y - x);
        dot += x * y;
      }
      to.relative += std::sqrt(change / size);
      to.cosine += dot / std::sqrt(size * other_size);
      to.kl += divergence(read.data() + t * n_vocab, other_read.data() + t * n_vocab, n_vocab);
      ++to.tokens;
    }
    const auto place = std::find(a.layers().begin(), a.layers().end(), l);
    if (place == a.layers().end()) continue;
    const int64_t index = place - a.layers().begin();
    for (int64_t t = first; t < n; ++t) {
      const auto route = [&](const std::vector<int32_t>& of, int64_t n_slots) {
        const auto begin = of.begin() + (t * n_routed + index) * n_slots;
        std::vector<int32_t> set(begin, begin + n_slots);
        set.erase(std::remove(set.begin(), set.end(), -1), set.end());
        return set;
      };
      const std::vector<int32_t> was = route(ids, a.n_slots()), is = route(other_ids, b.n_slots());
      int64_t common = 0;
      for (const int32_t e : was) common += std::count(is.begin(), is.end(), e);
      const auto either = static_cast<int64_t>(was.size() + is.size()) - common;
      to.slots += static_cast<int64_t>(was.size());
      to.left += static_cast<int64_t>(was.size()) - common;
      to.crossed += common < static_cast<int64_t>(was.size()) || common < static_cast<int64_t>(is.size());
      to.jaccard += either > 0 ? static_cast<double>(common) / static_cast<double>(either) : 1.0;
      for (int64_t e = 0; e < n_experts; ++e) {
        const auto at = static_cast<size_t>((t * n_routed + index) * n_experts + e);
        if (std::isnan(logits[at])) continue;  // a layer of fewer experts
        const double gap = static_cast<double>(other_logits[at]) - static_cast<double>(logits[at]);
        to.squares += gap * gap;
        ++to.logits;
      }
    }
  }
}

std::vector<PropagationRow> Study::propagation(const std::vector<OfRecord>& records) const {
  std::vector<PropagationRow> rows;
  for (size_t i = 0; i < static_cast<size_t>(session_.shape.n_layers() - highest_ - 1); ++i) {
    Travel from;
    for (const OfRecord& record : records) {
      const Travel& one = record.travels[i];
      from.tokens += one.tokens;
      from.slots += one.slots;
      from.left += one.left;
      from.crossed += one.crossed;
      from.logits += one.logits;
      from.jaccard += one.jaccard;
      from.squares += one.squares;
      from.relative += one.relative;
      from.cosine += one.cosine;
      from.kl += one.kl;
    }
    PropagationRow row;
    row.layer = highest_ + 1 + static_cast<int32_t>(i);
    row.tokens = from.tokens;
    if (from.tokens > 0) {
      const auto n = static_cast<double>(from.tokens);
      row.dresid_rel = from.relative / n;
      row.dresid_cos = from.cosine / n;
      row.lens_kl = from.kl / n;
      if (from.slots > 0) {
        row.ids_changed = static_cast<double>(from.left) / static_cast<double>(from.slots);
        row.jaccard = from.jaccard / n;
        row.dlogit_rms = std::sqrt(from.squares / static_cast<double>(from.logits));
        row.margin_crossed = static_cast<double>(from.crossed) / n;
      }
    }
    rows.push_back(row);
  }
  return rows;
}

}  // namespace

int64_t effects_tokens(const RecordJobs& made) {
  int64_t tokens = 0;
  for (const Job& job : made.jobs) tokens += runs_per_record * job.n_given();
  return tokens;
}

Effects measure_effects(const Session& session, const std::vector<Record>& records, const RecordJobs& made,
                        const EffectsRequest& request) {
  std::vector<MetricRows> rows;
  Effects effects;
  for (size_t i = 0; i < made.jobs.size(); ++i) {
    rows.push_back(metric_rows(request.metric, records[i], made.encoded[i], session.encode));
    if (made.jobs[i].plan) effects.highest_layer = std::max(effects.highest_layer, made.jobs[i].plan->highest_layer());
  }
  Study study(session, request, effects.highest_layer);
  std::vector<std::string> ids;
  for (const Record& record : records) ids.push_back(record.id);
  KeptItems kept(request.kept, std::move(ids), "records of " + request.kept.stem.filename().string());
  std::vector<Study::OfRecord> found;
  int64_t done = 0;
  for (size_t i = 0; i < made.jobs.size(); ++i) {
    if (request.interrupted && *request.interrupted) {
      effects.interrupted = true;
      return effects;
    }
    if (const json::Value known = kept.find(i); !known.is_null()) {
      found.push_back(study.read_line(json::Ref(known, records[i].id), records[i].id));
    } else {
      found.push_back(study.record(records[i], made.jobs[i], rows[i], request.memory ? request.memory(i) : nullptr));
      kept.put(i, study.line_of(found.back()));
    }
    effects.rows.push_back(found.back().row);
    done += runs_per_record * made.jobs[i].n_given();
    if (request.on_progress) request.on_progress(done);
  }
  kept.finish();
  effects.propagation = study.propagation(found);
  return effects;
}

void write_effects(const std::filesystem::path& dir, const Effects& effects, const EffectsRequest& request,
                   const Session& session, const json::Value& edits, uint64_t seed) {
  std::error_code failed;
  std::filesystem::create_directories(dir, failed);
  if (failed) throw Error(dir.string(), "cannot make the directory: " + failed.message());
  const std::string metric(metric_name(request.metric));
  CsvWriter table({"id", "metric", "base", "total", "direct", "routes", "interaction"});
  for (const EffectsRow& row : effects.rows) {
    table.cell(row.id)
        .cell(metric)
        .cell(row.base)
        .cell(row.total)
        .cell(row.direct)
        .cell(row.routes)
        .cell(row.interaction);
    table.end_row();
  }
  write_file_atomically(dir / "effects.csv", table.text());
  CsvWriter layers({"layer", "tokens", "ids_changed", "jaccard", "dlogit_rms", "margin_crossed", "dresid_rel",
                    "dresid_cos", "lens_kl"});
  for (const PropagationRow& row : effects.propagation) {
    layers.cell(int64_t{row.layer}).cell(row.tokens).cell(row.ids_changed).cell(row.jaccard).cell(row.dlogit_rms);
    layers.cell(row.margin_crossed).cell(row.dresid_rel).cell(row.dresid_cos).cell(row.lens_kl);
    layers.end_row();
  }
  write_file_atomically(dir / "propagation.csv", layers.text());
  write_file_atomically(dir / "summary.json",
                        json::dump(json::Value::object()
                                       .set("schema", "signalbox.effects/1")
                                       .set("metric", metric)
                                       .set("held", request.holds_weights ? "ids and weights" : "ids")
                                       .set("highest_edited_layer", int64_t{effects.highest_layer})
                                       .set("model", session.label)
                                       .set("model_hash", session.model_hash)
                                       .set("records", static_cast<int64_t>(effects.rows.size()))
                                       .set("ablation", "the edits")
                                       .set("reference", nullptr)
                                       .set("split", nullptr)
                                       .set("seed", seed)
                                       .set("edits", edits)) +
                            "\n");
}

}  // namespace signalbox::eval
