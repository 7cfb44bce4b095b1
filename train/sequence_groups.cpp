#include "train/sequence_groups.h"

#include <numeric>

namespace signalbox::train {

namespace {

int64_t blocks(std::span<const Example* const> examples) {
  int64_t n = 0;
  for (const Example* example : examples) n += KvPool::blocks_for(example->n_tokens());
  return n;
}

}  // namespace

void for_each_group(std::span<const Example* const> examples, const Groups& groups,
                    const std::function<void(std::span<const Example* const>)>& visit) {
  for (size_t first = 0; first < examples.size();) {
    size_t n = 0;
    int64_t tokens = 0;
    while (first + n < examples.size() && static_cast<int64_t>(n) < groups.sequences &&
           (n == 0 || tokens + examples[first + n]->n_tokens() <= groups.tokens))
      tokens += examples[first + n++]->n_tokens();
    visit(examples.subspan(first, n));
    first += n;
  }
}

int64_t tokens_of(std::span<const Example* const> examples) {
  int64_t n = 0;
  for (const Example* example : examples) n += example->n_tokens();
  return n;
}

SequenceGroup::SequenceGroup(Backend& backend, const Model& model, std::span<const Example* const> examples,
                             int64_t first_sample)
    : pool(backend, model, blocks(examples)) {
  caches.reserve(examples.size());
  for (size_t i = 0; i < examples.size(); ++i) {
    const Example& example = *examples[i];
    caches.emplace_back(pool);
    batch.append(caches.back(), nullptr, first_sample + static_cast<int64_t>(i), example.prompt->tokens, {},
                 example.n_tokens(), example.n_rows());
    targets.insert(targets.end(), example.targets.begin(), example.targets.end());
  }
}

void add_sums(std::vector<double>& sums, std::span<const Example* const> group, std::span<const double> rows) {
  size_t row = 0;
  for (const Example* example : group) {
    const auto n = static_cast<size_t>(example->n_rows());
    sums.push_back(
        std::accumulate(rows.begin() + static_cast<int64_t>(row), rows.begin() + static_cast<int64_t>(row + n), 0.0));
    row += n;
  }
}

}  // namespace signalbox::train
