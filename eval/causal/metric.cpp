#include "eval/causal/metric.h"

#include <algorithm>
#include <array>

#include "base/error.h"

namespace signalbox::eval {

using namespace engine;
using namespace kernels;

namespace {

constexpr std::array<std::pair<Metric, std::string_view>, 4> metrics_by_name = {
    {{Metric::logprob, "logprob"}, {Metric::nll, "nll"}, {Metric::logit_diff, "logit_diff"}, {Metric::kl, "kl"}}};

// The token that a record's key names.
int32_t named_token(const Record& record, const char* key, const EncodeSetup& setup) {
  const json::Value* found = record.source.find(key);
  if (!found)
    throw Error(record.where, std::string("expected a key \"") + key + "\" for the metric logit_diff, found none");
  const json::Ref ref(*found, record.where + ": " + key);
  if (found->is_string()) {
    const std::vector<int32_t> tokens = encode_target(ref.string(), setup);
    if (tokens.empty()) ref.fail("expected a text of at least one token, found none");
    return tokens.front();
  }
  return static_cast<int32_t>(ref.integer(0, setup.n_vocab - 1));
}

float on_device(Backend& backend, Tensor logits, int64_t row, int32_t token) {
  float value;
  backend.download(&value, logits.row(row) + token, sizeof value);
  return value;
}

// A list in memory of the device.
template <class T>
struct Uploaded {
  std::shared_ptr<void> memory;
  Uploaded(Backend& backend, const std::vector<T>& list)
      : memory(backend.allocate(std::max<size_t>(1, list.size()) * sizeof(T))) {
    backend.upload(memory.get(), list.data(), list.size() * sizeof(T));
  }
  T* data() const { return static_cast<T*>(memory.get()); }
};

std::vector<float> factors_of(const MetricRows& rows, float sign) {
  std::vector<float> factors;
  for (const int32_t target : rows.targets) factors.push_back(target < 0 ? 0.f : sign * rows.factor);
  return factors;
}

}  // namespace

Metric parse_metric(std::string_view name, const std::string& where) {
  for (const auto& [metric, known] : metrics_by_name)
    if (known == name) return metric;
  throw Error(where, "expected " + std::string(metric_names()) + ", found \"" + std::string(name) + "\"");
}

std::string_view metric_name(Metric metric) { return metrics_by_name[static_cast<size_t>(metric)].second; }
std::string_view metric_names() { return "logprob, nll, logit_diff or kl"; }

MetricRows metric_rows(Metric metric, const Record& record, const EncodedRecord& encoded, const EncodeSetup& setup) {
  const std::vector<int32_t>& tokens = encoded.prompt->tokens;
  const int64_t n = static_cast<int64_t>(tokens.size());
  MetricRows rows;
  rows.metric = metric;
  if (metric == Metric::logprob && !encoded.target_start)
    throw Error(record.where, "expected a target for the metric logprob, found none");
  if (metric == Metric::logit_diff) {
    const int64_t last = encoded.target_start.value_or(n) - 1;
    if (last < 0) throw Error(record.where, "expected a token before the target for logit_diff, found none");
    rows.targets.assign(static_cast<size_t>(n - last), -1);
    rows.targets.front() = named_token(record, "answer", setup);
    rows.foil = named_token(record, "foil", setup);
    if (rows.targets.front() == rows.foil)
      throw Error(record.where, "expected an answer and a foil that differ in their first token, found token " +
                                    std::to_string(rows.foil) + " for both");
    return rows;
  }
  // The first token of all is not predicted.
  const int64_t start = std::max<int64_t>(1, encoded.target_start.value_or(1));
  if (start >= n)
    throw Error(record.where, "expected at least one predicted token for the metric " +
                                  std::string(metric_name(metric)) + ", found none");
  for (int64_t t = start; t <= n; ++t) rows.targets.push_back(t < n ? tokens[static_cast<size_t>(t)] : -1);
  if (metric != Metric::logprob) rows.factor = 1.f / static_cast<float>(n - start);
  return rows;
}

double metric_value(Backend& backend, const MetricRows& rows, Tensor logits, Tensor reference) {
  const size_t n = rows.targets.size();
  if (rows.metric == Metric::logit_diff)
    return static_cast<double>(on_device(backend, logits, 0, rows.targets.front())) -
           static_cast<double>(on_device(backend, logits, 0, rows.foil));
  const Uploaded<int32_t> targets(backend, rows.targets);
  const Uploaded<double> of_rows(backend, std::vector<double>(n));
  if (rows.metric == Metric::kl) {
    const Uploaded<int32_t> same(backend, std::vector<int32_t>(n));
    backend.compare_logits(of_rows.data(), same.data(), logits, reference);
  } else {
    backend.log_probs(of_rows.data(), logits, targets.data());
  }
  std::vector<double> found(n);
  backend.download(found.data(), of_rows.data(), n * sizeof(double));
  double sum = 0;
  int64_t counted = 0;
  for (size_t i = 0; i < n; ++i) {
    if (rows.targets[i] < 0) continue;
    sum += found[i];
    ++counted;
  }
  if (rows.metric == Metric::logprob) return sum;
  return (rows.metric == Metric::nll ? -sum : sum) / static_cast<double>(counted);
}

void metric_adjoint(Backend& backend, const MetricRows& rows, Tensor d_logits, Tensor logits, Tensor reference) {
  if (rows.metric == Metric::logit_diff) {
    backend.fill(d_logits.data, 0, static_cast<size_t>(d_logits.rows * d_logits.cols) * sizeof(float));
    for (const auto& [token, slope] : {std::pair(rows.targets.front(), 1.f), std::pair(rows.foil, -1.f)})
      backend.upload(d_logits.data + token, &slope, sizeof slope);
    return;
  }
  const Uploaded<int32_t> targets(backend, rows.targets);
  const Uploaded<float> factors(backend, factors_of(rows, rows.metric == Metric::nll ? -1.f : 1.f));
  if (rows.metric == Metric::kl)
    backend.compare_logits_adjoint(d_logits, logits, reference, factors.data());
  else
    backend.log_probs_adjoint(d_logits, logits, targets.data(), factors.data(), false);
}

}  // namespace signalbox::eval
