#include "eval/causal/answer_runs.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace signalbox::eval {

using namespace engine;
using namespace kernels;
using namespace probes;

namespace {

// The streams and routes of a run, from one of its tokens on.
class AnswerSink : public ProbeSink {
 public:
  AnswerSink(AnswerRun& to, std::vector<int32_t> routed) : to_(to), routed_(std::move(routed)) {}
  bool wants(Point point, int32_t) const override { return point == Point::resid_out || point == Point::router_ids; }
  void begin(const StepRows&) override {}
  void take(Point point, int32_t layer, const float* data, int64_t width) override {
    if (point != Point::resid_out) return;
    const int64_t kept = to_.n_tokens - to_.first;
    std::copy_n(data + to_.first * width, kept * width, to_.streams.begin() + layer * kept * width);
  }
  void take_ids(int32_t layer, const int32_t* ids, const int32_t*, int64_t width) override {
    const int64_t kept = to_.n_tokens - to_.first,
                  index = std::lower_bound(routed_.begin(), routed_.end(), layer) - routed_.begin();
    for (int64_t t = 0; t < kept; ++t) {
      const auto at = to_.routes.begin() + (index * kept + t) * to_.n_slots;
      std::copy_n(ids + (to_.first + t) * width, width, at);
      std::sort(at, at + to_.n_slots);
    }
  }
  void end() override {}

 private:
  AnswerRun& to_;
  std::vector<int32_t> routed_;
};

}  // namespace

AnswerRuns::AnswerRuns(const Session& session, int64_t step_tokens, int64_t step_cells)
    : session_(session),
      backend_(*session.backend),
      step_tokens_(step_tokens),
      step_cells_(step_cells),
      forward_(session.forward(0)) {}
AnswerRuns::~AnswerRuns() = default;

AnswerValue AnswerRuns::read(Tensor logits) const {
  AnswerValue value;
  value.logprob = metric_value(backend_, *rows_, logits, logits);
  std::vector<float> row(static_cast<size_t>(logits.cols));
  for (int64_t i = 0; i < logits.rows; ++i) {
    if (rows_->targets[static_cast<size_t>(i)] < 0) continue;
    backend_.download(row.data(), logits.row(i), row.size() * sizeof(float));
    value.likeliest.push_back(static_cast<int32_t>(std::max_element(row.begin(), row.end()) - row.begin()));
  }
  return value;
}

AnswerRun AnswerRuns::run(const Job& job, const MetricRows& rows, int64_t first) {
  job_ = &job;
  rows_ = &rows;
  const std::vector<int32_t> routed = session_.model.moe_layers();
  AnswerRun out;
  out.n_tokens = job.n_given();
  out.answer = out.n_tokens - rows.n_rows();
  if (first > out.answer) throw Error(job.prompt->id, "expected tokens up to the answer to be kept, found fewer");
  out.first = first;
  out.d_model = session_.model.d_model;
  out.n_slots = session_.model.n_active();
  const auto kept = static_cast<size_t>(out.n_tokens - first);
  out.streams.assign(static_cast<size_t>(session_.model.n_layers() * out.d_model) * kept, 0.f);
  out.routes.assign(routed.size() * kept * static_cast<size_t>(out.n_slots), -1);
  // The sequence itself, and the cells of one step: one of r rows touches at most r / block_size + 2 blocks. A cell
  // alone may have all rows.
  const int64_t of_all = KvPool::blocks_for(out.n_tokens),
                blocks = 2 * of_all + step_tokens_ / KvPool::block_size + 2 * step_cells_;
  sequence_.reset();
  if (!pool_ || pool_->n_blocks() < blocks) pool_.emplace(backend_, session_.model, blocks);
  sequence_.emplace(*pool_);
  Batch batch;
  batch.append(*sequence_, nullptr, 0, job.prompt->tokens, job.prompt->spans, out.n_tokens, rows.n_rows());
  AnswerSink sink(out, routed);
  const Outputs outputs = forward_.run(batch, &sink);
  forward_.flush(sink);
  AnswerValue value = read(outputs.logits);
  out.logprob = value.logprob;
  out.likeliest = std::move(value.likeliest);
  return out;
}

