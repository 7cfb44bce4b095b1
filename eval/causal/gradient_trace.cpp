#include "eval/causal/gradient_trace.h"

#include <algorithm>
#include <optional>

#include "base/error.h"
#include "base/files.h"
#include "engine/gradient.h"
#include "eval/routing/trace_texts.h"
#include "eval/store/staged_files.h"
#include "kernels/weight_adjoint.h"
#include "probes/trace_schema.h"

namespace signalbox::eval {

using namespace engine;
using namespace probes;

namespace {

constexpr const char* gradient_summary = "summary.json";

// The two halves of a batch of one trace: what the forward gives, and what comes on the way back.
class ValuesHalf : public ProbeSink {
 public:
  explicit ValuesHalf(TraceWriter& trace) : trace_(trace) {}
  bool wants(Point point, int32_t layer) const override { return trace_.wants(point, layer); }
  void begin(const StepRows& rows) override { trace_.begin(rows); }
  void take(Point point, int32_t layer, const float* data, int64_t width) override {
    trace_.take(point, layer, data, width);
  }
  void take_ids(int32_t layer, const int32_t* ids, const int32_t* original_ids, int64_t n_slots) override {
    trace_.take_ids(layer, ids, original_ids, n_slots);
  }
  void end() override {}
  void abandon() override { trace_.abandon(); }

 private:
  TraceWriter& trace_;
};

class SlopesHalf : public ProbeSink {
 public:
  SlopesHalf(TraceWriter& trace, const PointSet& points) : trace_(trace), points_(points) {}
  bool wants(Point point, int32_t layer) const override { return points_.wants(point, layer); }
  void begin(const StepRows&) override {}
  void take(Point point, int32_t layer, const float* data, int64_t width) override {
    trace_.take_slope(point, layer, data, width);
  }
  void take_ids(int32_t, const int32_t*, const int32_t*, int64_t) override {}
  void end() override { trace_.end(); }
  void abandon() override { trace_.abandon(); }

