#include "eval/causal/gradient_trace.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <optional>

#include "base/error.h"
#include "base/files.h"
#include "engine/gradient.h"
#include "eval/routing/trace_texts.h"
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

std::vector<std::string> ids_of(const std::vector<Job>& jobs) {
  std::vector<std::string> ids;
  for (const Job& job : jobs) ids.push_back(job.prompt->id);
  return ids;
}

// Finished records' rows and metrics. Those whose rows did not reach the disk are forgotten, and those that are not in
// the sums of weights, where there are any.
void take_up(KeptItems& kept, const Kept& where, TraceWriter& trace, size_t n_records, std::optional<int64_t> in_sums,
             std::vector<double>& metrics) {
  std::vector<size_t> lost;
  for (size_t i = 0; i < n_records; ++i) {
    const json::Value known = kept.find(i);
    if (known.is_null()) continue;
    const json::Ref line(known, where.stem.string() + ".jsonl");
    if ((in_sums && static_cast<int64_t>(i) >= *in_sums) || !trace.restore(static_cast<int64_t>(i), line.at("settled")))
      lost.push_back(i);
    else
      metrics[i] = line.at("metric").number();
  }
  if (in_sums && !lost.empty() && static_cast<int64_t>(lost.front()) < *in_sums)
    throw Error(where.stem.string(),
                "expected the rows of the records whose weights' gradients are summed up, found "
                "them changed; remove the directory to begin anew");
  kept.forget(lost);
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

std::vector<std::string> gradient_files(bool with_weights) {
  std::vector<std::string> files = {trace_file, records_file, texts_file, gradient_summary};
  if (with_weights) files.emplace_back(weight_gradients_file);
  return files;
}

std::vector<std::string> gradient_spools() { return {rows_spool, patterns_spool}; }

std::vector<double> kept_metrics(const Kept& kept, const std::vector<Job>& jobs) {
  const KeptItems items(kept, ids_of(jobs), "records");
  std::vector<double> metrics;
  for (size_t i = 0; i < jobs.size(); ++i) {
    const json::Value line = items.find(i);
    metrics.push_back(json::Ref(line, kept.stem.string() + ".jsonl").at("metric").number());
  }
  return metrics;
}

GradientResult trace_gradients(const Session& session, const std::vector<Record>& records, const RecordJobs& made,
                               const GradientRequest& request, const std::function<json::Value(int64_t)>& record) {
  const std::vector<Job>& jobs = made.jobs;
  std::vector<MetricRows> rows;
  for (size_t i = 0; i < jobs.size(); ++i)
    rows.push_back(metric_rows(request.metric, records[i], made.encoded[i], session.encode));
  GradientResult result;
  result.metrics.resize(jobs.size());
  TraceRequest recorded = request.trace;
  recorded.points = PointSet::parse(default_points, session.shape);
  TraceOptions options = session.trace_options(recorded);
  options.slopes = request.trace.points;
  options.numbers = {metric_tensor};
  const bool resumable = !request.kept.stem.empty();
  options.resumable = resumable;
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
  KeptItems kept({request.kept.stem, {}}, ids_of(jobs), "records");
  const std::filesystem::path sums_file = request.kept.stem.string() + ".sums";
  const int64_t in_sums = weights && resumable ? weights->read_sums(sums_file) : 0;
  take_up(kept, request.kept, trace, jobs.size(), weights ? std::optional(in_sums) : std::nullopt, result.metrics);
  if (int64_t known = 0; resumable && request.kept.on_kept) {
    for (size_t i = 0; i < jobs.size(); ++i) known += kept.has(i);
    if (known > 0) request.kept.on_kept(std::to_string(known) + " of " + std::to_string(jobs.size()) + " records");
  }
  auto summed = std::chrono::steady_clock::now();
  std::optional<Forward> unedited;
  if (request.metric == Metric::kl) unedited.emplace(backend, session.model, session.weights, 0);
  int64_t done = 0;
  for (size_t next = 0; next < jobs.size();) {
    const bool stops = request.interrupted && *request.interrupted;
    const auto now = std::chrono::steady_clock::now();
    if (weights && resumable && next > 0 &&
        (stops || std::chrono::duration<double>(now - summed).count() >= request.sums_seconds)) {
      trace.sync();
      weights->keep_sums(sums_file, static_cast<int64_t>(next));
      summed = now;
    }
    if (stops) {
      if (resumable) trace.sync();
      kept.sync();
      result.interrupted = true;
      return result;
    }
    std::vector<const Job*> group;
    int64_t n_tokens = 0, n_blocks = 0;
    for (; next < jobs.size(); ++next) {
      const Job& job = jobs[next];
      if (kept.has(next)) {
        done += job.n_given();
        continue;
      }
      if (static_cast<int64_t>(group.size()) >= std::max<int64_t>(1, request.batch) ||
          (!group.empty() && n_tokens + job.n_given() > request.batch_tokens))
        break;
      group.push_back(&job);
      n_tokens += job.n_given();
      n_blocks += KvPool::blocks_for(job.n_given());
    }
    if (group.empty()) break;
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
    if (resumable)
      for (const Job* job : group)
        kept.put(static_cast<size_t>(job->index), json::Value::object()
                                                      .set("metric", result.metrics[static_cast<size_t>(job->index)])
                                                      .set("settled", trace.settle(job->index)));
    done += n_tokens;
    if (request.on_progress) request.on_progress(done);
  }
  kept.finish();
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
                                       .set("schema", gradient_schema)
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
  if (resumable) std::filesystem::remove(sums_file);
  return result;
}

}  // namespace signalbox::eval
