#include "eval/causal/exchanged_point.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <set>

#include "base/json.h"
#include "eval/causal/recorded_run.h"
#include "probes/edit_memory.h"

namespace signalbox::eval {

using namespace engine;
using namespace kernels;
using namespace probes;

namespace {

bool same_bits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

bool of_route(Point point) {
  return point == Point::router_ids || point == Point::router_weights || point == Point::router_logits;
}

std::vector<int32_t> sorted_ids(std::span<const int32_t> route) {
  std::vector<int32_t> ids(route.begin(), route.end());
  std::erase(ids, -1);
  std::sort(ids.begin(), ids.end());
  return ids;
}

}  // namespace

std::string exchanged_globs(const PointAt& at, const ModelShape& shape) {
  const auto name = [&](Point point) { return "," + point_name(point, at.layer); };
  const bool shared = at.layer >= 0 && shape.layers[static_cast<size_t>(at.layer)].shared;
  switch (at.point) {
    case Point::moe_out:
    case Point::mlp_out: return name(at.point) + name(Point::resid_mid);
    case Point::shared_out:
    case Point::expert_out:
    case Point::expert_contribution:
      return name(Point::resid_mid) + name(Point::expert_out) + name(Point::moe_out) +
             (shared ? name(Point::shared_out) : "");
    case Point::attn_pattern: return name(at.point) + name(Point::attn_v) + name(Point::attn_z);
    default: return name(at.point);
  }
}

ExchangedPoint::ExchangedPoint(const Session& session, Receivers& receivers, const ActivationStore& target,
                               const ActivationStore& source, std::span<const int32_t> source_of,
                               std::span<const int32_t> stands_for, const PointAt& at)
    : session_(session),
      receivers_(receivers),
      target_(target),
      source_(source),
      source_of_(source_of),
      stands_for_(stands_for),
      at_(at),
      target_ids_(target.ids(target.rows(0))),
      source_ids_(source.ids(source.rows(0))) {}

std::span<const float> ExchangedPoint::row(const ActivationStore& run, Point point, int64_t position) const {
  return run.row(point, at_.layer, 0, position);
}

std::span<const int32_t> ExchangedPoint::route(const ActivationStore& run, int64_t position) const {
  const std::vector<int32_t>& ids = &run == &target_ ? target_ids_ : source_ids_;
  const auto k = static_cast<size_t>(run.n_slots());
  const size_t layers = run.layers().size(), place = static_cast<size_t>(*run.layer_index(at_.layer));
  return std::span(ids).subspan((static_cast<size_t>(position) * layers + place) * k, k);
}

std::optional<size_t> ExchangedPoint::slot_of(const ActivationStore& run, int64_t position, int32_t expert) const {
  const std::span<const int32_t> ids = route(run, position);
  const auto found = std::find(ids.begin(), ids.end(), expert);
  if (found == ids.end()) return std::nullopt;
  return static_cast<size_t>(found - ids.begin());
}

// The slot's part of a row of expert.out or expert.hidden; empty where the expert is not selected.
std::span<const float> ExchangedPoint::slot_row(const ActivationStore& run, Point point, int64_t position,
                                                int32_t expert) const {
  const auto slot = slot_of(run, position, expert);
  if (!slot) return {};
  const std::span<const float> all = row(run, point, position);
  const size_t width = all.size() / static_cast<size_t>(run.n_slots());
  return all.subspan(*slot * width, width);
}

ExchangedPoint::Contribution ExchangedPoint::contribution(const ActivationStore& run, int64_t position,
                                                          int32_t expert) const {
  const auto slot = slot_of(run, position, expert);
  if (!slot) return {};
  return {row(run, Point::router_weights, position)[*slot], slot_row(run, Point::expert_out, position, expert)};
}

std::vector<std::pair<int32_t, float>> ExchangedPoint::weighed(const ActivationStore& run, int64_t position) const {
  const std::span<const int32_t> ids = route(run, position);
  const std::span<const float> weights = row(run, Point::router_weights, position);
  std::vector<std::pair<int32_t, float>> out;
  for (size_t i = 0; i < ids.size(); ++i)
    if (ids[i] >= 0) out.emplace_back(ids[i], weights[i]);
  std::sort(out.begin(), out.end());
  return out;
}

std::vector<PatchUnit> ExchangedPoint::units() const {
  if (patched_by_head(at_.point)) return head_units(at_, session_.shape);
  std::vector<PatchUnit> units;
  if (!patched_by_expert(at_.point)) return units;
  std::set<int32_t> experts;
  if (at_.point == Point::router_logits) {
    for (int32_t e = 0; e < session_.shape.layers[static_cast<size_t>(at_.layer)].n_experts; ++e) experts.insert(e);
  } else {
    for (size_t t = 0; t < source_of_.size(); ++t) {
      if (source_of_[t] < 0) continue;
      for (const int32_t e : route(target_, static_cast<int64_t>(t)))
        if (e >= 0 && defined({"", e, 0, 0}, static_cast<int64_t>(t))) experts.insert(e);
      for (const int32_t e : route(source_, source_of_[t]))
        if (e >= 0 && defined({"", e, 0, 0}, static_cast<int64_t>(t))) experts.insert(e);
    }
  }
  for (const int32_t e : experts) units.push_back({std::to_string(e), e, 0, 0});
  return units;
}

bool ExchangedPoint::defined(const PatchUnit& unit, int64_t position) const {
  const int32_t from = source_of_[static_cast<size_t>(position)];
  if (from < 0) return false;
  if ((at_.point != Point::expert_hidden && at_.point != Point::expert_out) || unit.expert < 0) return true;
  return slot_of(target_, position, unit.expert) && slot_of(source_, from, unit.expert);
}

int64_t ExchangedPoint::n_undefined() const {
  if (at_.point != Point::expert_hidden && at_.point != Point::expert_out) return 0;
  int64_t n = 0;
  for (size_t t = 0; t < source_of_.size(); ++t) {
    if (source_of_[t] < 0) continue;
    for (const int32_t e : route(target_, static_cast<int64_t>(t))) n += e >= 0 && !slot_of(source_, source_of_[t], e);
    for (const int32_t e : route(source_, source_of_[t])) n += e >= 0 && !slot_of(target_, static_cast<int64_t>(t), e);
  }
  return n;
}

bool ExchangedPoint::changes(const PatchUnit& unit, int64_t position) const {
  const int32_t from = source_of_[static_cast<size_t>(position)];
  if (from < 0) return false;
  switch (at_.point) {
    case Point::router_ids: return sorted_ids(route(target_, position)) != sorted_ids(route(source_, from));
    case Point::router_weights: return weighed(target_, position) != weighed(source_, from);
    case Point::router_logits: {
      const std::span<const float> was = row(target_, at_.point, position), is = row(source_, at_.point, from);
      if (unit.expert < 0) return !same_bits(was, is);
      const auto e = static_cast<size_t>(unit.expert);
      return !same_bits(was.subspan(e, 1), is.subspan(e, 1));
    }
    case Point::attn_pattern: {
      // A unit's columns are those of its z; a row of the pattern is as wide as the longest row.
      const std::span<const float> was = row(target_, at_.point, position), is = row(source_, at_.point, from);
      const auto n_heads = static_cast<size_t>(session_.shape.layers[static_cast<size_t>(at_.layer)].attention.n_heads);
      const size_t keys = was.size() / n_heads, other_keys = is.size() / n_heads;
      for (size_t h = 0; h < n_heads; ++h) {
        if (unit.count > 0 && h != static_cast<size_t>(unit.first / unit.count)) continue;
        for (size_t p = 0; p <= static_cast<size_t>(position); ++p) {
          const int32_t other = stands_for_[p];
          if (was[h * keys + p] != (other < 0 ? 0.f : is[h * other_keys + static_cast<size_t>(other)])) return true;
        }
      }
      return false;
    }
    case Point::expert_contribution:
    case Point::expert_out:
    case Point::expert_hidden: {
      const auto differs = [&](int32_t e) {
        if (at_.point == Point::expert_contribution) {
          const Contribution was = contribution(target_, position, e), is = contribution(source_, from, e);
          const size_t d = std::max(was.output.size(), is.output.size());
          for (size_t c = 0; c < d; ++c) {
            const float before = was.output.empty() ? 0.f : was.weight * was.output[c],
                        after = is.output.empty() ? 0.f : is.weight * is.output[c];
            if (before != after) return true;
          }
          return false;
        }
        if (!defined({"", e, 0, 0}, position)) return false;
        auto was = slot_row(target_, at_.point, position, e), is = slot_row(source_, at_.point, from, e);
        if (unit.count > 0) {
          was = was.subspan(static_cast<size_t>(unit.first), static_cast<size_t>(unit.count));
          is = is.subspan(static_cast<size_t>(unit.first), static_cast<size_t>(unit.count));
        }
        return !same_bits(was, is);
      };
      if (unit.expert >= 0) return differs(unit.expert);
      for (const int32_t e : route(target_, position))
        if (e >= 0 && differs(e)) return true;
      for (const int32_t e : route(source_, from))
        if (e >= 0 && differs(e)) return true;
      return false;
    }
    default: {
      std::span<const float> was = row(target_, at_.point, position), is = row(source_, at_.point, from);
      if (unit.count > 0) {
        was = was.subspan(static_cast<size_t>(unit.first), static_cast<size_t>(unit.count));
        is = is.subspan(static_cast<size_t>(unit.first), static_cast<size_t>(unit.count));
      }
      return !same_bits(was, is);
    }
  }
}

// What the slots of a position come to add, in their order. An expert that the target's route lacks stands behind them.
std::vector<ExchangedPoint::Contribution> ExchangedPoint::contributions(const PatchUnit& unit, int64_t position) const {
  const int32_t from = source_of_[static_cast<size_t>(position)];
  const auto taken = [&](int32_t e) { return unit.expert < 0 || unit.expert == e; };
  std::vector<Contribution> slots;
  for (const int32_t e : route(target_, position)) {
    if (e < 0) continue;
    Contribution own = contribution(target_, position, e);
    const Contribution is = contribution(source_, from, e);
    if (at_.point == Point::expert_contribution && taken(e))
      own = is;
    else if (at_.point == Point::expert_out && taken(e) && !is.output.empty())
      own.output = is.output;
    if (!own.output.empty()) slots.push_back(own);
  }
  if (at_.point == Point::expert_contribution)
    for (const int32_t e : route(source_, from))
      if (e >= 0 && taken(e) && !slot_of(target_, position, e)) slots.push_back(contribution(source_, from, e));
  return slots;
}

// What the feed-forward block comes to add at these places, by the op that adds it up in a forward. [places, d_model]
std::vector<float> ExchangedPoint::combined(std::span<const Place> places) const {
  const auto d = static_cast<size_t>(session_.model.d_model);
  std::vector<std::vector<Contribution>> all;
  size_t k = 1;
  for (const Place& place : places) {
    all.push_back(contributions(*place.unit, place.position));
    k = std::max(k, all.back().size());
  }
  std::vector<int32_t> ids(places.size() * k, -1);
  std::vector<float> weights(places.size() * k, 0.f), outputs(places.size() * k * d, 0.f), shared;
  for (size_t i = 0; i < places.size(); ++i) {
    for (size_t slot = 0; slot < all[i].size(); ++slot) {
      ids[i * k + slot] = 0;
      weights[i * k + slot] = all[i][slot].weight;
      std::copy(all[i][slot].output.begin(), all[i][slot].output.end(),
                outputs.begin() + static_cast<ptrdiff_t>((i * k + slot) * d));
    }
    if (!session_.shape.layers[static_cast<size_t>(at_.layer)].shared) continue;
    const bool exchanged = at_.point == Point::shared_out;
    const auto from = exchanged ? source_of_[static_cast<size_t>(places[i].position)] : places[i].position;
    const std::span<const float> out = row(exchanged ? source_ : target_, Point::shared_out, from);
    shared.insert(shared.end(), out.begin(), out.end());
  }
  Backend& backend = *session_.backend;
  const auto uploaded = [&](const auto& list) {
    auto memory = backend.allocate(std::max<size_t>(4, list.size() * sizeof(list[0])));
    backend.upload(memory.get(), list.data(), list.size() * sizeof(list[0]));
    return memory;
  };
  const auto ids_memory = uploaded(ids), weights_memory = uploaded(weights), outputs_memory = uploaded(outputs),
             shared_memory = uploaded(shared);
  const auto n = static_cast<int64_t>(places.size()), width = session_.model.d_model;
  const auto made = backend.allocate(std::max<size_t>(4, places.size() * d * sizeof(float)));
  Route route;
  route.n_slots = static_cast<int32_t>(k);
  route.ids = static_cast<int32_t*>(ids_memory.get());
  route.weights = static_cast<float*>(weights_memory.get());
  backend.combine(Tensor(static_cast<float*>(made.get()), n, width),
                  Tensor(static_cast<float*>(outputs_memory.get()), n * static_cast<int64_t>(k), width), route,
                  shared.empty() ? Tensor() : Tensor(static_cast<float*>(shared_memory.get()), n, width));
  std::vector<float> out(places.size() * d);
  backend.download(out.data(), made.get(), out.size() * sizeof(float));
  return out;
}

std::vector<float> ExchangedPoint::streams(std::span<const Place> places) const {
  const auto d = static_cast<size_t>(session_.model.d_model);
  const bool adds = sums() || at_.point == Point::moe_out || at_.point == Point::mlp_out;
  std::vector<float> out;
  if (sums()) {
    out = combined(places);
  } else {
    for (const Place& place : places) {
      const std::span<const float> is = row(source_, at_.point, source_of_[static_cast<size_t>(place.position)]);
      out.insert(out.end(), is.begin(), is.end());
    }
  }
  if (!adds) return out;
  for (size_t i = 0; i < places.size(); ++i) {
    const std::span<const float> mid = row(target_, Point::resid_mid, places[i].position);
    for (size_t c = 0; c < d; ++c) out[i * d + c] = mid[c] + out[i * d + c];
  }
  return out;
}

// The difference of the two patterns times the target's values, added to z: no change where they are equal, and a
// sink's share goes with the rest of its row.
void ExchangedPoint::exchange_patterns(std::vector<float>& z) const {
  const AttentionShape& a = session_.shape.layers[static_cast<size_t>(at_.layer)].attention;
  const auto n_heads = static_cast<size_t>(a.n_heads), n_kv = static_cast<size_t>(a.n_kv_heads),
             d_value = static_cast<size_t>(a.d_value), width = n_heads * static_cast<size_t>(a.d_z);
  for (size_t t = 0; t < source_of_.size(); ++t) {
    if (source_of_[t] < 0) continue;
    const std::span<const float> was = row(target_, Point::attn_pattern, static_cast<int64_t>(t)),
                                 is = row(source_, Point::attn_pattern, source_of_[t]);
    const size_t keys = was.size() / n_heads, other_keys = is.size() / n_heads;
    std::vector<double> sum(n_heads * d_value, 0.0);
    for (size_t p = 0; p <= t; ++p) {
      const std::span<const float> values = row(target_, Point::attn_v, static_cast<int64_t>(p));
      for (size_t h = 0; h < n_heads; ++h) {
        const double share =
            stands_for_[p] < 0 ? 0.0 : static_cast<double>(is[h * other_keys + static_cast<size_t>(stands_for_[p])]);
        const double change = share - static_cast<double>(was[h * keys + p]);
        if (change == 0) continue;
        const float* v = values.data() + h / (n_heads / n_kv) * d_value;
        for (size_t c = 0; c < d_value; ++c) sum[h * d_value + c] += change * static_cast<double>(v[c]);
      }
    }
    std::vector<float> change(sum.begin(), sum.end());
    if (a.d_value != a.d_key) change = receivers_.expand_latents(at_.layer, change);
    for (size_t c = 0; c < width; ++c) z[t * width + c] += change[c];
  }
}

bool ExchangedPoint::sums() const {
  return at_.point == Point::shared_out || at_.point == Point::expert_out || at_.point == Point::expert_contribution;
}

// The point that an edit writes to.
Point ExchangedPoint::written() const {
  return at_.point == Point::attn_pattern ? Point::attn_z : sums() ? Point::moe_out : at_.point;
}

std::shared_ptr<ActivationStore> ExchangedPoint::value_donor(const std::string& name) const {
  const Point written = this->written();
  std::vector<float> values;
  for (size_t t = 0; t < source_of_.size(); ++t) {
    const auto position = static_cast<int64_t>(t);
    const bool exchanged = source_of_[t] >= 0 && at_.point != Point::attn_pattern;
    if (!exchanged || at_.point != Point::expert_hidden) {
      const std::span<const float> from =
          exchanged ? row(source_, written, source_of_[t]) : row(target_, written, position);
      values.insert(values.end(), from.begin(), from.end());
      continue;
    }
    // In the target's slot order.
    const std::span<const float> own = row(target_, written, position);
    const std::span<const int32_t> ids = route(target_, position);
    const size_t width = own.size() / ids.size();
    for (size_t i = 0; i < ids.size(); ++i) {
      const std::span<const float> is =
          ids[i] < 0 ? std::span<const float>() : slot_row(source_, at_.point, source_of_[t], ids[i]);
      const std::span<const float> from = is.empty() ? own.subspan(i * width, width) : is;
      values.insert(values.end(), from.begin(), from.end());
    }
  }
  if (at_.point == Point::attn_pattern) exchange_patterns(values);
  return make_store(name, session_.shape, point_name(written, at_.layer), target_.n_tokens(),
                    [&](ActivationStore& store) {
                      store.take(written, at_.layer, values.data(),
                                 static_cast<int64_t>(values.size()) / static_cast<int64_t>(source_of_.size()));
                    });
}

// What the feed-forward block comes to add, where something changes at a position from first to end.
std::shared_ptr<ActivationStore> ExchangedPoint::block_donor(const PatchUnit& unit, int64_t first, int64_t end,
                                                             const std::string& name) const {
  const std::string point = point_name(Point::moe_out, at_.layer);
  std::vector<float> values = target_.floats(point, target_.rows(0));
  std::vector<Place> places;
  for (int64_t t = first; t < end; ++t)
    if (defined(unit, t) && changes(unit, t)) places.push_back({&unit, t});
  const std::vector<float> rows = combined(places);
  const auto d = static_cast<ptrdiff_t>(session_.model.d_model);
  for (size_t i = 0; i < places.size(); ++i)
    std::copy_n(rows.begin() + static_cast<ptrdiff_t>(i) * d, d, values.begin() + places[i].position * d);
  return make_store(name, session_.shape, point, target_.n_tokens(),
                    [&](ActivationStore& store) { store.take(Point::moe_out, at_.layer, values.data(), d); });
}

// Routes of the source; of router.logits, those that the router's rule makes of the logits that come to stand there.
std::shared_ptr<ActivationStore> ExchangedPoint::route_donor(int32_t expert, const std::string& name) {
  std::vector<int32_t> ids;
  std::vector<float> weights;
  Receivers::Routes made;
  if (at_.point == Point::router_logits && expert >= 0) {
    std::vector<float> logits;
    for (size_t t = 0; t < source_of_.size(); ++t) {
      const std::span<const float> own = row(target_, at_.point, static_cast<int64_t>(t));
      const auto n_experts = static_cast<size_t>(session_.shape.layers[static_cast<size_t>(at_.layer)].n_experts);
      logits.insert(logits.end(), own.begin(), own.begin() + static_cast<ptrdiff_t>(n_experts));
      if (source_of_[t] >= 0)
        logits[t * n_experts + static_cast<size_t>(expert)] =
            row(source_, at_.point, source_of_[t])[static_cast<size_t>(expert)];
    }
    made = receivers_.routes_of_logits(at_.layer, logits);
  }
  for (size_t t = 0; t < source_of_.size(); ++t) {
    const auto position = static_cast<int64_t>(t);
    const bool own = !changes({"", expert, 0, 0}, position);
    const ActivationStore& run = own ? target_ : source_;
    const int64_t place = own ? position : source_of_[t];
    const std::span<const int32_t> route_ids = route(run, place);
    const std::span<const float> route_weights = row(run, Point::router_weights, place);
    if (own || made.ids.empty()) {
      ids.insert(ids.end(), route_ids.begin(), route_ids.end());
      weights.insert(weights.end(), route_weights.begin(), route_weights.end());
      continue;
    }
    const auto k = static_cast<size_t>(made.n_slots);
    for (size_t i = 0; i < route_ids.size(); ++i) {
      ids.push_back(i < k ? made.ids[t * k + i] : -1);
      weights.push_back(i < k ? made.weights[t * k + i] : 0.f);
    }
  }
  const std::string globs =
      point_name(Point::router_ids, at_.layer) + "," + point_name(Point::router_weights, at_.layer);
  return make_store(name, session_.shape, globs, target_.n_tokens(), [&](ActivationStore& store) {
    store.take_ids(at_.layer, ids.data(), nullptr, target_.n_slots());
    store.take(Point::router_weights, at_.layer, weights.data(), target_.n_slots());
  });
}

const std::shared_ptr<ActivationStore>& ExchangedPoint::donor(const PatchUnit& unit, const std::string& name) {
  const int32_t key = at_.point == Point::router_logits ? unit.expert : -1;
  std::shared_ptr<ActivationStore>& found = donors_[{name, key}];
  if (!found) found = of_route(at_.point) ? route_donor(key, name) : value_donor(name);
  return found;
}

std::shared_ptr<const EditPlan> ExchangedPoint::plan(const PatchUnit& unit, int64_t first, int64_t end) {
  Edit made = edit(unit, first, end, "source");
  EditMemory memory;
  memory.add(std::move(made.values));
  json::Value edits = json::Value::array();
  edits.push_back(std::move(made.edit));
  return EditPlan::parse(json::Ref(edits, "edits"), ".", session_.shape, 0, &memory);
}

ExchangedPoint::Edit ExchangedPoint::edit(const PatchUnit& unit, int64_t first, int64_t end, const std::string& name) {
  json::Value edit = json::Value::object();
  std::shared_ptr<const ActivationStore> values;
  const std::string from = "memory:" + name;
  if (of_route(at_.point)) {
    edit.set("op", "replay").set("trace", from).set("sample", made_sample);
    edit.set("weights", at_.point == Point::router_ids ? "model" : "recorded");
  } else {
    edit.set("op", "patch").set("point", std::string(point_info(written()).name));
    edit.set("from", from).set("sample", made_sample);
    const auto list = [](int64_t begin, int64_t count) {
      json::Value numbers = json::Value::array();
      for (int64_t i = begin; i < begin + count; ++i) numbers.push_back(i);
      return numbers;
    };
    if (sums()) values = block_donor(unit, first, end, name);
    if (unit.count > 0 && !sums()) edit.set("neurons", list(unit.first, unit.count));
    if (unit.expert >= 0 && !sums()) edit.set("experts", list(unit.expert, 1));
  }
  if (at_.layer >= 0) edit.set("layers", std::to_string(at_.layer));
  edit.set("tokens", json::Value::object().set("positions", std::to_string(first) + ":" + std::to_string(end)));
  if (!values) values = donor(unit, name);
  return {std::move(edit), std::move(values)};
}

}  // namespace signalbox::eval
