#include "eval/experiment/controls.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/random.h"
#include "probes/edit_plan.h"
#include "probes/edits.h"

namespace signalbox::eval {

namespace {

// Whole numbers drawn in sequence for one layer of one control.
class LayerDraws {
 public:
  LayerDraws(uint64_t seed, std::string_view intervention, int64_t number, int32_t kind, int32_t layer)
      : draws_({seed, record_hash(intervention), static_cast<uint32_t>(number), kind, layer, DrawPurpose::control}) {}

  // Uniform over 0 .. n - 1 (Lemire: the few biased low halves of the product are drawn again).
  size_t below(size_t n) {
    const uint32_t range = static_cast<uint32_t>(n), biased = (0u - range) % range;
    uint64_t product;
    do {
      product = uint64_t{draws_.bits(next_++)} * range;
    } while (static_cast<uint32_t>(product) < biased);
    return static_cast<size_t>(product >> 32);
  }

  // Moves `n` items drawn without replacement to the front, in drawn order.
  template <class T>
  void shuffle(std::vector<T>& items, size_t n) {
    for (size_t i = 0; i < n && i + 1 < items.size(); ++i) std::swap(items[i], items[i + below(items.size() - i)]);
  }

 private:
  Draws draws_;
  uint32_t next_ = 0;
};

}  // namespace

NamedExperts::NamedExperts(const json::Ref& edits, const std::filesystem::path& base_dir, const ModelShape& shape)
    : named_(shape.layers.size()), shape_(shape) {
  for (const json::Ref& ref : edits.items()) {
    Edit edit;
    edit.source = ref.value();
    const EditSpec spec = EditSpec::parse(ref, base_dir, 0);
    if (spec.experts.kind != ExpertList::Kind::none)
      for (auto& [layer, experts] : resolve_targets(spec, shape).layers)
        if (!experts.empty()) edit.experts.emplace_back(layer, std::move(experts));
    if (spec.experts.kind == ExpertList::Kind::ranking) edit.ranking = spec.experts.ranking;
    edit.one_layer = spec.kind != EditSpec::Kind::router && parse_point(ref.at("point").string()).has_value();
    for (const auto& [layer, experts] : edit.experts)
      for (int32_t expert : experts) {
        auto& named = named_[static_cast<size_t>(layer)];
        if (std::none_of(named.begin(), named.end(), [&](const Named& n) { return n.expert == expert; }))
          named.push_back({expert, edits_.size()});
      }
    edits_.push_back(std::move(edit));
  }
}

bool NamedExperts::none() const {
  return std::all_of(named_.begin(), named_.end(), [](const auto& layer) { return layer.empty(); });
}

std::vector<int32_t> NamedExperts::outside(int32_t layer) const {
  const size_t l = static_cast<size_t>(layer);
  std::vector<uint8_t> inside(static_cast<size_t>(shape_.layers[l].n_experts), 0);
  for (const Named& named : named_[l]) inside[static_cast<size_t>(named.expert)] = 1;
  std::vector<int32_t> out;
  for (int32_t e = 0; e < shape_.layers[l].n_experts; ++e)
    if (!inside[static_cast<size_t>(e)]) out.push_back(e);
  return out;
}

Replacement NamedExperts::empty_replacement() const {
  Replacement out(shape_.layers.size());
  for (size_t l = 0; l < out.size(); ++l) out[l].assign(static_cast<size_t>(shape_.layers[l].n_experts), -1);
  return out;
}

Replacement NamedExperts::random(uint64_t seed, std::string_view intervention, int64_t number) const {
  Replacement out = empty_replacement();
  for (int32_t layer = 0; layer < shape_.n_layers(); ++layer) {
    const auto& named = named_[static_cast<size_t>(layer)];
    if (named.empty()) continue;
    LayerDraws draws(seed, intervention, number, 0, layer);
    std::vector<int32_t> drawn = outside(layer);
    const bool enough = drawn.size() >= named.size();
    draws.shuffle(drawn, std::min(drawn.size(), named.size()));
    if (!enough) {
      std::vector<int32_t> rest;
      for (const Named& n : named) rest.push_back(n.expert);
      const size_t missing = named.size() - drawn.size();
      draws.shuffle(rest, missing);
      drawn.insert(drawn.end(), rest.begin(), rest.begin() + static_cast<int64_t>(missing));
      draws.shuffle(drawn, drawn.size());  // so that no edit gets the ones from outside more often
    }
    for (size_t i = 0; i < named.size(); ++i)
      out[static_cast<size_t>(layer)][static_cast<size_t>(named[i].expert)] = drawn[i];
  }
  return out;
}

const std::vector<double>& NamedExperts::usage_of(const UsageTable& usage, int32_t layer) const {
  const size_t l = static_cast<size_t>(layer), n_experts = static_cast<size_t>(shape_.layers[l].n_experts);
  const size_t found = l < usage.size() ? usage[l].size() : 0;
  if (found != n_experts)
    throw Error("controls", "expected the usage of " + std::to_string(n_experts) + " experts in layer " +
                                std::to_string(layer) + ", found that of " + std::to_string(found));
  return usage[l];
}

Replacement NamedExperts::frequency_matched(const UsageTable& usage, uint64_t seed, std::string_view intervention,
                                            int64_t number) const {
  Replacement out = empty_replacement();
  for (int32_t layer = 0; layer < shape_.n_layers(); ++layer) {
    std::vector<Named> order = named_[static_cast<size_t>(layer)];
    if (order.empty()) continue;
    const std::vector<double>& counts = usage_of(usage, layer);
    LayerDraws draws(seed, intervention, number, 1, layer);
    draws.shuffle(order, order.size());
    std::vector<int32_t> pool = outside(layer), rest;
    for (const Named& n : named_[static_cast<size_t>(layer)]) rest.push_back(n.expert);
    std::sort(rest.begin(), rest.end());
    for (const Named& n : order) {
      std::vector<int32_t>& from = pool.empty() ? rest : pool;
      const double own = counts[static_cast<size_t>(n.expert)];
      const auto distance = [&](int32_t e) { return std::abs(counts[static_cast<size_t>(e)] - own); };
      std::vector<int32_t> nearest = from;
      std::stable_sort(nearest.begin(), nearest.end(), [&](int32_t a, int32_t b) { return distance(a) < distance(b); });
      const int32_t taken = nearest[draws.below(std::min(n_nearest_usage, nearest.size()))];
      from.erase(std::find(from.begin(), from.end(), taken));
      out[static_cast<size_t>(layer)][static_cast<size_t>(n.expert)] = taken;
    }
  }
  return out;
}

// [layer][expert] what bottom() sorts by, in the layers that the edit names experts of.
UsageTable NamedExperts::importance(const Edit& edit, const UsageTable& usage) const {
  UsageTable out(shape_.layers.size());
  for (const auto& [layer, experts] : edit.experts) {
    std::vector<double>& row = out[static_cast<size_t>(layer)];
    if (edit.ranking)
      row.assign(static_cast<size_t>(shape_.layers[static_cast<size_t>(layer)].n_experts), HUGE_VAL);
    else
      row = usage_of(usage, layer);
  }
  if (!edit.ranking) return out;
  const RankingFile file(edit.ranking->file, &shape_);
  const size_t by = file.column(edit.ranking->by);
  for (size_t r = 0; r < file.n_rows(); ++r) {
    std::vector<double>& row = out[static_cast<size_t>(file.layer(r))];
    const std::optional<double> value = row.empty() ? std::nullopt : file.value(r, by);
    if (value) row[static_cast<size_t>(file.expert(r))] = std::abs(*value);
  }
  return out;
}

Replacement NamedExperts::bottom(const UsageTable& usage) const {
  std::vector<UsageTable> values;
  for (const Edit& edit : edits_) values.push_back(importance(edit, usage));
  Replacement out = empty_replacement();
  for (size_t layer = 0; layer < named_.size(); ++layer) {
    const size_t n_experts = static_cast<size_t>(shape_.layers[layer].n_experts);
    std::vector<uint8_t> inside(n_experts, 0), taken(n_experts, 0);
    for (const Named& n : named_[layer]) inside[static_cast<size_t>(n.expert)] = 1;
    for (const Named& n : named_[layer]) {
      const std::vector<double>& value = values[n.edit][layer];
      // The first of those not taken: outside before named, then by value, then by index.
      size_t best = n_experts;
      for (size_t e = 0; e < n_experts; ++e)
        if (!taken[e] &&
            (best == n_experts || inside[e] < inside[best] || (inside[e] == inside[best] && value[e] < value[best])))
          best = e;
      taken[best] = 1;
      out[layer][static_cast<size_t>(n.expert)] = static_cast<int32_t>(best);
    }
  }
  return out;
}

json::Value NamedExperts::replaced(const Replacement& replacement) const {
  json::Value list = json::Value::array();
  for (const Edit& edit : edits_) {
    if (edit.experts.empty()) {
      list.push_back(edit.source);
      continue;
    }
    json::Value by_layer = json::Value::object(), of_layer;
    for (const auto& [layer, experts] : edit.experts) {
      of_layer = json::Value::array();
      for (int32_t expert : experts)
        of_layer.push_back(replacement[static_cast<size_t>(layer)][static_cast<size_t>(expert)]);
      by_layer.set(std::to_string(layer), of_layer);
    }
    json::Value out = json::Value::object();
    for (const auto& [key, value] : edit.source.members())
      if (key != "layers") out.set(key, key == "experts" ? (edit.one_layer ? of_layer : by_layer) : value);
    list.push_back(std::move(out));
  }
  return list;
}

}  // namespace signalbox::eval
