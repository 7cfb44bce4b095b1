#include "eval/lens/expert_vocabulary.h"

#include <algorithm>
#include <numeric>
#include <tuple>
#include <utility>

#include "base/error.h"

namespace signalbox::eval {

namespace {

constexpr size_t most_product = size_t{16} << 20;  // logits of one product with the head
constexpr size_t tokens_of_a_task = 4096;

// The experts that raise each token most, of those seen so far.
class Raisers {
 public:
  Raisers(std::vector<int32_t> tokens, size_t most) : tokens_(std::move(tokens)), most_(most) {
    heaps_.resize(tokens_.size());
  }
  size_t n_tokens() const { return tokens_.size(); }

  // One expert's row of logits and their mean, for the tokens [begin, end) of the list.
  void add(std::span<const float> logits, double centre, ExpertToken of, size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i) {
      std::vector<TokenExpert>& heap = heaps_[i];
      const double mean = static_cast<double>(logits[static_cast<size_t>(tokens_[i])]) - centre;
      if (heap.size() == most_ && mean <= heap[0].mean) continue;  // of equals the first stays
      if (heap.size() == most_) {
        std::pop_heap(heap.begin(), heap.end(), before);
        heap.pop_back();
      }
      heap.push_back({tokens_[i], 0, of.layer, of.expert, mean, of.n});
      std::push_heap(heap.begin(), heap.end(), before);
    }
  }

  std::vector<TokenExpert> sorted() {
    std::vector<TokenExpert> out;
    for (std::vector<TokenExpert>& heap : heaps_) {
      std::sort(heap.begin(), heap.end(), before);
      for (size_t i = 0; i < heap.size(); ++i) heap[i].rank = static_cast<int32_t>(i) + 1;
      out.insert(out.end(), heap.begin(), heap.end());
      heap = {};
    }
    return out;
  }

 private:
  static bool before(const TokenExpert& a, const TokenExpert& b) {
    return std::tuple(-a.mean, a.layer, a.expert) < std::tuple(-b.mean, b.layer, b.expert);
  }
  std::vector<int32_t> tokens_;
  size_t most_;
  std::vector<std::vector<TokenExpert>> heaps_;  // the front is the last of those kept
};

}  // namespace

ExpertMeans::ExpertMeans(const Session& session, const std::vector<Job>& jobs, const ChosenTokens& chosen,
                         std::vector<int32_t> layers)
    : chosen_(chosen),
      lens_(*session.backend, session.model, session.weights),
      d_model_(static_cast<size_t>(session.model.d_model)),
      n_slots_(static_cast<size_t>(std::max(session.model.n_active(), widest_route(jobs)))),
      token_bytes_(layers.size() * n_slots_ * (d_model_ * sizeof(float) + sizeof(int32_t))),
      last_layer_(static_cast<int32_t>(session.model.n_layers()) - 1) {
  for (const int32_t l : layers) {
    const auto n_experts = static_cast<size_t>(session.shape.layers[static_cast<size_t>(l)].n_experts);
    layers_.push_back({l, std::vector<int64_t>(n_experts, 0), std::vector<double>(n_experts * d_model_, 0)});
  }
  contributions_.resize(layers_.size());
  experts_.resize(layers_.size());
}

int64_t ExpertMeans::index_of(int32_t layer) const {
  const auto at = std::lower_bound(layers_.begin(), layers_.end(), layer,
                                   [](const OfLayer& of, int32_t wanted) { return of.layer < wanted; });
  return at == layers_.end() || at->layer != layer ? -1 : at - layers_.begin();
}

bool ExpertMeans::wants(Point point, int32_t layer) const {
  if (point == Point::resid_out) return layer == last_layer_;
  return (point == Point::expert_contribution || point == Point::router_ids) && index_of(layer) >= 0;
}

void ExpertMeans::begin(const StepRows& step) { rows_ = chosen_rows(step, chosen_); }

void ExpertMeans::take(Point point, int32_t layer, const float* data, int64_t width) {
  if (point == Point::resid_out) {
    gather_rows(rows_, data, width, 0, d_model_, stream_);
    divisors_ = lens_.divisors(stream_);
  } else {
    gather_rows(rows_, data, width, 0, static_cast<size_t>(width),
                contributions_[static_cast<size_t>(index_of(layer))]);
  }
}

void ExpertMeans::take_ids(int32_t layer, const int32_t* ids, const int32_t*, int64_t n_slots) {
  std::vector<int32_t>& experts = experts_[static_cast<size_t>(index_of(layer))];
  experts.clear();
  for (const ChosenRow& row : rows_) {
    std::vector<int32_t> route(ids + row.batch_row * n_slots, ids + (row.batch_row + 1) * n_slots);
    std::erase(route, -1);
    std::sort(route.begin(), route.end());
    route.resize(static_cast<size_t>(n_slots), -1);
    experts.insert(experts.end(), route.begin(), route.end());
  }
}