 private:
  TraceWriter& trace_;
  const PointSet& points_;
};

// Sequences of one step, without or with their edits.
struct Step {
  std::vector<SequenceCache> caches;
  std::vector<std::shared_ptr<const BoundEdits>> bound;
  Batch batch;
};

void fill(Step& step, KvPool& pool, const std::vector<const Job*>& jobs, const std::vector<MetricRows>& rows,
          bool edited) {
  step.caches.reserve(jobs.size());
  for (const Job* job : jobs) {
    step.caches.emplace_back(pool);
    const BoundEdits* edits = nullptr;
    if (edited && job->plan) {
      step.bound.push_back(job->plan->bind(sequence_info(*job)));
      edits = step.bound.back().get();
    }
    step.batch.append(step.caches.back(), edits, job->index, job->prompt->tokens, job->prompt->spans, job->n_given(),
                      rows[static_cast<size_t>(job->index)].n_rows());
  }
}

std::string names_with_gradient() {
  std::string names;
  for (int32_t i = 0; i < n_points; ++i) {
    const auto point = static_cast<Point>(i);
    if (has_gradient(point)) names += (names.empty() ? "" : ", ") + std::string(point_info(point).name);
  }
  return names;
}

}  // namespace

PointSet gradient_points(std::string_view globs, const ModelShape& shape) {
  std::string kept;
  for (size_t begin = 0; begin <= globs.size();) {
    const size_t end = std::min(globs.find(',', begin), globs.size());
    const std::string_view glob = globs.substr(begin, end - begin);
    std::string of_glob;
    for (const PointAt& at : PointSet::parse(glob, shape).all())
      if (has_gradient(at.point)) of_glob += "," + point_name(at.point, at.layer);
    if (of_glob.empty())
      throw Error("--points",
                  "expected points that have a gradient (" + names_with_gradient() + "), found " + std::string(glob));
    kept += of_glob;
    begin = end + 1;
  }
  return PointSet::parse(std::string_view(kept).substr(1), shape);
}

GradientResult trace_gradients(const Session& session, const std::vector<Record>& records, const RecordJobs& made,
                               const GradientRequest& request, const std::function<json::Value(int64_t)>& record) {
  const std::vector<Job>& jobs = made.jobs;
  std::vector<MetricRows> rows;
  for (size_t i = 0; i < jobs.size(); ++i)
    rows.push_back(metric_rows(request.metric, records[i], made.encoded[i], session.encode));
  GradientResult result;
  result.metrics.resize(jobs.size());
  require_own_directory(request.trace.dir,
                        {trace_file, records_file, texts_file, gradient_summary, weight_gradients_file}, "gradients");

  TraceRequest recorded = request.trace;
  recorded.points = PointSet::parse(default_points, session.shape);
  TraceOptions options = session.trace_options(recorded);
  options.slopes = request.trace.points;
  options.numbers = {metric_tensor};
  TraceWriter trace(std::move(options));
  ValuesHalf values(trace);
  SlopesHalf slopes(trace, request.trace.points);

  Backend& backend = *session.backend;
  Gradient gradient(backend, session.model, session.weights, widest_route(jobs));
  std::optional<WeightGradients> weights;
  if (!request.weights.empty()) {
    weight_adjoints(backend);  // refused before anything runs
    weights.emplace(session, request.weights);
  }
  std::optional<Forward> unedited;
  if (request.metric == Metric::kl) unedited.emplace(backend, session.model, session.weights, 0);
  int64_t done = 0;
  for (size_t next = 0; next < jobs.size();) {
    if (request.interrupted && *request.interrupted) {
      result.interrupted = true;
      return result;
    }
    std::vector<const Job*> group;
    int64_t n_tokens = 0, n_blocks = 0;
    while (next < jobs.size() && static_cast<int64_t>(group.size()) < std::max<int64_t>(1, request.batch) &&
           (group.empty() || n_tokens + jobs[next].n_given() <= request.batch_tokens)) {
      group.push_back(&jobs[next]);
      n_tokens += jobs[next].n_given();
      n_blocks += KvPool::blocks_for(jobs[next].n_given());
      ++next;
    }
    std::vector<int64_t> first(1, 0);  // row of the logits of each sequence
    for (const Job* job : group) first.push_back(first.back() + rows[static_cast<size_t>(job->index)].n_rows());

    KvPool pool(backend, session.model, n_blocks);
    std::shared_ptr<void> reference_memory;
    Tensor reference;
    if (unedited) {
      Step step;
      fill(step, pool, group, rows, false);
      const Outputs outputs = unedited->run(step.batch, nullptr);
      const size_t bytes = static_cast<size_t>(outputs.logits.rows * outputs.logits.cols) * sizeof(float);
      reference_memory = backend.allocate(bytes);
      backend.copy(reference_memory.get(), outputs.logits.data, bytes);
      reference = Tensor(static_cast<float*>(reference_memory.get()), outputs.logits.rows, outputs.logits.cols);
    }
    Step step;
    fill(step, pool, group, rows, true);
    gradient.run(
        step.batch, &values, slopes,
        [&](Tensor logits, Tensor d_logits) {
          for (size_t i = 0; i < group.size(); ++i) {
            const auto index = static_cast<size_t>(group[i]->index);
            const auto part = [&](Tensor all) { return all ? all.rows_from(first[i], rows[index].n_rows()) : all; };
            result.metrics[index] = metric_value(backend, rows[index], part(logits), part(reference));
            metric_adjoint(backend, rows[index], part(d_logits), part(logits), part(reference));
          }
        },
        weights ? &*weights : nullptr);
    done += n_tokens;
    if (request.on_progress) request.on_progress(done);
  }
  result.most_bytes = gradient.bytes();
  json::Value of_weights;
  if (weights) {
    result.weight_bytes = weights->bytes();
    weights->write(request.trace.dir, request.mean_of_weights ? 1 / static_cast<double>(jobs.size()) : 1);
    json::Value names = json::Value::array();
    for (const WantedWeight& one : request.weights) names.push_back(weight_name(one.id));
    of_weights = json::Value::object();
    of_weights.set("file", weight_gradients_file)
        .set("over_records", request.mean_of_weights ? "mean" : "sum")
        .set("names", std::move(names));
  }
  trace.set_numbers(metric_tensor, result.metrics);
  AtomicFile texts(request.trace.dir / texts_file);
  for (size_t i = 0; i < jobs.size(); ++i)
    texts.write(json::dump(text_line(records[i], made.encoded[i], jobs[i], {}, session.tokenizer.get())) + "\n");
  texts.commit();
  json::Value points = json::Value::array();
  for (const PointAt& at : request.trace.points.all()) points.push_back(point_name(at.point, at.layer));
  write_file_atomically(request.trace.dir / gradient_summary,
                        json::dump(json::Value::object()
                                       .set("schema", "signalbox.gradient/1")
                                       .set("metric", std::string(metric_name(request.metric)))
                                       .set("routes", "held")
                                       .set("model", session.label)
                                       .set("model_hash", session.model_hash)
                                       .set("edits", request.trace.plan ? request.trace.plan->source() : json::Value())
                                       .set("records", static_cast<int64_t>(jobs.size()))
                                       .set("weights", std::move(of_weights))
                                       .set("points", std::move(points))) +
                            "\n");
  finish_trace(trace, jobs, record);
  return result;
}

}  // namespace signalbox::eval
