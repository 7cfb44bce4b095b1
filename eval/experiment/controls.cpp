#include "eval/experiment/controls.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <set>

#include "base/no_number.h"
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

// a * b / c, which is whole; INT64_MAX where it is no less.
int64_t scaled(int64_t a, int64_t b, int64_t c = 1) {
  constexpr auto most = std::numeric_limits<int64_t>::max();
  if (a == most || b == most) return most;
  const unsigned __int128 value =
      static_cast<unsigned __int128>(a) * static_cast<unsigned __int128>(b) / static_cast<unsigned __int128>(c);
  return value < static_cast<unsigned __int128>(most) ? static_cast<int64_t>(value) : most;
}

// How many subsets of k items n items have.
int64_t choose(int64_t n, int64_t k) {
  int64_t out = 1;
  for (int64_t i = 1; i <= k; ++i) out = scaled(out, n - k + i, i);
  return out;
}

// Every subset of `k` of the ascending items, each ascending, in lexicographic order.
std::vector<std::vector<int32_t>> subsets(const std::vector<int32_t>& items, size_t k) {
  std::vector<uint8_t> taken(items.size(), 0);
  std::fill(taken.begin(), taken.begin() + static_cast<int64_t>(k), uint8_t{1});
  std::vector<std::vector<int32_t>> out;
  do {
    out.emplace_back();
    for (size_t i = 0; i < items.size(); ++i)
      if (taken[i]) out.back().push_back(items[i]);
  } while (std::prev_permutation(taken.begin(), taken.end()));
  return out;
}

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
    const bool routes = spec.kind == EditSpec::Kind::router;
    edit.ordered = routes && spec.op == EditOp::fixed;
    edit.adds_up =
        routes ? spec.op == EditOp::bias || spec.op == EditOp::scale_expert : spec.kind == EditSpec::Kind::add;
    for (const auto& [key, value] : ref.value().members())
      if (key != "experts" && key != "layers") edit.key += key + "=" + json::dump(value) + "\n";
    for (const auto& [layer, experts] : edit.experts)
      for (int32_t expert : experts) {
        auto& named = named_[static_cast<size_t>(layer)];
        if (std::none_of(named.begin(), named.end(), [&](const Named& n) { return n.expert == expert; }))
          named.push_back({expert, edits_.size(), 0});
      }
    edits_.push_back(std::move(edit));
  }
  set_roles();
}

