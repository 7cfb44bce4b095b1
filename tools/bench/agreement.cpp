#include "tools/bench/agreement.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <set>
#include <vector>

namespace signalbox::tools {

namespace {

// Experts and logits of one prompt.
class Kept : public ProbeSink {
 public:
  std::vector<std::set<int32_t>> experts;  // of each token in each layer, in the order of the run
  std::vector<float> logits;               // [tokens, n_vocab]
  int64_t n_vocab = 0;

  bool wants(Point point, int32_t) const override { return point == Point::router_ids || point == Point::logits; }
  void begin(const StepRows& rows) override { ranges_.assign(rows.ranges.begin(), rows.ranges.end()); }
  void take(Point, int32_t, const float* data, int64_t width) override {
    n_vocab = width;
    for (const RowRange& range : ranges_)
      logits.insert(logits.end(), data + range.batch_row * width, data + (range.batch_row + range.n_rows) * width);
  }
  void take_ids(int32_t, const int32_t* ids, const int32_t*, int64_t n_slots) override {
    for (const RowRange& range : ranges_) {
      for (int64_t row = range.batch_row; row < range.batch_row + range.n_rows; ++row) {
        std::set<int32_t>& chosen = experts.emplace_back(ids + row * n_slots, ids + (row + 1) * n_slots);
        chosen.erase(-1);
      }
    }
  }
  void end() override {}

 private:
  std::vector<RowRange> ranges_;
};

void run(const Session& session, Backend& backend, int64_t n_tokens, Kept& kept) {
  auto prompt = std::make_shared<Prompt>("agreement");
  uint32_t state = 3;
  for (int64_t t = 0; t < n_tokens; ++t) {
    state = state * 1664525u + 1013904223u;
    prompt->tokens.push_back(static_cast<int32_t>((state >> 8) % session.model.n_vocab));
  }
  Job job;
  job.prompt = prompt;
  job.task = Score{};
  Forward forward(backend, session.model, session.weights, 0);
  run_jobs(forward, {job}, session.options, {}, &kept);
}

double log_of_sum(const float* row, int64_t n) {
  const double top = static_cast<double>(*std::max_element(row, row + n));
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += std::exp(static_cast<double>(row[i]) - top);
  return top + std::log(sum);
}

}  // namespace

json::Value agreement_with(const Session& session, Backend& reference, int64_t n_tokens) {
  Kept mine, other;
  run(session, *session.backend, n_tokens, mine);
  run(session, reference, n_tokens, other);
  int64_t same_sets = 0, same_slots = 0, slots = 0;
  const size_t routes = std::min(mine.experts.size(), other.experts.size());
  for (size_t i = 0; i < routes; ++i) {
    same_sets += mine.experts[i] == other.experts[i];
    slots += static_cast<int64_t>(other.experts[i].size());
    for (const int32_t e : other.experts[i]) same_slots += static_cast<int64_t>(mine.experts[i].count(e));
  }
  const int64_t n = other.n_vocab, rows = n > 0 ? static_cast<int64_t>(other.logits.size()) / n : 0;
  double kl_sum = 0, kl_max = 0;
  int64_t same_top = 0;
  for (int64_t r = 0; r < rows; ++r) {
    const float *p = other.logits.data() + r * n, *q = mine.logits.data() + r * n;
    const double p_sum = log_of_sum(p, n), q_sum = log_of_sum(q, n);
    double kl = 0;
    for (int64_t i = 0; i < n; ++i) {
      const double log_p = static_cast<double>(p[i]) - p_sum;
      kl += std::exp(log_p) * (log_p - static_cast<double>(q[i]) + q_sum);
    }
    kl = std::max(kl, 0.0);  // rounding
    kl_sum += kl;
    kl_max = std::max(kl_max, kl);
    same_top += std::max_element(p, p + n) - p == std::max_element(q, q + n) - q;
  }
  const auto share = [](int64_t part, int64_t of) {
    return of > 0 ? json::Value(static_cast<double>(part) / static_cast<double>(of)) : json::Value();
  };
  return json::Value::object()
      .set("tokens", rows)
      .set("same_experts", share(same_sets, static_cast<int64_t>(routes)))
      .set("same_slots", share(same_slots, slots))
      .set("kl_mean", rows > 0 ? kl_sum / static_cast<double>(rows) : 0)
      .set("kl_max", kl_max)
      .set("same_top", share(same_top, rows));
}

std::string agreement_text(const json::Value& found) {
  const auto number = [&](const char* key) { return found.find(key)->real(); };
  const json::Value* experts = found.find("same_experts");
  char routes[64] = "", text[256];
  if (!experts->is_null()) std::snprintf(routes, sizeof routes, "%.2f %% of routes the same, ", 100 * experts->real());
  std::snprintf(text, sizeof text,
                "agreement with --numerics invariant over %ld tokens: %sKL %.2g nats (largest %.2g), same top token "
                "%.1f %%\n",
                static_cast<long>(found.find("tokens")->integer()), routes, number("kl_mean"), number("kl_max"),
                100 * number("same_top"));
  return text;
}

}  // namespace signalbox::tools