void ExpertMeans::end() {
  if (rows_.empty()) return;
  for (size_t l = 0; l < layers_.size(); ++l) {
    const size_t n_slots = experts_[l].size() / rows_.size();
    for (size_t slot = 0; slot < experts_[l].size(); ++slot) {
      if (experts_[l][slot] < 0) continue;
      const auto expert = static_cast<size_t>(experts_[l][slot]);
      ++layers_[l].n[expert];
      const float* c = contributions_[l].data() + slot * d_model_;
      double* sum = layers_[l].sums.data() + expert * d_model_;
      for (size_t i = 0; i < d_model_; ++i) sum[i] += static_cast<double>(c[i]) / divisors_[slot / n_slots];
    }
  }
}

int64_t n_experts_to_read(const ExpertMeans& means, int64_t min_count) {
  int64_t n = 0;
  for (const ExpertMeans::OfLayer& of : means.layers())
    n += std::count_if(of.n.begin(), of.n.end(),
                       [&](int64_t count) { return count >= std::max<int64_t>(1, min_count); });
  return n;
}

ExpertVocabulary expert_vocabulary(const Session& session, const ExpertMeans& means,
                                   const ExpertVocabularyOptions& options) {
  const auto d = static_cast<size_t>(session.model.d_model), n_vocab = static_cast<size_t>(session.model.n_vocab);
  const TokenReader reader(options.top, options.tokens, session.model.n_vocab);
  Lens lens(*session.backend, session.model, session.weights);
  ThreadPool pool(options.threads);
  std::vector<ExpertToken> wanted;
  for (const ExpertMeans::OfLayer& of : means.layers())
    for (size_t e = 0; e < of.n.size(); ++e)
      if (of.n[e] >= std::max<int64_t>(1, options.min_count))
        wanted.push_back({of.layer, static_cast<int32_t>(e), of.n[e], {}});
  if (wanted.empty())
    throw Error("--min-count",
                "expected an expert that " + std::to_string(options.min_count) + " tokens selected, found none");
  std::vector<int32_t> listed = options.tokens;
  if (listed.empty()) {
    listed.resize(n_vocab);
    std::iota(listed.begin(), listed.end(), 0);
  }
  Raisers raisers(std::move(listed), static_cast<size_t>(options.top));
  ExpertVocabulary out;
  const size_t at_once = std::max<size_t>(1, most_product / n_vocab), n_each = static_cast<size_t>(reader.n_read());
  std::vector<float> parts, logits;
  for (size_t first = 0; first < wanted.size(); first += at_once) {
    const size_t n = std::min(at_once, wanted.size() - first);
    parts.clear();
    for (size_t i = first; i < first + n; ++i) {
      const auto of = std::find_if(means.layers().begin(), means.layers().end(),
                                   [&](const ExpertMeans::OfLayer& one) { return one.layer == wanted[i].layer; });
      const double* sum = of->sums.data() + static_cast<size_t>(wanted[i].expert) * d;
      for (size_t c = 0; c < d; ++c) parts.push_back(static_cast<float>(sum[c] / static_cast<double>(wanted[i].n)));
    }
    logits.resize(n * n_vocab);
    lens.logits(parts, std::vector<double>(n, 1.0), logits);
    std::vector<double> centres(n);
    std::vector<TokenReading> readings(n * n_each);
    std::vector<uint8_t> finite(n);
    pool.parallel_for(static_cast<int64_t>(n), [&](int64_t task, int) {
      const auto i = static_cast<size_t>(task);
      const auto row = std::span(logits).subspan(i * n_vocab, n_vocab);
      for (const float x : row) centres[i] += static_cast<double>(x);
      centres[i] /= static_cast<double>(n_vocab);
      finite[i] = reader.read(row, false, std::span(readings).subspan(i * n_each, n_each));
    });
    for (size_t i = 0; i < n; ++i) {
      const ExpertToken& of = wanted[first + i];
      if (!finite[i])
        throw Error("layer " + std::to_string(of.layer) + ", expert " + std::to_string(of.expert),
                    "expected finite contributions, found others");
      for (size_t j = i * n_each; j < (i + 1) * n_each; ++j) {
        readings[j].logit -= centres[i];
        out.experts.push_back({of.layer, of.expert, of.n, readings[j]});
      }
    }
    const size_t n_tasks = (raisers.n_tokens() + tokens_of_a_task - 1) / tokens_of_a_task;
    pool.parallel_for(static_cast<int64_t>(n_tasks), [&](int64_t task, int) {
      const size_t begin = static_cast<size_t>(task) * tokens_of_a_task,
                   end = std::min(begin + tokens_of_a_task, raisers.n_tokens());
      for (size_t i = 0; i < n; ++i)
        raisers.add(std::span(logits).subspan(i * n_vocab, n_vocab), centres[i], wanted[first + i], begin, end);
    });
    if (options.on_progress) options.on_progress(static_cast<int64_t>(first + n));
  }
  out.tokens = raisers.sorted();
  return out;
}

}  // namespace signalbox::eval