void NamedExperts::set_roles() {
  // Edits that follow each other and are equal but for their experts act as one.
  std::vector<size_t> as(edits_.size());
  for (size_t i = 0; i < edits_.size(); ++i) {
    const bool merges = i > 0 && !edits_[i].experts.empty() && !edits_[i - 1].experts.empty() && !edits_[i].ordered &&
                        edits_[i].key == edits_[i - 1].key;
    as[i] = merges ? as[i - 1] : i;
  }
  for (size_t layer = 0; layer < named_.size(); ++layer) {
    std::map<std::vector<std::pair<size_t, size_t>>, int32_t> roles;  // of edits and places in them
    for (Named& named : named_[layer]) {
      std::vector<std::pair<size_t, size_t>> mentions;
      for (size_t i = 0; i < edits_.size(); ++i)
        for (const auto& [of, experts] : edits_[i].experts) {
          if (static_cast<size_t>(of) != layer) continue;
          const auto at = std::find(experts.begin(), experts.end(), named.expert);
          if (at == experts.end()) continue;
          const std::pair mention(as[i], edits_[i].ordered ? static_cast<size_t>(at - experts.begin()) : 0);
          if (mentions.empty() || mentions.back() != mention || edits_[i].adds_up) mentions.push_back(mention);
        }
      named.role = roles.emplace(std::move(mentions), static_cast<int32_t>(roles.size())).first->second;
    }
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

Replacement NamedExperts::draw_random(uint64_t seed, std::string_view intervention, int64_t number) const {
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

Replacement NamedExperts::own() const {
  Replacement out = empty_replacement();
  for (size_t l = 0; l < out.size(); ++l)
    for (const Named& n : named_[l]) out[l][static_cast<size_t>(n.expert)] = n.expert;
  return out;
}

NamedExperts::Identity NamedExperts::identity(const Replacement& replacement) const {
  Identity out;
  for (size_t l = 0; l < named_.size(); ++l) {
    const auto begin = static_cast<int64_t>(out.size());
    for (const Named& n : named_[l]) out.emplace_back(replacement[l][static_cast<size_t>(n.expert)], n.role);
    std::sort(out.begin() + begin, out.end());
  }
  return out;
}

bool NamedExperts::same(const Replacement& replacement) const { return identity(replacement) == identity(own()); }

int64_t NamedExperts::n_shared() const {
  int64_t out = 0;
  for (int32_t layer = 0; layer < shape_.n_layers(); ++layer) {
    const auto named = static_cast<int64_t>(named_[static_cast<size_t>(layer)].size());
    if (named > 0) out += std::max<int64_t>(0, named - static_cast<int64_t>(outside(layer).size()));
  }
  return out;
}

// Choices of experts times the ways to give them the roles.
int64_t NamedExperts::n_random(int32_t layer) const {
  const auto& named = named_[static_cast<size_t>(layer)];
  const auto n = static_cast<int64_t>(named.size()), others = static_cast<int64_t>(outside(layer).size());
  int64_t out = others >= n ? choose(others, n) : choose(n, n - others);
  std::map<int32_t, int64_t> sizes;
  for (const Named& one : named) ++sizes[one.role];
  int64_t left = n;
  for (const auto& [role, size] : sizes) {
    out = scaled(out, choose(left, size));
    left -= size;
  }
  return out;
}

int64_t NamedExperts::n_random() const {
  int64_t out = 1;
  bool others = false;
  for (int32_t layer = 0; layer < shape_.n_layers(); ++layer)
    if (!named_[static_cast<size_t>(layer)].empty()) {
      out = scaled(out, n_random(layer));
      others |= !outside(layer).empty();
    }
  // Where every expert is named, one of the ways is the named one.
  return others || out == std::numeric_limits<int64_t>::max() ? out : out - 1;
}

// For each way the experts that take the places of the named, in their order.
std::vector<std::vector<int32_t>> NamedExperts::all_random(int32_t layer) const {
  const auto& named = named_[static_cast<size_t>(layer)];
  const std::vector<int32_t> others = outside(layer);
  const bool enough = others.size() >= named.size();
  std::vector<int32_t> inside, roles;
  for (const Named& n : named) {
    inside.push_back(n.expert);
    roles.push_back(n.role);
  }
  std::sort(inside.begin(), inside.end());
  std::sort(roles.begin(), roles.end());
  std::vector<std::vector<int32_t>> out;
  for (std::vector<int32_t>& chosen :
       enough ? subsets(others, named.size()) : subsets(inside, named.size() - others.size())) {
    if (!enough) chosen.insert(chosen.end(), others.begin(), others.end());
    std::sort(chosen.begin(), chosen.end());
    std::vector<int32_t> role_of = roles;  // [chosen]
    do {
      out.emplace_back();
      std::vector<uint8_t> used(chosen.size(), 0);
      for (const Named& n : named) {
        size_t c = 0;
        while (used[c] || role_of[c] != n.role) ++c;
        used[c] = 1;
        out.back().push_back(chosen[c]);
      }
    } while (std::next_permutation(role_of.begin(), role_of.end()));
  }
  return out;
}

// Every way of every layer with every way of the others, the last layer fastest.
std::vector<Replacement> NamedExperts::all_random() const {
  std::vector<Replacement> out = {empty_replacement()};
  for (int32_t layer = 0; layer < shape_.n_layers(); ++layer) {
    const auto l = static_cast<size_t>(layer);
    if (named_[l].empty()) continue;
    std::vector<Replacement> longer;
    const std::vector<std::vector<int32_t>> ways = all_random(layer);
    for (const Replacement& before : out)
      for (const std::vector<int32_t>& way : ways) {
        longer.push_back(before);
        for (size_t i = 0; i < way.size(); ++i) longer.back()[l][static_cast<size_t>(named_[l][i].expert)] = way[i];
      }
    out = std::move(longer);
  }
  std::erase_if(out, [&](const Replacement& one) { return same(one); });
  return out;
}

std::vector<Replacement> NamedExperts::random(uint64_t seed, std::string_view intervention, int64_t n) const {
  if (n_random() <= n) return all_random();
  std::vector<Replacement> out;
  std::set<Identity> seen = {identity(own())};
  for (int64_t number = 0; static_cast<int64_t>(out.size()) < n; ++number) {
    Replacement drawn = draw_random(seed, intervention, number);
    if (seen.insert(identity(drawn)).second) out.push_back(std::move(drawn));
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

std::vector<Replacement> NamedExperts::frequency_matched(const UsageTable& usage, uint64_t seed,
                                                         std::string_view intervention, int64_t n) const {
  std::vector<Replacement> out;
  std::set<Identity> seen = {identity(own())};
  int64_t fruitless = 0;
  for (int64_t number = 0; static_cast<int64_t>(out.size()) < n && fruitless < n_fruitless; ++number) {
    Replacement drawn = draw_matched(usage, seed, intervention, number);
    const bool fresh = seen.insert(identity(drawn)).second;
    fruitless = fresh ? 0 : fruitless + 1;
    if (fresh) out.push_back(std::move(drawn));
  }
  return out;
}

double NamedExperts::use(const UsageTable& usage, const Replacement* replacement) const {
  double sum = 0;
  int64_t n = 0;
  for (int32_t layer = 0; layer < shape_.n_layers(); ++layer) {
    const auto l = static_cast<size_t>(layer);
    if (named_[l].empty()) continue;
    const std::vector<double>& counts = usage_of(usage, layer);
    // Every token selects n_active experts.
    const double tokens = std::accumulate(counts.begin(), counts.end(), 0.0) / shape_.layers[l].n_active;
    for (const Named& named : named_[l]) {
      const auto e = static_cast<size_t>(named.expert);
      sum += counts[replacement ? static_cast<size_t>((*replacement)[l][e]) : e] / tokens;
      ++n;
    }
  }
  const double mean = sum / static_cast<double>(n);
  return std::isfinite(mean) ? mean : no_number;
}

Replacement NamedExperts::draw_matched(const UsageTable& usage, uint64_t seed, std::string_view intervention,
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
  const RankingFile file(edit.ranking->file, &shape_, &edit.ranking->rows);
  const size_t by = file.effect_column(edit.ranking->by);
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
