// What the studies of commutativity and format are held against: scored runs of the built-in model with public edits,
// and traces on disk.
#pragma once
#include <cmath>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "eval/data/record_jobs.h"
#include "loaders/open.h"
#include "probes/edit_memory.h"
#include "probes/trace.h"
#include "tests/support.h"

namespace signalbox::test {

struct AnswerStudy {
  engine::Session session = tools::open_session((source_dir() / "tools/builtin/checkpoint").string(), {});
  std::vector<eval::Record> records;
  eval::RecordJobs made;
  TemporaryDirectory dir;
  std::unique_ptr<probes::TraceReader> trace;  // resid_out of every layer, and routes

  explicit AnswerStudy(std::vector<eval::Record> of) : records(std::move(of)) {
    made = eval::make_jobs(session, records, engine::Generate{}, nullptr);
    engine::TraceRequest request;
    request.dir = dir / "trace";
    request.points = probes::PointSet::parse("*.router.ids,*.router.weights,*.resid_out", session.shape);
    session.trace(made.jobs, session.options, request,
                  [&](int64_t i) { return records[static_cast<size_t>(i)].source; }, {});
    trace = std::make_unique<probes::TraceReader>(request.dir);
  }
  int64_t answer(size_t record) const { return *made.encoded[record].target_start - 1; }
  int64_t n_layers() const { return session.model.n_layers(); }
  std::vector<float> stream(size_t record, int64_t layer, int64_t position) const {
    const auto rows = trace->rows(static_cast<int64_t>(record));
    return trace->floats("layer." + std::to_string(layer) + ".resid_out",
                         {rows.begin + position, rows.begin + position + 1});
  }
  std::set<int32_t> route(size_t record, int64_t layer, int64_t position) const {
    const auto rows = trace->rows(static_cast<int64_t>(record));
    const std::vector<int32_t> ids = trace->ids({rows.begin + position, rows.begin + position + 1});
    const auto place = std::find(trace->layers().begin(), trace->layers().end(), static_cast<int32_t>(layer));
    const auto begin = ids.begin() + (place - trace->layers().begin()) * trace->n_slots();
    return {begin, begin + trace->n_slots()};
  }
  // Log p of a record's target, where the stream behind a layer is `rows` (position, values): by `ablate`.
  double logprob(size_t record, int64_t layer = -1,
                 const std::vector<std::pair<int64_t, std::vector<float>>>& rows = {}) const {
    probes::EditMemory memory;
    json::Value edits = json::Value::array();
    for (const auto& [position, values] : rows) {
      const std::string name = "at" + std::to_string(position);
      memory.add(name, {{static_cast<int64_t>(values.size())}, values});
      edits.push_back(json::Value::object()
                          .set("op", "ablate")
                          .set("point", "resid_out")
                          .set("layers", std::to_string(layer))
                          .set("value", "memory:" + name)
                          .set("tokens", json::Value::object().set("positions", std::to_string(position) + ":" +
                                                                                    std::to_string(position + 1))));
    }
    engine::Job job = made.jobs[record];
    job.index = 0;
    job.task = engine::Score{*made.encoded[record].target_start, {}};
    if (!rows.empty()) job.plan = probes::EditPlan::parse(json::Ref(edits, "edits"), ".", session.shape, 0, &memory);
    double sum = 0;
    engine::RunEvents events;
    events.on_done = [&](engine::Result result) {
      for (const double x : result.logprobs) sum += x;
    };
    session.run({job}, session.options, events, nullptr);
    return sum;
  }
};

// The centred cosine of two rows.
inline double cosine(const std::vector<float>& a, const std::vector<float>& b, const std::vector<double>& centre) {
  double dot = 0, of_a = 0, of_b = 0;
  for (size_t c = 0; c < a.size(); ++c) {
    const double x = static_cast<double>(a[c]) - centre[c], y = static_cast<double>(b[c]) - centre[c];
    dot += x * y;
    of_a += x * x;
    of_b += y * y;
  }
  return dot / std::sqrt(of_a) / std::sqrt(of_b);
}

inline double jaccard(const std::set<int32_t>& a, const std::set<int32_t>& b) {
  std::set<int32_t> all = a;
  all.insert(b.begin(), b.end());
  return static_cast<double>(a.size() + b.size() - all.size()) / static_cast<double>(all.size());
}

}  // namespace signalbox::test