std::vector<AnswerValue> AnswerRuns::replaced(const AnswerRun& of, std::span<const ReplacedStream> cells) {
  std::vector<AnswerValue> out;
  for (size_t begin = 0; begin < cells.size();) {
    // Cells of one layer, each a sequence of its own from its first replaced row on.
    size_t end = begin;
    int64_t rows = 0;
    while (end < cells.size() && cells[end].layer == cells[begin].layer &&
           static_cast<int64_t>(end - begin) < step_cells_) {
      const int64_t more = of.n_tokens - cells[end].rows.front().first;
      if (end > begin && rows + more > step_tokens_) break;
      rows += more;
      ++end;
    }
    for (AnswerValue& value : step(of, cells.subspan(begin, end - begin))) out.push_back(std::move(value));
    begin = end;
  }
  return out;
}

std::vector<AnswerValue> AnswerRuns::step(const AnswerRun& of, std::span<const ReplacedStream> cells) {
  std::vector<float> stream;
  std::vector<SequenceCache> forks;
  forks.reserve(cells.size());
  Batch batch;
  for (const ReplacedStream& cell : cells) {
    const int64_t from = cell.rows.front().first, count = of.n_tokens - from;
    if (from < of.first || from > of.answer)
      throw Error(job_->prompt->id, "expected the first replaced token to be kept and not behind the answer's");
    forks.push_back(sequence_->fork(from));
    batch.append(forks.back(), nullptr, 0, std::span(job_->prompt->tokens).subspan(static_cast<size_t>(from)), {},
                 of.n_tokens, rows_->n_rows());
    const size_t at = stream.size();
    const std::span<const float> own = of.stream(cell.layer, from);
    stream.insert(stream.end(), own.data(), own.data() + count * of.d_model);
    for (const auto& [position, row] : cell.rows)
      std::copy_n(row, of.d_model, stream.begin() + static_cast<int64_t>(at) + (position - from) * of.d_model);
  }
  const std::shared_ptr<void> memory = backend_.allocate(stream.size() * sizeof(float));
  backend_.upload(memory.get(), stream.data(), stream.size() * sizeof(float));
  const Tensor x(static_cast<float*>(memory.get()), batch.n_tokens(), of.d_model);
  const Outputs outputs = forward_.run_from(batch, cells.front().layer + 1, x, nullptr);
  std::vector<AnswerValue> values;
  const int64_t n_rows = rows_->n_rows();
  for (size_t i = 0; i < cells.size(); ++i)
    values.push_back(read(Tensor(outputs.logits.row(static_cast<int64_t>(i) * n_rows), n_rows, outputs.logits.cols)));
  return values;
}

double route_jaccard(std::span<const int32_t> a, std::span<const int32_t> b) {
  int64_t common = 0, size = 0;
  for (const int32_t e : a)
    if (e >= 0) {
      ++size;
      common += std::binary_search(b.begin(), b.end(), e);
    }
  for (const int32_t e : b) size += e >= 0;
  return size > common ? static_cast<double>(common) / static_cast<double>(size - common) : 1.0;
}

double centred_cosine(std::span<const float> a, std::span<const float> b, std::span<const double> centre) {
  double dot = 0, of_a = 0, of_b = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double x = static_cast<double>(a[i]) - centre[i], y = static_cast<double>(b[i]) - centre[i];
    dot += x * y;
    of_a += x * x;
    of_b += y * y;
  }
  return of_a > 0 && of_b > 0 ? dot / std::sqrt(of_a * of_b) : std::numeric_limits<double>::quiet_NaN();
}

}  // namespace signalbox::eval
