#include "loaders/synthetic/induction.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/error.h"

namespace signalbox::loaders::synthetic {

namespace {

// Share of attention that keys other than the right one may have together, at most.
constexpr double leak = 1e-6;
// Amplitudes are twice what `leak` needs, for queries and keys shrink with the normed constant.
constexpr double spare = 2;
// The size of what heads write, in that of the embeddings.
constexpr double written = 1.0 / 8;
// The logit of the token that the circuit predicts.
constexpr double predicted_logit = 16;
// A row before a norm of its head: large against the norm's epsilon.
constexpr double before_norm = 50;
// A sink that takes nothing.
constexpr double no_sink = -100;

}  // namespace

Induction::Induction(const CircuitSpec& circuit, const Model& model, double random_size, Reserved& reserved)
    : circuit_(circuit), model_(model), reserved_(reserved), random_size_(random_size) {
  const size_t count = circuit.coded.size();
  n_ = std::max<int64_t>(8, std::bit_width(count - 1));
  if (n_ % 2 == 1) ++n_;
  least_distance_ = count <= 16 ? 4 : count <= size_t{1} << (n_ - 1) ? 2 : 1;
  for (int64_t* code : {&next_, &before_, &own_})
    for (int64_t i = 0; i < n_; ++i) *code = reserved.take();
  previous_.site = circuit.previous;
  match_.site = circuit.match;
  check(previous_, "previous");
  check(match_, "match");
  plan_previous(previous_);
  plan_match(match_);
  for (const Head* head : {&previous_, &match_})
    if (const float clip = attention(*head).clip; clip > 0 && size_of(*head) > double{clip})
      throw Error(circuit.where, "expected a clip_qkv of at least " + std::to_string(size_of(*head)) +
                                     " for the heads' queries and keys, found " + std::to_string(clip));
  if (attention(previous_).qk_norm == Gqa::QkNorm::none && previous_.site.layer > 0)
    throw Error(circuit.where + ".previous.layer",
                "expected 0 in a model without norms of queries and keys (there all tokens have keys of one length), "
                "found " +
                    std::to_string(previous_.site.layer));
  if (circuit.length > match_.reach)
    throw Error(circuit.where, "expected records of at most " + std::to_string(match_.reach) +
                                   " tokens, the reach of the matching head, found a length of " +
                                   std::to_string(circuit.length));
}

const Gqa& Induction::attention(const Head& head) const {
  return std::get<Gqa>(model_.layers[static_cast<size_t>(head.site.layer)].attention);
}

void Induction::check(const Head& head, const char* name) const {
  const std::string where = circuit_.where + "." + name;
  const auto* gqa = std::get_if<Gqa>(&model_.layers[static_cast<size_t>(head.site.layer)].attention);
  if (!gqa)
    throw Error(where, "expected heads with keys of their own, found latent attention in layer " +
                           std::to_string(head.site.layer));
  if (gqa->d_head < n_)
    throw Error(where, "expected a head_dim of at least " + std::to_string(n_) + " for " +
                           std::to_string(circuit_.coded.size()) + " tokens, found " + std::to_string(gqa->d_head));
  if (model_.rope.n_dims() != gqa->d_head)
    throw Error(where, "expected rotary pairs in all of a head, found " + std::to_string(model_.rope.n_dims()) +
                           " dimensions of " + std::to_string(gqa->d_head));
}

// As many of the fastest pairs as make the margin widest.
void Induction::plan_previous(Head& head) {
  const Gqa& gqa = attention(head);
  const auto& frequencies = model_.rope.inv_freq;
  head.kv_head = head.site.head / (gqa.n_heads / gqa.n_kv_heads);
  head.reach = std::min<int64_t>(model_.max_positions, 2048);
  if (gqa.window > 0) head.reach = std::min(head.reach, gqa.window);
  size_t best = 0;
  for (size_t m = 1; m <= frequencies.size(); ++m) {
    double margin = 2;
    for (int64_t distance = 0; distance < head.reach; ++distance) {
      if (distance == 1) continue;
      double sum = 0;
      for (size_t p = 0; p < m; ++p) sum += std::cos(static_cast<double>(distance - 1) * double{frequencies[p]});
      margin = std::min(margin, 1 - sum / static_cast<double>(m));
    }
    if (margin > head.margin) {
      head.margin = margin;
      best = m;
    }
  }
  if (head.margin < 0.01)
    throw Error(circuit_.where + ".previous",
                "expected rotary pairs that tell the previous token from all others within " +
                    std::to_string(head.reach) + " tokens, found a margin of " + std::to_string(head.margin));
  head.amplitude = spare * std::log(static_cast<double>(head.reach) / leak) / head.margin;
  const int64_t half = gqa.d_head / 2;
  for (size_t p = 0; p < best; ++p) {
    const auto pair = static_cast<int64_t>(p);
    const int64_t a = model_.rope.adjacent ? 2 * pair : pair, b = model_.rope.adjacent ? 2 * pair + 1 : pair + half;
    head.pairs.push_back(pair);
    head.queries.push_back(a);
    head.query_reads.push_back(reserved_.constant());
    for (const int64_t at : {a, b}) {
      head.keys.push_back(at);
      head.key_reads.push_back(reserved_.constant());
      const double angle = double{frequencies[p]};  // of one position
      head.key_sizes.push_back((at == a ? std::cos(angle) : std::sin(angle)) / reserved_.constant_size());
    }
  }
  head.query_size = 1 / reserved_.constant_size();
  head.writes = before_;
  head.write_size = written;
}

// Two signs in each of the slowest pairs.
void Induction::plan_match(Head& head) {
  const Gqa& gqa = attention(head);
  const auto& frequencies = model_.rope.inv_freq;
  head.kv_head = head.site.head / (gqa.n_heads / gqa.n_kv_heads);
  const int64_t half = gqa.d_head / 2, used = n_ / 2;
  for (int64_t i = 0; i < used; ++i) {
    const int64_t pair = half - used + i;
    const int64_t a = model_.rope.adjacent ? 2 * pair : pair, b = model_.rope.adjacent ? 2 * pair + 1 : pair + half;
    head.pairs.push_back(pair);
    for (const int64_t at : {a, b}) {
      const auto bit = static_cast<int64_t>(head.queries.size());
      head.queries.push_back(at);
      head.query_reads.push_back(own_ + bit);
      head.keys.push_back(at);
      head.key_reads.push_back(before_ + bit);
      head.key_sizes.push_back(1 / written);
    }
  }
  // At distance D the right key has sum_p 2 cos(D w_p) of n; another code, nearer by, has its differing signs less, and
  // at most as much again as the sine of the fastest angle lets neighbours in a pair count for each other.
  const double n = static_cast<double>(n_), differ = static_cast<double>(least_distance_);
  const auto margin_at = [&](int64_t distance) {
    double sum = 0;
    for (const int64_t pair : head.pairs)
      sum += 2 * std::cos(static_cast<double>(distance) * double{frequencies[static_cast<size_t>(pair)]});
    const double angle = static_cast<double>(distance) * double{frequencies[static_cast<size_t>(head.pairs[0])]};
    return (sum - (n - 2 * differ) - 2 * differ * std::sin(std::min(angle, 1.5))) / n;
  };
  const double enough = differ / n;  // half of what there is at distance 0
  const int64_t most = gqa.window > 0 ? std::min(gqa.window, model_.max_positions) : model_.max_positions;
  while (head.reach < most && margin_at(head.reach + 1) >= enough) ++head.reach;
  head.margin = enough;
  head.amplitude = spare * std::log(static_cast<double>(most) / leak) / head.margin;
  head.writes = next_;
  head.write_size = written;
}

// Of a query's or a key's coordinate after norms, so that the logit of the best key is the amplitude.
double Induction::size_of(const Head& head) const {
  const Gqa& gqa = attention(head);
  const double scale = double{gqa.scale} * double{model_.rope.magnitude} * double{model_.rope.magnitude};
  return std::sqrt(head.amplitude / (static_cast<double>(head.queries.size()) * scale));
}

// Of the norm's weight there, where rows before the norm have the size before_norm. `width`: of all heads.
double Induction::norm_weight(const Head& head, int64_t width) const {
  const Gqa& gqa = attention(head);
  const double used = static_cast<double>(head.queries.size()), d_head = static_cast<double>(gqa.d_head);
  if (gqa.qk_norm == Gqa::QkNorm::per_head) return size_of(head) / std::sqrt(d_head / used);
  // Of all heads together: the planted one outweighs the others, whose part in it differs from token to token.
  const double cols = static_cast<double>(width), own = before_norm * before_norm * used;
  const double rms = std::sqrt((own + (cols - d_head) * random_size_ * random_size_) / cols);
  return size_of(head) * rms / before_norm;
}

std::vector<int> Induction::code(size_t index) const {
  std::vector<int> signs(static_cast<size_t>(n_));
  size_t word = index;
  if (least_distance_ == 4) {  // the extended Hamming code of 8 signs
    const auto bit = [&](int i) { return (index >> i) & 1; };
    word = index | (bit(0) ^ bit(1) ^ bit(2)) << 4 | (bit(0) ^ bit(1) ^ bit(3)) << 5 | (bit(0) ^ bit(2) ^ bit(3)) << 6 |
           (bit(1) ^ bit(2) ^ bit(3)) << 7;
  } else if (least_distance_ == 2) {  // an even number of ones
    word = index | static_cast<size_t>(std::popcount(index) & 1) << (n_ - 1);
  }
  for (int64_t i = 0; i < n_; ++i) signs[static_cast<size_t>(i)] = (word >> i) & 1 ? 1 : -1;
  return signs;
}

void Induction::code_rows(int64_t first, int64_t n, int64_t cols, int64_t dim, double size, bool alone,
                          float* values) const {
  for (size_t i = 0; i < circuit_.coded.size(); ++i) {
    const int64_t token = circuit_.coded[i];
    if (token < first || token >= first + n) continue;
    float* row = values + (token - first) * cols;
    if (alone) std::fill_n(row, cols, 0.0f);
    const std::vector<int> signs = code(i);
    for (int64_t b = 0; b < n_; ++b) row[dim + b] = static_cast<float>(size * signs[static_cast<size_t>(b)]);
  }
}

void Induction::apply(const TensorPlace& slot, int64_t first, int64_t n, float* values) const {
  if (slot.id.role == Role::embed) code_rows(first, n, slot.cols, own_, reserved_.amplitude(), false, values);
  if (slot.id.role == Role::lm_head)
    code_rows(first, n, slot.cols, next_, predicted_logit / (static_cast<double>(n_) * written), true, values);
  if (slot.id.layer == previous_.site.layer) apply_head(previous_, slot, first, n, values);
  if (slot.id.layer == match_.site.layer) apply_head(match_, slot, first, n, values);
}

void Induction::apply_head(const Head& head, const TensorPlace& slot, int64_t first, int64_t n, float* values) const {
  const Gqa& gqa = attention(head);
  const int64_t d = gqa.d_head, cols = slot.cols;
  const double gain = gqa.qk_norm == Gqa::QkNorm::none ? size_of(head) : before_norm;
  const auto row = [&](int64_t r) { return values + (r - first) * cols; };
  const auto own_rows = [&](int64_t of_head, auto&& visit) {
    for (int64_t i = 0; i < d; ++i)
      if (const int64_t r = of_head * d + i; r >= first && r < first + n) visit(i, row(r));
  };
  // Where norms of heads share their weights, the coordinates belong to the planted head alone.
  const auto clear_others = [&](const std::vector<int64_t>& coordinates) {
    if (gqa.qk_norm != Gqa::QkNorm::per_head) return;
    for (int64_t r = first; r < first + n; ++r)
      if (std::count(coordinates.begin(), coordinates.end(), r % d) > 0) std::fill_n(row(r), cols, 0.0f);
  };
  const auto set_norm = [&](int64_t of_head) {
    const bool whole = gqa.qk_norm == Gqa::QkNorm::whole;
    const auto factor = static_cast<float>(norm_weight(head, cols));
    const int64_t begin = whole ? of_head * d : 0;
    // The others keep the size that they have without the planted head.
    if (whole)
      for (int64_t i = 0; i < cols; ++i)
        if (i < begin || i >= begin + d) values[i] *= factor * static_cast<float>(before_norm / size_of(head));
    for (const int64_t i : head.keys) values[begin + i] = factor;
  };
  switch (slot.id.role) {
    case Role::q:
      clear_others(head.keys);
      own_rows(head.site.head, [&](int64_t i, float* to) {
        std::fill_n(to, cols, 0.0f);
        for (size_t c = 0; c < head.queries.size(); ++c)
          if (head.queries[c] == i) to[head.query_reads[c]] = static_cast<float>(gain * head.query_size);
      });
      return;
    case Role::k:
      clear_others(head.keys);
      own_rows(head.kv_head, [&](int64_t i, float* to) {
        std::fill_n(to, cols, 0.0f);
        for (size_t c = 0; c < head.keys.size(); ++c)
          if (head.keys[c] == i) to[head.key_reads[c]] = static_cast<float>(gain * head.key_sizes[c]);
      });
      return;
    case Role::v:
      own_rows(head.kv_head, [&](int64_t i, float* to) {
        std::fill_n(to, cols, 0.0f);
        if (i < n_) to[own_ + i] = 1;
      });
      return;
    case Role::q_bias: std::fill_n(values + head.site.head * d, d, 0.0f); break;
    case Role::k_bias: std::fill_n(values + head.kv_head * d, d, 0.0f); break;
    case Role::v_bias: std::fill_n(values + head.kv_head * d, d, 0.0f); return;
    case Role::q_norm: set_norm(head.site.head); return;
    case Role::k_norm: set_norm(head.kv_head); return;
    case Role::sinks: values[head.site.head] = static_cast<float>(no_sink); return;
    case Role::o:
      for (int64_t r = first; r < first + n; ++r) {
        std::fill_n(row(r) + head.site.head * d, d, 0.0f);
        if (const int64_t bit = r - head.writes; bit >= 0 && bit < n_)
          row(r)[head.site.head * d + bit] = static_cast<float>(head.write_size * reserved_.amplitude());
      }
      return;
    default: return;
  }
  if (gqa.qk_norm == Gqa::QkNorm::per_head)  // biases of queries and keys, on the coordinates that are taken
    for (int64_t i = 0; i < cols; ++i)
      if (std::count(head.keys.begin(), head.keys.end(), i % d) > 0) values[i] = 0;
}

json::Value Induction::truth() const {
  const auto name = [](const Head& head) {
    return "L" + std::to_string(head.site.layer) + ".H" + std::to_string(head.site.head);
  };
  json::Value nodes = json::Value::array(), edges = json::Value::array(), tokens = json::Value::array();
  for (const auto& [head, role] : {std::pair(&previous_, "previous token"), std::pair(&match_, "induction")}) {
    json::Value node = json::Value::object();
    node.set("id", name(*head)).set("layer", head->site.layer).set("head", head->site.head).set("role", role);
    node.set("amplitude", head->amplitude).set("margin", head->margin).set("reach", head->reach);
    node.set("pairs", static_cast<int64_t>(head->pairs.size()));
    node.set("writes_from", head->writes).set("writes", n_);
    nodes.push_back(std::move(node));
  }
  const auto edge = [&](const std::string& source, const std::string& target, const char* input) {
    json::Value made = json::Value::object();
    made.set("source", source).set("target", target).set("kind", "feeds");
    if (*input) made.set("input", input);
    edges.push_back(std::move(made));
  };
  edge("embed", name(previous_), "v");
  edge("embed", name(match_), "q");
  edge(name(previous_), name(match_), "k");
  edge("embed", name(match_), "v");
  edge(name(match_), "logits", "");
  for (const int32_t token : circuit_.coded) tokens.push_back(token);
  json::Value out = json::Value::object();
  out.set("kind", kind_name(circuit_.kind)).set("nodes", std::move(nodes)).set("edges", std::move(edges));
  out.set("tokens", std::move(tokens)).set("code_length", n_).set("code_distance", least_distance_);
  out.set("code_dimensions", own_).set("previous_dimensions", before_).set("next_dimensions", next_);
  return out;
}

}  // namespace signalbox::loaders::synthetic
