#include "eval/routing/trace_diff.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <utility>

#include "base/no_number.h"
#include "kernels/logits.h"

namespace signalbox::eval {

namespace {

// The order in which a forward makes what a trace tensor holds: layer, then position in points.def.
struct Order {
  int32_t layer = -1;
  int32_t point = 0;
  std::string name;      // of the tensor
  std::string label;     // for people: with the layer
  int32_t stacked = -1;  // index in the L dimension of a router tensor
  bool operator<(const Order& other) const {
    const auto rank = [](const Order& o) {
      // It looks at what all layers made, and at the token that was chosen.
      if (o.point == static_cast<int32_t>(Point::expert_direct)) return std::make_pair(INT32_MAX, n_points + o.layer);
      const bool last = o.layer < 0 && o.point > 0;  // final.normed, logits
      return std::make_pair(last ? INT32_MAX : o.layer, o.point);
    };
    return rank(*this) < rank(other);
  }
};

// The places that both traces recorded, in order of execution.
std::vector<Order> common_places(const TraceReader& a, const TraceReader& b) {
  std::vector<Order> places;
  for (const std::string& name : a.tensor_names()) {
    if (!b.has(name)) continue;
    if (name == "router.original_ids") continue;
    if (const auto point = find_point(name); point && point_info(*point).stacked) {
      for (size_t i = 0; i < a.layers().size(); ++i) {
        const int32_t layer = a.layers()[i];
        if (b.layer_index(layer))
          places.push_back(
              {layer, static_cast<int32_t>(*point), name, point_name(*point, layer), static_cast<int32_t>(i)});
      }
    } else if (const auto at = parse_point(name)) {
      places.push_back({at->layer, static_cast<int32_t>(at->point), name, name, -1});
    }
  }
  std::sort(places.begin(), places.end());
  return places;
}

bool of_positions(const Order& place) {
  const auto at = parse_point(place.name);
  return at && point_info(at->point).positions();
}

// Rows of a sample in blocks, so that memory does not grow with the traces.
constexpr int64_t rows_at_once = 256;

void compare_floats(const TraceReader& a, const TraceReader& b, const Order& place, TraceReader::Rows rows_a,
                    TraceReader::Rows rows_b, const std::string& sample, double tolerance, TraceComparison& out,
                    int64_t& first_row) {
  const int64_t width_a = a.tensor_width(place.name), width_b = b.tensor_width(place.name);
  int64_t from_a = 0, from_b = 0, width = width_a;
  int64_t n_parts = 1;  // heads of a pattern, whose rows are as wide as the longest sample of their trace
  if (place.stacked >= 0) {
    width = width_a / static_cast<int64_t>(a.layers().size());
    from_a = width * place.stacked;
    from_b = width * *b.layer_index(place.layer);
    if (width != width_b / static_cast<int64_t>(b.layers().size())) return;
  } else if (of_positions(place) && a.tensor_shape(place.name)[1] == b.tensor_shape(place.name)[1]) {
    n_parts = a.tensor_shape(place.name)[1];
  } else if (width_a != width_b) {
    return;
  }
  const int64_t part_a = width / n_parts, part_b = n_parts > 1 ? width_b / n_parts : part_a;
  const bool logits = place.name == "logits";
  for (int64_t begin = 0; begin < rows_a.size(); begin += rows_at_once) {
    const int64_t n = std::min(rows_at_once, rows_a.size() - begin);
    const std::vector<float> va = a.floats(place.name, {rows_a.begin + begin, rows_a.begin + begin + n});
    const std::vector<float> vb = b.floats(place.name, {rows_b.begin + begin, rows_b.begin + begin + n});
    for (int64_t r = 0; r < n; ++r) {
      const float* pa = va.data() + r * width_a + from_a;
      const float* pb = vb.data() + r * width_b + from_b;
      if (logits) {
        out.kl += kl_divergence({pa, static_cast<size_t>(width)}, {pb, static_cast<size_t>(width)});
        out.same_top += std::max_element(pa, pa + width) - pa == std::max_element(pb, pb + width) - pb;
        ++out.logit_tokens;
      }
      for (int64_t part = 0; part < n_parts; ++part) {
        for (int64_t i = 0; i < std::min(part_a, part_b); ++i) {
          const float xa = pa[part * part_a + i], xb = pb[part * part_b + i];
          const double difference = std::abs(static_cast<double>(xa) - xb);
          const bool differs = !(difference <= tolerance) && !(std::isnan(xa) && std::isnan(xb)) && xa != xb;
          if (logits) out.max_logit_difference = std::max(out.max_logit_difference, difference);
          if (differs && begin + r < first_row) {
            first_row = begin + r;
            out.first = TraceDifference{place.label, sample, begin + r, part * part_a + i, xa, xb};
          }
        }
      }
    }
  }
}

// The experts of a route in slot order.
std::vector<int32_t> used(const TokenRoute& route) {
  std::vector<int32_t> ids(route.ids.begin(), route.ids.end());
  std::erase(ids, -1);
  return ids;
}

void compare_ids(const TraceReader& a, const TraceReader& b, const Order& place, TraceReader::Rows rows_a,
                 TraceReader::Rows rows_b, const std::string& sample, TraceComparison& out, int64_t& first_row) {
  const int64_t ka = a.n_slots(), kb = b.n_slots(), la = static_cast<int64_t>(a.layers().size()),
                lb = static_cast<int64_t>(b.layers().size()), layer_b = *b.layer_index(place.layer);
  auto found = std::find_if(out.layers.begin(), out.layers.end(),
                            [&](const LayerAgreement& layer) { return layer.layer == place.layer; });
  if (found == out.layers.end()) found = out.layers.insert(out.layers.end(), {place.layer, 0, 0, 0, 0, 0});
  for (int64_t begin = 0; begin < rows_a.size(); begin += rows_at_once) {
    const int64_t n = std::min(rows_at_once, rows_a.size() - begin);
    const std::vector<int32_t> va = a.ids({rows_a.begin + begin, rows_a.begin + begin + n});
    const std::vector<int32_t> vb = b.ids({rows_b.begin + begin, rows_b.begin + begin + n});
    const Routes routes_a{n, la, ka, va, {}}, routes_b{n, lb, kb, vb, {}};
    for (int64_t r = 0; r < n; ++r) {
      const std::vector<int32_t> ia = used(routes_a.at(r, place.stacked)), ib = used(routes_b.at(r, layer_b));
      const RoutePair pair = compare_routes({ia, {}}, {ib, {}});
      if (pair.empty()) continue;
      const bool same_order = ia == ib;
      if (!same_order && begin + r < first_row) {
        first_row = begin + r;
        size_t i = 0;
        while (i < ia.size() && i < ib.size() && ia[i] == ib[i]) ++i;
        out.first = TraceDifference{place.label,
                                    sample,
                                    begin + r,
                                    static_cast<int64_t>(i),
                                    i < ia.size() ? static_cast<double>(ia[i]) : -1.0,
                                    i < ib.size() ? static_cast<double>(ib[i]) : -1.0};
      }
      ++found->tokens;
      found->same_route += same_order;
      found->same_experts += pair.same_experts();
      found->slots += std::max(pair.mine, pair.baseline);
      found->common += pair.common;
    }
  }
}

// A share over no token is undefined.
double share(int64_t part, int64_t of) {
  return of > 0 ? static_cast<double>(part) / static_cast<double>(of) : no_number;
}

std::string percent(double share) {
  if (std::isnan(share)) return "-  ";
  char text[32];
  std::snprintf(text, sizeof text, "%.2f %%", 100 * share);
  return text;
}

}  // namespace

TraceComparison compare_traces(const TraceReader& a, const TraceReader& b, double tolerance) {
  TraceComparison out;
  const std::vector<Order> places = common_places(a, b);
  std::map<std::string, int64_t> seen;
  for (int64_t s = 0; s < a.n_samples(); ++s) {
    const std::string& id = a.sample_ids()[s];
    const auto match = b.find_sample(id, seen[id]++);
    if (!match) {
      ++out.only_a;
      continue;
    }
    TraceReader::Rows rows_a = a.rows(s), rows_b = b.rows(*match);
    // Compared as far as the tokens are the same: after that, different is what they should be.
    const std::vector<int32_t> tokens_a = a.tokens(rows_a), tokens_b = b.tokens(rows_b);
    const size_t shorter = std::min(tokens_a.size(), tokens_b.size());
    const int64_t same =
        std::mismatch(tokens_a.begin(), tokens_a.begin() + shorter, tokens_b.begin()).first - tokens_a.begin();
    out.other_tokens += same < static_cast<int64_t>(std::max(tokens_a.size(), tokens_b.size()));
    rows_a.end = rows_a.begin + same;
    rows_b.end = rows_b.begin + same;
    ++out.samples;
    out.tokens += same;
    // The first token that differs anywhere; within it, the earliest place.
    const bool decided = out.first.has_value();
    std::optional<TraceDifference> kept = out.first;
    int64_t first_row = same;
    for (const Order& place : places) {
      if (place.name == "router.ids") {
        compare_ids(a, b, place, rows_a, rows_b, id, out, first_row);
      } else {
        compare_floats(a, b, place, rows_a, rows_b, id, tolerance, out, first_row);
      }
    }
    if (decided) out.first = kept;
  }
  seen.clear();
  for (int64_t s = 0; s < b.n_samples(); ++s) {
    const std::string& id = b.sample_ids()[s];
    out.only_b += !a.find_sample(id, seen[id]++).has_value();
  }
  return out;
}

json::Value comparison_json(const TraceComparison& c) {
  json::Value out = json::Value::object(), layers = json::Value::array();
  out.set("samples", c.samples)
      .set("tokens", c.tokens)
      .set("samples_only_in_a", c.only_a)
      .set("samples_only_in_b", c.only_b);
  out.set("samples_with_other_tokens", c.other_tokens);
  if (c.first) {
    json::Value first = json::Value::object();
    first.set("point", c.first->point).set("sample", c.first->sample).set("position", c.first->position);
    first.set("index", c.first->index).set("a", c.first->a).set("b", c.first->b);
    out.set("first_divergence", first);
  } else {
    out.set("first_divergence", nullptr);
  }
  for (const LayerAgreement& layer : c.layers) {
    json::Value line = json::Value::object();
    line.set("layer", int64_t{layer.layer})
        .set("tokens", layer.tokens)
        .set("same_route", share(layer.same_route, layer.tokens))
        .set("same_experts", share(layer.same_experts, layer.tokens))
        .set("common_slots", share(layer.common, layer.slots));
    layers.push_back(line);
  }
  out.set("expert_agreement", layers);
  if (c.logit_tokens > 0) {
    json::Value logits = json::Value::object();
    logits.set("tokens", c.logit_tokens)
        .set("mean_kl", c.kl / static_cast<double>(c.logit_tokens))
        .set("top1_agreement", static_cast<double>(c.same_top) / static_cast<double>(c.logit_tokens))
        .set("max_difference", c.max_logit_difference);
    out.set("logits", logits);
  } else {
    out.set("logits", nullptr);
  }
  return out;
}

std::string comparison_text(const TraceComparison& c) {
  std::string text;
  char line[256];
  auto add = [&](const char* format, auto... values) {
    std::snprintf(line, sizeof line, format, values...);
    text += line;
  };
  add("%ld samples, %ld tokens compared", static_cast<long>(c.samples), static_cast<long>(c.tokens));
  if (c.other_tokens > 0)
    add(" (%ld samples part in their tokens; compared up to there)", static_cast<long>(c.other_tokens));
  if (c.only_a + c.only_b > 0)
    add("; %ld samples only in A, %ld only in B", static_cast<long>(c.only_a), static_cast<long>(c.only_b));
  text += "\n";
  if (c.first) {
    add("First divergence: %s, sample %s, position %ld, element %ld: %.9g in A, %.9g in B\n", c.first->point.c_str(),
        c.first->sample.c_str(), static_cast<long>(c.first->position), static_cast<long>(c.first->index), c.first->a,
        c.first->b);
  } else {
    text += "No divergence at any point that both recorded.\n";
  }
  if (!c.layers.empty()) {
    text += "\nlayer   same route   same experts   common slots\n";
    for (const LayerAgreement& layer : c.layers)
      add("%5d   %11s   %13s   %13s\n", layer.layer, percent(share(layer.same_route, layer.tokens)).c_str(),
          percent(share(layer.same_experts, layer.tokens)).c_str(), percent(share(layer.common, layer.slots)).c_str());
  }
  if (c.logit_tokens > 0)
    add("\nLogits: mean KL(A || B) %.6g nats, top-1 agreement %.2f %%, largest difference %.6g\n",
        c.kl / static_cast<double>(c.logit_tokens),
        100 * static_cast<double>(c.same_top) / static_cast<double>(c.logit_tokens), c.max_logit_difference);
  return text;
}

}  // namespace signalbox::eval
